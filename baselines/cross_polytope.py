"""Cross-polytope quantization: of each block, where its largest coordinate is.

The randomly rotated update is cut into blocks of 2^k coordinates, and each is
rounded to the nearest vertex of a cross-polytope (Gandikota et al. 2021,
arXiv 1911.07971, section 4.1): the sign and place of its largest coordinate, in
k + 1 bits. With k = 0 that is DRIVE (Vargaftik et al. 2021), one bit for each
coordinate, and the scale is DRIVE's.

Why larger blocks. A rotated coordinate is nearly normal. With M the mean of the
largest of 2^k magnitudes, a bit explains M^2 / (k + 1) of a coordinate's
variance: .64 for k = 0, 1.00 for k = 7, 1.16 for k = 16, and 2 ln 2 = 1.39 at
best (Shannon 1959). Fewer bits than coordinates are thus better spent on a few
large coordinates than on the signs of any.
"""

import collections
import dataclasses
import math

import numpy as np
import tensorflow as tf

from tff_fedsynth import options
from tff_fedsynth.compression import codec
from tff_fedsynth.compression import quantization
from tff_fedsynth.compression import rotation

_SEEDS = 1 << 16
_SEED_BYTES = 2


def mean_largest(count: int) -> float:
  """Returns the mean of the largest magnitude of `count` normal numbers."""
  x = np.linspace(0, 10, 10_001)
  below = np.array([math.erf(value / math.sqrt(2)) for value in x])
  return float(np.sum(1 - below**count) - 0.5) * (x[1] - x[0])


@dataclasses.dataclass(frozen=True)
class CrossPolytope(codec.Codec):
  """Sends the vertex that each block of the rotated update is nearest to.

  The decoded update is the inverse rotation of scale * vertices, zero outside
  the blocks. The scale |x|^2 / sum of the largest magnitudes makes its inner
  product with the update x exactly |x|^2, which makes it unbiased under a
  uniformly random rotation (theorem 3 of DRIVE). With b blocks of n rotated
  coordinates its squared error is about (n / b M^2 - 1) |x|^2.

  Attributes:
    blocks: Number b of blocks, of random coordinates.
    place_bits: k, for blocks of 2^k coordinates.
  """

  blocks: int = options.limited(minimum=1)
  place_bits: int = options.limited(minimum=0, maximum=23)

  def __post_init__(self):
    options.check(self)

  def _check_fits(self, shapes):
    size = rotation.padded_size(shapes)
    if self.blocks << self.place_bits > size:
      raise codec.CodecError(
        f'{self} does not fit an update of {sum(codec.sizes(shapes))} values: '
        f'its blocks must have at most {size} coordinates together.'
      )

  def _encode(self, values, seed):
    seed = tf.math.floormod(seed, _SEEDS)
    count = self.blocks << self.place_bits
    squared_norm, kept = rotation.sample(values, seed, count)
    blocks = tf.reshape(kept, [self.blocks, -1])
    places = tf.argmax(tf.abs(blocks), axis=1, output_type=tf.int32)
    largest = tf.gather(blocks, places, batch_dims=1)
    vertices = 2 * places + tf.cast(largest >= 0, tf.int32)
    return collections.OrderedDict(
      vertices=quantization.pack(vertices, self.place_bits + 1),
      scale=tf.math.divide_no_nan(squared_norm, tf.reduce_sum(tf.abs(largest))),
      seed=tf.cast(seed, tf.uint16),
    )

  def _decode(self, message, shapes):
    vertices = quantization.unpack(
      message['vertices'], self.blocks, self.place_bits + 1
    )
    signs = tf.cast(2 * (vertices % 2) - 1, tf.float32)
    blocks = tf.one_hot(vertices // 2, 1 << self.place_bits)
    blocks *= (message['scale'] * signs)[:, tf.newaxis]
    seed = tf.cast(message['seed'], tf.int32)
    return rotation.restore(tf.reshape(blocks, [-1]), seed, shapes)

  def _message_bytes(self, shapes):
    return (
      quantization.packed_bytes(self.blocks, self.place_bits + 1)
      + codec.FLOAT_BYTES
      + _SEED_BYTES
    )

  def _relative_error(self, shapes):
    return rotation.relative_error(
      shapes,
      self.blocks << self.place_bits,
      self.blocks * mean_largest(1 << self.place_bits) ** 2,
    )

  def _describe(self, shapes):
    return (
      f'the largest in each of {self.blocks} blocks of {1 << self.place_bits} of '
      f'{rotation.padded_size(shapes)} rotated coordinates'
    )

  @classmethod
  def _for_budget(cls, budget, shapes):
    # Of those within the budget, the one of least error.
    smallest = cls(1, 0).message_bytes(shapes)
    codec.require(smallest, budget, cls.__name__)
    bits = 8 * (budget - smallest + 1)
    size = rotation.padded_size(shapes)
    candidates = [
      cls(int(min(bits / (k + 1), size >> k)), k)
      for k in range(min(23, size.bit_length() - 1) + 1)
      if bits >= k + 1
    ]
    return min(candidates, key=lambda c: c.relative_error(shapes))
