import pytest

from tff_fedsynth.payload.spec import SyntheticSpec
from tff_fedsynth.payload.spec import SyntheticSpecError


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(steps=0), 'steps must be at least 1'),
    (dict(batch_size=0), 'batch_size must be at least 1'),
    (dict(bits=5), 'bits must be one of 32, 16, 8, 4, 2, found 5'),
    (dict(resolution=9), 'resolution must be between 1 and 6'),
  ],
)
def test_refuses_fields_out_of_range(fields, message):
  with pytest.raises(SyntheticSpecError, match=message):
    SyntheticSpec((6, 6, 1), (5,), **fields)


def test_refuses_a_resolution_for_inputs_that_are_no_images():
  with pytest.raises(SyntheticSpecError, match='Leave resolution unset'):
    SyntheticSpec((36,), (5,), resolution=3)
