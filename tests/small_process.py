"""A FedSynth process for a small classifier, clients for it, and their work."""

import functools

import conftest
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import build_fedsynth
from tff_fedsynth import SynthesisConfig
from tff_fedsynth import SyntheticSpec
from tff_fedsynth.client import synthesis

SGD = tff.learning.optimizers.build_sgdm
MODEL = conftest.make_classifier()
WEIGHTS = tf.nest.map_structure(tf.constant, MODEL.initial_weights)
# 4 examples: 4 * (3 + 2 + 16) + 8 bytes, the model has 4 * 53.
SPEC = SyntheticSpec((6,), (3,), batch_size=4, bits=4)
CONFIG = SynthesisConfig(SPEC, iterations=30)


def build(config=CONFIG, **kwargs):
  kwargs.setdefault('client_optimizer_fn', SGD(0.1))
  return build_fedsynth(MODEL, config=config, **kwargs)


@functools.cache
def process():
  """The process of `CONFIG`; building and compiling it takes seconds."""
  return build()


def clients(count=3):
  return [conftest.make_dataset(MODEL, seed=s) for s in range(count)]


def nan_client():
  return conftest.make_dataset(MODEL).map(lambda x, y: (x * np.nan, y))


def trainable(process, state):
  return process.get_model_weights(state).trainable


def moved(process, clients):
  """The update of a round, in one vector, and the metrics."""
  state = process.initialize()
  output = process.next(state, clients)
  before, after = (
    np.concatenate([np.ravel(w) for w in trainable(process, s)])
    for s in (state, output.state)
  )
  return before - after, output.metrics


@functools.cache
def synthesize(config, rate=None):
  """The work of one client as a traced function of its data set."""

  @tf.function
  def run(dataset):
    hparams = None if rate is None else {'learning_rate': tf.constant(rate)}
    return synthesis.synthesize(
      MODEL,
      WEIGHTS,
      dataset,
      config=config,
      client_optimizer=SGD(0.1),
      client_hparams=hparams,
      synthesis_hparams=None,
      seed=tf.constant([0, 0]),
    )

  return run
