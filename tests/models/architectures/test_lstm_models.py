import pytest

from tff_fedsynth.models.architectures import lstm_models


@pytest.mark.parametrize(
  'make, parameters',
  [
    # Of tff.simulation.baselines' models, counted by Keras.
    (lambda: lstm_models.character_lstm(90), 820_522),
    (lambda: lstm_models.word_lstm(10_004), 4_050_748),
  ],
)
def test_sizes_are_those_of_tff(make, parameters):
  assert make().count_params() == parameters
