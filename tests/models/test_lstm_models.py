import pytest

from tff_fedsynth.models import architectures


@pytest.mark.parametrize(
  'make, parameters',
  [
    # Of tff.simulation.baselines' models, counted by Keras.
    (lambda: architectures.character_lstm(90), 820_522),
    (lambda: architectures.word_lstm(10_004), 4_050_748),
  ],
)
def test_sizes_are_those_of_tff(make, parameters):
  assert make().count_params() == parameters
