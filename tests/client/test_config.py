"""Settings of learning that follow from others."""

import pytest

from tff_fedsynth import SynthesisConfig
from tff_fedsynth.payload.spec import SyntheticSpec


@pytest.mark.parametrize(
  'steps, batch_size, iterations',
  [(1, 1, 40), (1, 6, 40), (1, 7, 35), (1, 11, 22), (2, 6, 20), (1, 32, 14)],
)
def test_iterations_follow_the_examples(steps, batch_size, iterations):
  spec = SyntheticSpec(
    input_shape=(4,), label_shape=(2,), steps=steps, batch_size=batch_size
  )
  assert SynthesisConfig(spec).iterations == iterations
  assert SynthesisConfig(spec, iterations=3).iterations == 3


@pytest.mark.parametrize(
  'batch_size, length, iterations',
  [(1, 5, 40), (1, 13, 40), (1, 20, 26), (2, 17, 15), (8, 20, 14)],
)
def test_iterations_on_text_follow_the_positions(
  batch_size, length, iterations
):
  spec = SyntheticSpec(
    input_shape=(length, 4),
    label_shape=(length, 9),
    input_form='token_queries',
    label_form='signed',
    batch_size=batch_size,
  )
  assert SynthesisConfig(spec).iterations == iterations
  assert SynthesisConfig(spec, iterations=50).iterations == 50
