"""Low rank by power iteration, as PowerSGD (Vogels et al. 2019, 1905.13727)."""

import collections
import dataclasses
import math

import tensorflow as tf

from tff_fedsynth import errors
from tff_fedsynth import options
from tff_fedsynth.compression import codec
from tff_fedsynth.compression import quantization

_POWER_ITERATIONS = 2


def _matrix_shape(shape):
  """A kernel as a matrix, its last axis against all others."""
  return math.prod(shape[:-1]), shape[-1]


def _max_rank(shape):
  """Zero for what is sent whole: vectors and scalars."""
  return min(_matrix_shape(shape)) if len(shape) > 1 else 0


def _rows(shape, rank):
  """Number and length of the rows in which a tensor's numbers are rounded."""
  if not math.prod(shape):
    return []
  if not rank:
    return [(1, math.prod(shape))]
  return [(rank, side) for side in _matrix_shape(shape)]


def _tensor_bytes(shape, rank, bits):
  """What one tensor takes of a message: rounded rows, and their ranges."""
  return sum(
    count * (quantization.packed_bytes(length, bits) + 2 * codec.FLOAT_BYTES)
    for count, length in _rows(shape, rank)
  )


@dataclasses.dataclass(frozen=True)
class LowRank(codec.Codec):
  """Sends each matrix as two rounded factors, and vectors rounded; biased.

  A matrix M gives P, an orthonormal basis of (M M^T)^i M R with R random; P is
  rounded, and Q solves min |M - P Q^T| for the rounded P, and is rounded too.
  Rounding is to the nearest of 2**bits levels between the extremes of each
  column; two floats of range come with it.

  Attributes:
    ranks: Of each tensor, in order; 0 for vectors, scalars, and what is to be
      sent whole.
    bits: Of each number of a factor.
  """

  ranks: tuple[int, ...]
  bits: int = options.option(
    4, 'Sends each number of the low-rank factors in so many bits.', (4, 8)
  )

  def __post_init__(self):
    options.check(self)
    if not isinstance(self.ranks, tuple) or not all(
      options.is_integer(rank) and rank >= 0 for rank in self.ranks
    ):
      raise errors.OptionError(
        'ranks must be a tuple of integers of at least 0, one for each tensor, '
        f'found {self.ranks!r}.'
      )

  def _check_fits(self, shapes):
    most = tuple(map(_max_rank, shapes))
    if len(self.ranks) != len(most) or any(
      rank > largest for rank, largest in zip(self.ranks, most)
    ):
      raise codec.CodecError(
        f'{self} does not fit the shapes {list(shapes)}: give one rank for each '
        f'tensor, at most {most}.'
      )

  def _round(self, rows):
    levels, value_range = quantization.quantize(rows, self.bits)
    return (
      quantization.pack(levels, self.bits),
      value_range,
      quantization.dequantize(levels, value_range, self.bits),
    )

  def _encode(self, values, seed):
    message = collections.OrderedDict()
    for i, (value, rank) in enumerate(zip(values, self.ranks, strict=True)):
      if not _rows(value.shape, rank):
        continue
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

  def _decode(self, message, shapes):
    decoded = []
    for i, (shape, rank) in enumerate(zip(shapes, self.ranks, strict=True)):
      rows = _rows(shape, rank)
      if not rows:
        decoded.append(tf.zeros(shape))
        continue
      _, length = rows[-1]
      value = self._decode_rows(message, 'right', i, length)
      if rank:
        left = self._decode_rows(message, 'left', i, _matrix_shape(shape)[0])
        value = tf.matmul(left, value, transpose_a=True)
      decoded.append(tf.reshape(value, shape))
    return decoded

  def _message_bytes(self, shapes):
    return sum(
      _tensor_bytes(shape, rank, self.bits)
      for shape, rank in zip(shapes, self.ranks, strict=True)
    )

  def _describe(self, shapes):
    return f'ranks {self.ranks} with factors in {self.bits} bits'

  @classmethod
  def _for_budget(cls, budget, shapes, **fields):
    # Adds ranks in turn, the largest matrix first, as long as one fits.
    bits = cls((), **fields).bits
    most = [
      rank
      # A matrix of a few numbers takes less when it is sent whole.
      if rank and _tensor_bytes(shape, 1, bits) < _tensor_bytes(shape, 0, bits)
      else 0
      for shape, rank in zip(shapes, map(_max_rank, shapes))
    ]
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
