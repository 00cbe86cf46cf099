"""A FedSynth process for a small classifier, and clients for it."""

import conftest
import numpy as np
import tensorflow_federated as tff

from tff_fedsynth import build_fedsynth
from tff_fedsynth import SynthesisConfig
from tff_fedsynth import SyntheticSpec

SGD = tff.learning.optimizers.build_sgdm
MODEL = conftest.make_classifier()
# 4 examples: 4 * (3 + 2 + 16) + 8 bytes, the model has 4 * 53.
SPEC = SyntheticSpec((6,), (3,), batch_size=4, bits=4)
CONFIG = SynthesisConfig(SPEC, iterations=30)


def build(config=CONFIG, **kwargs):
  kwargs.setdefault('client_optimizer_fn', SGD(0.1))
  return build_fedsynth(MODEL, config=config, **kwargs)


def clients(count=3):
  return [conftest.make_dataset(MODEL, seed=s) for s in range(count)]


def nan_client():
  return conftest.make_dataset(MODEL).map(lambda x, y: (x * np.nan, y))


def trainable(process, state):
  return process.get_model_weights(state).trainable
