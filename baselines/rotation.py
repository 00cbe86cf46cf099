"""Random rotations of a whole update: signs, and two orthonormal transforms.

A Hadamard transform wants a power of two, and padding an update to the next one
costs up to half of the bits. So the update fills a grid whose rows are as long
as little padding allows: a Hadamard transform mixes along the rows, and a cosine
transform, which has any length, across them.
"""

import math

import tensorflow as tf

from tff_fedsynth import codec


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


def grid(shapes: codec.Shapes) -> tuple[int, int]:
  """Rows, and columns that are a power of two: what an update is padded to."""
  size = sum(codec.sizes(shapes))
  columns = 1 << (size - 1).bit_length()
  while 64 * (-size % columns) > size:
    columns //= 2
  return -(-size // columns), columns


def rotate(flat: tf.Tensor, signs: tf.Tensor) -> tf.Tensor:
  """Pads a vector to the grid of its random signs, and rotates it; flat again."""
  padded = tf.pad(flat, [[0, math.prod(signs.shape) - flat.shape[0]]])
  mixed = hadamard(signs * tf.reshape(padded, signs.shape))
  mixed = tf.signal.dct(tf.transpose(mixed), norm='ortho')
  return tf.reshape(mixed, [-1])


def rotate_back(rotated: tf.Tensor, signs: tf.Tensor) -> tf.Tensor:
  """The padded vector that `rotate` rotated."""
  rows, columns = signs.shape
  mixed = tf.signal.idct(tf.reshape(rotated, [columns, rows]), norm='ortho')
  return tf.reshape(signs * hadamard(tf.transpose(mixed)), [-1])


def random_signs(seed: tf.Tensor, shape: tuple[int, int]) -> tf.Tensor:
  """Uniform signs, float32 of a grid's shape, from one int32 seed."""
  draws = tf.random.stateless_uniform(
    shape, codec.stateless_seed(seed, 1), 0, 2, tf.int32
  )
  return tf.cast(2 * draws - 1, tf.float32)
