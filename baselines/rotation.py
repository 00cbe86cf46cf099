"""Random rotations of a whole update: signs, and two orthonormal transforms.

A Hadamard transform wants a power of two, and padding an update to the next one
costs up to half of the bits. So the update fills a grid whose rows are as long
as little padding allows: a Hadamard transform mixes along the rows, and a cosine
transform, which has any length, across them.
"""

import math

import numpy as np
from scipy import fft
from scipy import linalg
import tensorflow as tf

from tff_fedsynth import codec

# Bits of the index that one product with a matrix mixes.
_MAX_BITS = 6


def hadamard(x: tf.Tensor) -> tf.Tensor:
  """The orthonormal Walsh-Hadamard transform of each row, float [n, 2^k].

  It is its own inverse.
  """
  rows, size = x.shape
  bits = size.bit_length() - 1
  # A few small matrices are much faster than a pass for each bit.
  for part in np.array_split(np.arange(bits), -(-bits // _MAX_BITS) or 1):
    matrix = linalg.hadamard(1 << len(part)).astype(x.dtype.as_numpy_dtype)
    # Mixes the first bits of the index, and turns them to the other end.
    x = tf.reshape(x, [rows, len(matrix), size // len(matrix)])
    x = tf.reshape(tf.matmul(x, matrix, transpose_a=True), [rows, size])
  return x / math.sqrt(size)


def _cosines(rows: int) -> np.ndarray:
  """The orthonormal matrix of the cosine transform, one frequency a row."""
  return fft.dct(np.eye(rows, dtype=np.float32), norm='ortho', axis=0)


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
  mixed = tf.matmul(
    mixed, _cosines(signs.shape[0]), transpose_a=True, transpose_b=True
  )
  return tf.reshape(mixed, [-1])


def rotate_back(rotated: tf.Tensor, signs: tf.Tensor) -> tf.Tensor:
  """The padded vector that `rotate` rotated."""
  rows, columns = signs.shape
  mixed = tf.matmul(
    _cosines(rows),
    tf.reshape(rotated, [columns, rows]),
    transpose_a=True,
    transpose_b=True,
  )
  return tf.reshape(signs * hadamard(mixed), [-1])


def random_signs(seed: tf.Tensor, shape: tuple[int, int]) -> tf.Tensor:
  """Uniform signs, float32 of a grid's shape, from one int32 seed."""
  draws = tf.random.stateless_uniform(
    shape, codec.stateless_seed(seed, 1), 0, 2, tf.int32
  )
  return tf.cast(2 * draws - 1, tf.float32)
