"""Small Keras models, data for them, and what TFF makes of both."""

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import build_fedsynth
from tff_fedsynth import build_spec
from tff_fedsynth import SynthesisConfig

keras = tf.keras
SGD = tff.learning.optimizers.build_sgdm
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def sequential(*layers, shape=(4,), dtype=None):
  return keras.Sequential([keras.Input(shape, dtype=dtype), *layers])


def data(shape, count=33, classes=3, seed=0):
  """Inputs that tell their class."""
  random = np.random.RandomState(seed)
  means = random.normal(size=(classes, *shape))
  y = random.randint(0, classes, count).astype(np.int32)
  x = means[y] + 0.3 * random.normal(size=(count, *shape))
  return x.astype(np.float32), y


def dataset(x, y, batch_size=32):
  return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)


def in_graph(function, *arrays):
  """What a function of tensors gives inside a graph, as in TFF."""
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    return session.run(tf.function(function)(*map(tf.constant, arrays)))


def loss_of_examples(model, x, y):
  return float(SPARSE(y, model(x)))


def binary(y):
  return (y > 0).astype(np.int32)


def evaluate(model, batches):
  computation = tff.learning.algorithms.build_fed_eval(model)
  metrics = computation.next(computation.initialize(), [batches]).metrics
  return metrics['client_work']['eval']['current_round_metrics']


def train(model, datasets, rounds=1, spec=None, **config):
  """Metrics of the last round of FedSynth, and its weights."""
  spec = spec or build_spec(model, batch_size=2, bits=4)
  config.setdefault('iterations', 30)
  process = build_fedsynth(
    model, SGD(0.1), config=SynthesisConfig(spec, **config)
  )
  state = process.initialize()
  for _ in range(rounds):
    output = process.next(state, datasets)
    state = output.state
  assert output.metrics['finalizer']['rejected_clients'] == 0
  return output.metrics['client_work'], process.get_model_weights(state)
