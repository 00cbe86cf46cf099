"""DRIVE: a random rotation and one bit a coordinate (Vargaftik et al. 2021).

arXiv 2105.08339, algorithm 1, with the Hadamard transform of its section 6. To
reach any budget, the bits of a random subset of the rotated coordinates are
sent; the scales below are those of the paper, over that subset.

A Hadamard transform wants a power of two, and padding an update to the next one
costs up to half of the bits. So the update fills a grid whose rows are as long
as little padding allows: a Hadamard transform mixes along the rows, and a cosine
transform, which has any length, across them.
"""

import collections
import dataclasses
import math

import tensorflow as tf

from baselines import random_mask
from tff_fedsynth import codec
from tff_fedsynth import options
from tff_fedsynth import quantization


def hadamard(x: tf.Tensor) -> tf.Tensor:
  """The orthonormal Walsh-Hadamard transform of each row, float [n, 2^k].

  It is its own inverse.
  """
  rows, size = x.shape
  for _ in range(size.bit_length() - 1):
    # Each pass does one bit of the index, and turns it to the other end.
    pairs = tf.reshape(x, [rows, 2, size // 2])
    a, b = pairs[:, 0], pairs[:, 1]
    x = tf.reshape(tf.stack([a + b, a - b], axis=-1), [rows, size])
  return x / math.sqrt(size)


def _grid(shapes: codec.Shapes) -> tuple[int, int]:
  """Rows, and columns that are a power of two: what an update is padded to."""
  size = sum(codec.sizes(shapes))
  columns = 1 << (size - 1).bit_length()
  while 64 * (-size % columns) > size:
    columns //= 2
  return -(-size // columns), columns


def _rotate(flat, signs):
  """Rotates a vector that is padded to the grid of its random signs."""
  padded = tf.pad(flat, [[0, math.prod(signs.shape) - flat.shape[0]]])
  mixed = hadamard(signs * tf.reshape(padded, signs.shape))
  mixed = tf.signal.dct(tf.transpose(mixed), norm='ortho')
  return tf.reshape(mixed, [-1])


def _rotate_back(rotated, signs):
  """The padded vector that `_rotate` rotated."""
  rows, columns = signs.shape
  mixed = tf.signal.idct(tf.reshape(rotated, [columns, rows]), norm='ortho')
  return tf.reshape(signs * hadamard(tf.transpose(mixed)), [-1])


def _random_signs(seed, shape):
  draws = tf.random.stateless_uniform(
    shape, codec.stateless_seed(seed, 1), 0, 2, tf.int32
  )
  return tf.cast(2 * draws - 1, tf.float32)


@dataclasses.dataclass(frozen=True)
class Drive(codec.SizedCodec):
  """Sends signs of coordinates of the randomly rotated update, and one scale.

  With y the rotated update of n coordinates (a little padding included) and S the m coordinates whose signs are sent, the decoded
  update is the inverse rotation of scale * sign(y) on S and zero elsewhere.

  The `unbiased` scale |x|^2 / sum_S |y| makes its inner product with the update
  x exactly |x|^2 (theorem 3); with a uniformly random rotation that makes it
  unbiased, and the transforms come close. Its squared error is about
  (pi n / 2 m - 1) |x|^2. The `mse` scale sum_S |y| / m has the least squared
  error on S, about (1 - 2 m / pi n) |x|^2, and shrinks the update by as much.

  Attributes:
    kept_signs: Number m of rotated coordinates.
    scale: Which of the two scales is sent.
  """

  kept_signs: int
  scale: str = options.option(
    'unbiased', 'How decoded updates are scaled.', ('unbiased', 'mse')
  )

  def __post_init__(self):
    options.check(self)
    options.check_at_least_one(self, 'kept_signs')

  def encode(self, values, seed):
    shapes = [tuple(v.shape) for v in values]
    flat, grid = codec.flatten(values), _grid(shapes)
    rotated = _rotate(flat, _random_signs(seed, grid))
    kept = tf.gather(rotated, self._indices(seed, math.prod(grid)))
    length = tf.reduce_sum(tf.abs(kept))
    if self.scale == 'unbiased':
      scale = tf.math.divide_no_nan(tf.reduce_sum(flat**2), length)
    else:
      scale = length / self.kept_signs
    return collections.OrderedDict(
      signs=quantization.pack(tf.cast(kept >= 0, tf.int32), 1),
      scale=scale,
      seed=seed,
    )

  def decode(self, message, shapes):
    grid, seed = _grid(shapes), message['seed']
    size = math.prod(grid)
    bits = quantization.unpack(message['signs'], self.kept_signs, 1)
    signs = tf.cast(2 * bits - 1, tf.float32)
    rotated = tf.scatter_nd(
      self._indices(seed, size)[:, tf.newaxis],
      message['scale'] * signs,
      [size],
    )
    flat = _rotate_back(rotated, _random_signs(seed, grid))
    return codec.unflatten(flat[: sum(codec.sizes(shapes))], shapes)

  def _indices(self, seed, size):
    return random_mask.random_indices(seed, size, self.kept_signs)

  def message_bytes(self, shapes):
    return (
      quantization.packed_bytes(self.kept_signs, 1)
      + codec.FLOAT_BYTES
      + codec.SEED_BYTES
    )

  def relative_error(self, shapes):
    if self.scale != 'unbiased':
      return None
    return math.pi * math.prod(_grid(shapes)) / (2 * self.kept_signs) - 1

  def describe(self, shapes):
    return (
      f'signs of {self.kept_signs} of {math.prod(_grid(shapes))} rotated coordinates, '
      f'{self.scale} scale'
    )

  @classmethod
  def largest_size(cls, shapes):
    return math.prod(_grid(shapes))
