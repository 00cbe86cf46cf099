"""Random rotations of a whole update: signs, and two orthonormal transforms.

A Hadamard transform wants a power of two, and padding an update to the next one
costs up to half of the bits. So the update fills a grid whose rows are as long
as little padding allows: a Hadamard transform mixes along the rows, and a cosine
transform, which has any length, across them.

That comes close to a uniformly random rotation for many values, none of which
outweighs the rest. A few values are rotated by a matrix that is uniform indeed:
with signs and transforms, of (3, 1) only the 3 would ever be seen.
"""

from collections.abc import Callable
from collections.abc import Sequence
import math
from typing import NamedTuple

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
  """Applies the orthonormal Walsh-Hadamard transform to each row, float [n, 2^k].

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


def _grid(shapes: codec.Shapes) -> tuple[int, int]:
  """Returns rows, and columns that are a power of two, to pad an update to."""
  size = sum(codec.sizes(shapes))
  columns = 1 << (size - 1).bit_length()
  while 64 * (-size % columns) > size:
    columns //= 2
  return -(-size // columns), columns


def padded_size(shapes: codec.Shapes) -> int:
  """Returns the number of rotated coordinates of an update."""
  return math.prod(_grid(shapes))


class Rotation(NamedTuple):
  """An orthonormal map of a vector, with padding.

  Attributes:
    apply: Pads a vector of an update's size, and rotates it.
    undo: Returns the padded vector that was rotated.
  """

  apply: Callable[[tf.Tensor], tf.Tensor]
  undo: Callable[[tf.Tensor], tf.Tensor]


def random_rotation(seed: tf.Tensor, shapes: codec.Shapes) -> Rotation:
  """Draws a random rotation of updates of these shapes from an int32 [] seed."""
  seed = codec.stateless_seed(seed, 1)
  rows, columns = _grid(shapes)
  size = rows * columns
  if size <= _FEW:  # There is no padding.
    normal = tf.random.stateless_normal([size, size], seed)
    q, r = tf.linalg.qr(normal)
    # With the signs of a unique decomposition, q is uniform (Mezzadri 2007).
    matrix = q * tf.sign(tf.linalg.diag_part(r))
    return Rotation(
      lambda flat: tf.linalg.matvec(matrix, flat),
      lambda rotated: tf.linalg.matvec(matrix, rotated, transpose_a=True),
    )

  draws = tf.random.stateless_uniform([rows, columns], seed, 0, 2, tf.int32)
  signs = tf.cast(2 * draws - 1, tf.float32)
  # The cosine transform, one frequency a row.
  cosines = fft.dct(np.eye(rows, dtype=np.float32), norm='ortho', axis=0)
  transposed = dict(transpose_a=True, transpose_b=True)

  def apply(flat):
    padded = tf.pad(flat, [[0, size - flat.shape[0]]])
    mixed = hadamard(signs * tf.reshape(padded, [rows, columns]))
    return tf.reshape(tf.matmul(mixed, cosines, **transposed), [-1])

  def undo(rotated):
    rotated = tf.reshape(rotated, [columns, rows])
    mixed = tf.matmul(cosines, rotated, **transposed)
    return tf.reshape(signs * hadamard(mixed), [-1])

  return Rotation(apply, undo)


def sample(
  values: Sequence[tf.Tensor], seed: tf.Tensor, count: int
) -> tuple[tf.Tensor, tf.Tensor]:
  """Draws coordinates of a randomly rotated update.

  Args:
    values: The update.
    seed: int32 [], of the rotation and the coordinates.
    count: Number of coordinates, uniform without replacement.

  Returns:
    |values|^2, and the rotated coordinates, float32 [count].
  """
  flat, shapes = codec.flatten(values), codec.known_shapes(values)
  rotated = random_rotation(seed, shapes).apply(flat)
  indices = codec.random_indices(seed, rotated.shape[0], count)
  return tf.reduce_sum(flat**2), tf.gather(rotated, indices)


def restore(
  sampled: tf.Tensor, seed: tf.Tensor, shapes: codec.Shapes
) -> list[tf.Tensor]:
  """Rotates coordinates of `sample` back, with zeros for all others."""
  size = padded_size(shapes)
  indices = codec.random_indices(seed, size, sampled.shape[0])
  rotated = tf.scatter_nd(indices[:, tf.newaxis], sampled, [size])
  flat = random_rotation(seed, shapes).undo(rotated)
  return codec.unflatten(flat[: sum(codec.sizes(shapes))], shapes)


def relative_error(shapes: codec.Shapes, kept: int, explained: float) -> float:
  """Returns E|decoded - x|^2 / |x|^2 of an unbiased scale over `sample`.

  It is exact in the limit of many kept coordinates. Of 64, with 16 kept it says
  5.3 for 5.8, with 8 kept 11.6 for 14.5.

  Args:
    shapes: Shapes of the update x.
    kept: Number of coordinates that are looked at.
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
