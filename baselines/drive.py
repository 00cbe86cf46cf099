"""DRIVE: a random rotation and one bit a coordinate (Vargaftik et al. 2021).

arXiv 2105.08339, algorithm 1, with the Hadamard transform of its section 6. To
reach any budget, the bits of a random subset of the rotated coordinates are
sent; the scales below are those of the paper, over that subset.
"""

import collections
import dataclasses
import math

import tensorflow as tf

from tff_fedsynth import options
from tff_fedsynth.compression import codec
from tff_fedsynth.compression import quantization
from tff_fedsynth.compression import rotation


@dataclasses.dataclass(frozen=True)
class Drive(codec.SizedCodec):
  """Sends signs of coordinates of the randomly rotated update, and one scale.

  With y the rotated update of n coordinates (a little padding included) and S
  the m coordinates whose signs are sent, the decoded update is the inverse
  rotation of scale * sign(y) on S and zero elsewhere.

  The `unbiased` scale |x|^2 / sum_S |y| makes its inner product with the update
  x exactly |x|^2 (theorem 3); with a uniformly random rotation that makes it
  unbiased. The transforms of `rotation` come close, but for an update of which
  a few of many values are all: their smaller ones are lost to a part. Its
  squared error is about
  (pi n / 2 m - 1) |x|^2. The `mse` scale sum_S |y| / m has the least squared
  error on S, about (1 - 2 m / pi n) |x|^2, and shrinks the update by as much.

  Attributes:
    kept_signs: Number m of rotated coordinates.
    scale: Which of the two scales is sent.
  """

  kept_signs: int = options.limited(minimum=1)
  scale: str = options.option(
    'unbiased',
    'Scales decoded updates to be unbiased, or to have the least error.',
    ('unbiased', 'mse'),
  )

  def __post_init__(self):
    options.check(self)

  def _encode(self, values, seed):
    squared_norm, kept = rotation.sample(values, seed, self.kept_signs)
    length = tf.reduce_sum(tf.abs(kept))
    if self.scale == 'unbiased':
      scale = tf.math.divide_no_nan(squared_norm, length)
    else:
      scale = length / self.kept_signs
    return collections.OrderedDict(
      signs=quantization.pack(tf.cast(kept >= 0, tf.int32), 1),
      scale=scale,
      seed=seed,
    )

  def _decode(self, message, shapes):
    bits = quantization.unpack(message['signs'], self.kept_signs, 1)
    signs = tf.cast(2 * bits - 1, tf.float32)
    return rotation.restore(message['scale'] * signs, message['seed'], shapes)

  def _message_bytes(self, shapes):
    return (
      quantization.packed_bytes(self.kept_signs, 1)
      + codec.FLOAT_BYTES
      + codec.SEED_BYTES
    )

  def _relative_error(self, shapes):
    if self.scale != 'unbiased':
      return None
    return rotation.relative_error(
      shapes, self.kept_signs, 2 * self.kept_signs / math.pi
    )

  def _describe(self, shapes):
    return (
      f'signs of {self.kept_signs} of {rotation.padded_size(shapes)} rotated '
      f'coordinates, {self.scale} scale'
    )

  @classmethod
  def largest_size(cls, shapes):
    return rotation.padded_size(shapes)
