"""Measures the mean of several clients: what their errors have in common remains.

Errors that clients make each for itself average out, so that the mean of what is
decoded comes nearer to the mean of the real updates than one client's does to its
own. A bias that they share stays.
"""

from collections.abc import Sequence
import statistics

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import updates
from tff_fedsynth.client import local_training
from tff_fedsynth.client.config import SynthesisConfig
from tff_fedsynth.experiments.settings.setup import Setup
from tff_fedsynth.models import keras_model
from tff_fedsynth.models.weights import model_weights_type


def _build_training(setup: Setup) -> tff.Computation:
  """From weights and batches to a client's real update."""
  model = setup.model
  data_type = tff.types.SequenceType(
    tff.types.tensorflow_to_type(model.input_spec)
  )

  @tff.tensorflow.computation(model_weights_type(model), data_type)
  def train(weights, dataset):
    @tf.function
    def run(*weights):
      # As in the work of a client, for models with dropout.
      seed = tf.constant([setup.settings.seed, 0])
      seed = local_training.client_seed(dataset, seed)
      seeded = keras_model.seeded(model, seed)
      return local_training.local_training(
        seeded, weights, dataset, setup.client_optimizer
      ).update

    return run(weights.trainable, weights.non_trainable)

  return train


def _build_decoding(setup: Setup, config: SynthesisConfig) -> tff.Computation:
  """From a message and weights to the update that the server decodes."""
  model = setup.model

  def decode(message, weights):
    @tf.function
    def run(message, *weights):
      return config.payload.decode(message, model, weights).update

    return run(message, weights.trainable, weights.non_trainable)

  return tff.tensorflow.computation(decode)


class Means:
  """The means of some clients of each round, with several configs.

  Args:
    setup: Of the run; its method plays no part.
    configs: By which clients made their messages.
  """

  def __init__(self, setup: Setup, configs: Sequence[SynthesisConfig]):
    self._train = _build_training(setup)
    self._decode = [_build_decoding(setup, config) for config in configs]
    self._sums = [{} for _ in configs]

  def add(self, round_num: int, weights, data, results) -> None:
    """Adds a client, weighted by its examples.

    Args:
      round_num: In which round.
      weights: What the client got.
      data: Its batches.
      results: What it made of them, a `SynthesisResult` of each config.
    """
    real = self._train(weights, data)
    for sums, decode, result in zip(self._sums, self._decode, results):
      examples = int(result.num_examples)
      pair = [
        [examples * np.asarray(part) for part in update]
        for update in (decode(result.payload, weights), real)
      ]
      if round_num in sums:
        pair = tf.nest.map_structure(np.add, sums[round_num], pair)
      sums[round_num] = pair

  def cosine(self, i: int) -> float:
    """Of both means of a round, averaged over rounds."""
    return statistics.mean(
      float(updates.cosine(*pair)) for pair in self._sums[i].values()
    )
