"""Random rotations of a whole update: signs, and two orthonormal transforms.

A Hadamard transform wants a power of two, and padding an update to the next one
costs up to half of the bits. So the update fills a grid whose rows are as long
as little padding allows: a Hadamard transform mixes along the rows, and a cosine
transform, which has any length, across them.

That comes close to a uniformly random rotation for many values, none of which
outweighs the rest. A few values are rotated by a matrix that is uniform indeed:
with signs and transforms, of (3, 1) only the 3 would ever be seen.
"""

import abc
import math

import numpy as np
from scipy import fft
from scipy import linalg
import tensorflow as tf

from tff_fedsynth.compression import codec

# Bits of the index that one product with a matrix mixes.
_MAX_BITS = 6
# Up to here, rotations are uniformly random matrices.
_FEW = 64


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


def padded_size(shapes: codec.Shapes) -> int:
  """The number of rotated coordinates of an update."""
  return math.prod(grid(shapes))


class Rotation(abc.ABC):
  """An orthonormal map of a vector, with padding; see `random_rotation`."""

  @abc.abstractmethod
  def apply(self, flat: tf.Tensor) -> tf.Tensor:
    """Pads a vector, and rotates it."""

  @abc.abstractmethod
  def undo(self, rotated: tf.Tensor) -> tf.Tensor:
    """The padded vector that was rotated."""


class _Matrix(Rotation):
  """A product with a square matrix; there is no padding."""

  def __init__(self, matrix):
    self._matrix = matrix

  def apply(self, flat):
    return tf.linalg.matvec(self._matrix, flat)

  def undo(self, rotated):
    return tf.linalg.matvec(self._matrix, rotated, transpose_a=True)


class _Transforms(Rotation):
  """Signs, a Hadamard transform along rows, and a cosine transform across."""

  def __init__(self, signs):
    self._signs = signs

  def apply(self, flat):
    rows, columns = self._signs.shape
    padded = tf.pad(flat, [[0, rows * columns - flat.shape[0]]])
    mixed = hadamard(self._signs * tf.reshape(padded, [rows, columns]))
    mixed = tf.matmul(mixed, _cosines(rows), transpose_a=True, transpose_b=True)
    return tf.reshape(mixed, [-1])

  def undo(self, rotated):
    rows, columns = self._signs.shape
    mixed = tf.matmul(
      _cosines(rows),
      tf.reshape(rotated, [columns, rows]),
      transpose_a=True,
      transpose_b=True,
    )
    return tf.reshape(self._signs * hadamard(mixed), [-1])


def random_rotation(seed: tf.Tensor, shapes: codec.Shapes) -> Rotation:
  """A random rotation of updates of these shapes, from one int32 seed."""
  seed = codec.stateless_seed(seed, 1)
  size = padded_size(shapes)
  if size <= _FEW:
    normal = tf.random.stateless_normal([size, size], seed)
    q, r = tf.linalg.qr(normal)
    # With the signs of a unique decomposition, q is uniform (Mezzadri 2007).
    return _Matrix(q * tf.sign(tf.linalg.diag_part(r)))
  draws = tf.random.stateless_uniform(grid(shapes), seed, 0, 2, tf.int32)
  return _Transforms(tf.cast(2 * draws - 1, tf.float32))


def relative_error(shapes: codec.Shapes, kept: int, explained: float) -> float:
  """E|decoded - x|^2 / |x|^2 of an unbiased scale over rotated coordinates.

  It is exact in the limit of many kept coordinates. Of 64, with 16 kept it says
  5.3 for 5.8, with 8 kept 11.6 for 14.5.

  Args:
    shapes: Of the update x.
    kept: Coordinates that are looked at.
    explained: The share of |x|^2, times the number of all rotated coordinates,
      that is explained by what is sent of them.
  """
  size = padded_size(shapes)
  if size == 1:
    return 0.0
  if kept < min(size, 3):
    # The scale divides by what is seen, which may be next to nothing.
    return math.inf
  return size / explained - 1
