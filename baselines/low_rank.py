"""Low rank by power iteration, as PowerSGD (Vogels et al. 2019, 1905.13727)."""

import collections
import dataclasses
import math

import tensorflow as tf

from tff_fedsynth import codec
from tff_fedsynth import options
from tff_fedsynth import quantization

_POWER_ITERATIONS = 2


def _matrix_shape(shape):
  """A kernel as a matrix, its last axis against all others."""
  return math.prod(shape[:-1]), shape[-1]


def _max_rank(shape):
  """Zero for what is sent whole: vectors and scalars."""
  return min(_matrix_shape(shape)) if len(shape) > 1 else 0


def _rows(shape, rank):
  """Number and length of the rows in which a tensor's numbers are rounded."""
  if not rank:
    return [(1, math.prod(shape))]
  return [(rank, side) for side in _matrix_shape(shape)]


@dataclasses.dataclass(frozen=True)
class LowRank(codec.Codec):
  """Sends each matrix as two rounded factors, and vectors rounded; biased.

  A matrix M gives P, an orthonormal basis of (M M^T)^i M R with R random; P is
  rounded, and Q solves min |M - P Q^T| for the rounded P, and is rounded too.
  Rounding is to the nearest of 2**bits levels between the extremes of each
  column; two floats of range come with it.

  Attributes:
    ranks: Of each tensor, in order; 0 for vectors and scalars.
    bits: Of each number of a factor.
  """

  ranks: tuple[int, ...]
  bits: int = options.option(
    4, 'Sends each number of the low-rank factors in so many bits.', (4, 8)
  )

  def __post_init__(self):
    options.check(self)

  def _round(self, rows):
    levels, value_range = quantization.quantize(rows, self.bits)
    return (
      quantization.pack(levels, self.bits),
      value_range,
      quantization.dequantize(levels, value_range, self.bits),
    )

  def encode(self, values, seed):
    message = collections.OrderedDict()
    for i, (value, rank) in enumerate(zip(values, self.ranks, strict=True)):
      if rank:
        matrix = tf.reshape(value, _matrix_shape(value.shape))
        factor = tf.random.stateless_normal(
          [matrix.shape[1], rank], codec.stateless_seed(seed, i)
        )
        for _ in range(_POWER_ITERATIONS):
          factor, _ = tf.linalg.qr(matrix @ factor)
          left = factor
          factor = tf.matmul(matrix, left, transpose_a=True)
        *sent, rounded = self._round(tf.transpose(left))
        message[f'left_{i}'], message[f'left_range_{i}'] = sent
        # Zero columns, from a matrix of a lower rank, need the regularizer.
        right = tf.linalg.lstsq(
          tf.transpose(rounded), matrix, l2_regularizer=1e-6
        )
      else:
        right = tf.reshape(value, [1, -1])
      message[f'right_{i}'], message[f'right_range_{i}'], _ = self._round(right)
    return message

  def _decode_rows(self, message, name, i, length):
    levels = quantization.unpack(message[f'{name}_{i}'], length, self.bits)
    value_range = message[f'{name}_range_{i}']
    return quantization.dequantize(levels, value_range, self.bits)

  def decode(self, message, shapes):
    decoded = []
    for i, (shape, rank) in enumerate(zip(shapes, self.ranks, strict=True)):
      *_, (_, length) = _rows(shape, rank)
      value = self._decode_rows(message, 'right', i, length)
      if rank:
        left = self._decode_rows(message, 'left', i, _matrix_shape(shape)[0])
        value = tf.matmul(left, value, transpose_a=True)
      decoded.append(tf.reshape(value, shape))
    return decoded

  def message_bytes(self, shapes):
    return sum(
      count
      * (quantization.packed_bytes(length, self.bits) + 2 * codec.FLOAT_BYTES)
      for shape, rank in zip(shapes, self.ranks, strict=True)
      for count, length in _rows(shape, rank)
    )

  def describe(self, shapes):
    return f'ranks {self.ranks} with factors in {self.bits} bits'

  @classmethod
  def for_budget(cls, budget, shapes, **fields):
    """Adds ranks in turn, the largest matrix first, as long as one fits."""
    most = [_max_rank(shape) for shape in shapes]
    ranks = [min(1, rank) for rank in most]

    def size(ranks):
      return cls(tuple(ranks), **fields).message_bytes(shapes)

    codec.require(size(ranks), budget, cls.__name__)
    order = sorted(range(len(shapes)), key=lambda i: -math.prod(shapes[i]))
    grew = True
    while grew:
      grew = False
      for i in order:
        more = [r + (j == i) for j, r in enumerate(ranks)]
        if more[i] <= most[i] and size(more) <= budget:
          ranks, grew = more, True
    return cls(tuple(ranks), **fields)
