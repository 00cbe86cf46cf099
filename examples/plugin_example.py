"""An own task, model, compressor and objective; the package stays as it is.

  fedsynth-train --plugin=examples/plugin_example.py --task=spirals \
      --model=spiral_mlp --method=count_sketch --compression_ratio=4 \
      --output_dir=DIR

Importing this file puts them into the registries of the package, which is all
that a plugin does. Leave out what you do not need.
"""

import collections
import dataclasses

import numpy as np
import tensorflow as tf

from tff_fedsynth import options
from tff_fedsynth import tasks
from tff_fedsynth import updates
from tff_fedsynth.client import objectives
from tff_fedsynth.compression import codec
from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.tasks.federated import task as task_lib

_CLASSES = 3
_CLIENTS = 20


# The data. Each option becomes a flag, here --spiral_noise, with its range and
# help. Types must be no strings: no `from __future__ import annotations`.
@dataclasses.dataclass(frozen=True)
class SpiralOptions:
  """Flags of the task."""

  spiral_noise: float = options.option(
    0.05,
    'Sets the standard deviation of the noise of points.',
    group='Data',  # The heading in --help.
    minimum=0,
    maximum=1,
  )

  def __post_init__(self):
    options.check(self)


def _spirals(size: int, noise: float, random) -> tuple[np.ndarray, np.ndarray]:
  """Points on the arms of a spiral, and which arm each is on."""
  y = random.randint(_CLASSES, size=size).astype(np.int32)
  radius = random.uniform(0.1, 1.0, size)
  angle = 3.0 * radius + 2.0 * np.pi / _CLASSES * y
  x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
  x += noise * random.normal(size=x.shape)
  return x.astype(np.float32), y


def build_spirals(*, seed: int, **fields) -> task_lib.Task:
  """Builds the task; `fields` are its options, those that were given."""
  noise = SpiralOptions(**fields).spiral_noise
  x, y = _spirals(600, noise, np.random.RandomState(seed))
  test = _spirals(300, noise, np.random.RandomState(0))
  rows_of_clients = np.split(np.arange(len(y)), _CLIENTS)
  return task_lib.Task(
    name='spirals',
    # Any ClientData of TFF will do.
    train_data=task_lib.client_data(x, y, rows_of_clients),
    test_data=tf.data.Dataset.from_tensor_slices(test).batch(100),
    # From a client's rows to what the model takes.
    preprocess=lambda rows: (rows['x'], rows['y']),
    models=MODELS,
  )


# The models of the task, by name: functions of a seed. They output logits.
def spiral_mlp(seed: int, units: int = 32) -> tf.keras.Model:
  """One hidden layer; initial weights depend on the seed alone."""
  glorot = tf.keras.initializers.GlorotUniform
  hidden = tf.keras.layers.Dense(units, 'relu', kernel_initializer=glorot(seed))
  output = tf.keras.layers.Dense(_CLASSES, kernel_initializer=glorot(seed + 1))
  return tf.keras.Sequential([tf.keras.Input([2]), hidden, output])


MODELS = {
  'spiral_mlp': spiral_mlp,
  'wide_spiral_mlp': lambda seed: spiral_mlp(seed, units=128),
}
tasks.TASKS['spirals'] = tasks.TaskPlugin(
  build_spirals, (options.Group(SpiralOptions),), models=MODELS
)


# A compressor. A budget decides the first field of a `SizedCodec`; flags of the
# others begin with the name of this file: --plugin_example_shrinkage.
@dataclasses.dataclass(frozen=True)
class CountSketch(codec.SizedCodec):
  """Sends sums of values with random signs (Charikar et al. 2002)."""

  buckets: int = options.limited(minimum=1)
  shrinkage: float = options.option(
    1.0,
    'Multiplies decoded values; 1 is unbiased, less has less error.',
    above=0,
    maximum=1,
  )

  def __post_init__(self):
    options.check(self)

  def _draw(self, seed, size):
    """The bucket and the sign of each value, the same on clients and server."""
    buckets, signs = (
      tf.random.stateless_uniform(
        [size], codec.stateless_seed(seed, i), 0, maximum, tf.int32
      )
      for i, maximum in enumerate([self.buckets, 2])
    )
    return buckets, tf.cast(2 * signs - 1, tf.float32)

  def _encode(self, values, seed):
    flat = codec.flatten(values)
    buckets, signs = self._draw(seed, flat.shape[0])
    sums = tf.math.unsorted_segment_sum(signs * flat, buckets, self.buckets)
    return collections.OrderedDict(sums=sums, seed=seed)

  def _decode(self, message, shapes):
    buckets, signs = self._draw(message['seed'], sum(codec.sizes(shapes)))
    flat = self.shrinkage * signs * tf.gather(message['sums'], buckets)
    return codec.unflatten(flat, shapes)

  def _message_bytes(self, shapes):
    return codec.FLOAT_BYTES * self.buckets + codec.SEED_BYTES

  def _describe(self, shapes):
    return f'{sum(codec.sizes(shapes))} values in {self.buckets} buckets'


registry.METHODS['count_sketch'] = registry.codec(CountSketch)


# An objective of FedSynth: --method=fedsynth --objective=layerwise_l2.
class LayerwiseL2(objectives.Objective):
  """The mean over tensors of |update - target|^2 / |target|^2."""

  def value(self, update, target, batch_loss):
    del batch_loss
    error = updates.relative_squared_error
    errors = [error((u,), (t,)) for u, t in zip(update, target)]
    return tf.add_n(errors) / len(errors)


objectives.OBJECTIVES['layerwise_l2'] = LayerwiseL2()
