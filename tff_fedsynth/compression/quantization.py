"""Real values as integers of few bits, and those packed into bytes."""

import collections

import tensorflow as tf

from tff_fedsynth.compression import codec

# How the values of a message can be sent; see `encode_values`.
VALUE_BITS = (32, 8)


def packed_bytes(num_values: int, bits: int) -> int:
  """Counts the bytes that `pack` makes of `num_values` integers of `bits` bits."""
  return -(-num_values * bits // 8)


def pack(levels: tf.Tensor, bits: int) -> tf.Tensor:
  """Packs integers in [0, 2**bits) into bytes, the lowest bits first.

  Args:
    levels: [..., n], integers or whole floats.
    bits: 1 to 24 for each of them.

  Returns:
    uint8 [..., packed_bytes(n, bits)]; the last byte is padded with zeros.
  """
  *lead, size = levels.shape
  levels = tf.cast(levels, tf.int32)
  bit = tf.bitwise.bitwise_and(
    tf.bitwise.right_shift(levels[..., tf.newaxis], tf.range(bits)), 1
  )
  num_bytes = packed_bytes(size, bits)
  bit = tf.pad(
    tf.reshape(bit, [-1, size * bits]),
    [[0, 0], [0, 8 * num_bytes - size * bits]],
  )
  bit = tf.reshape(bit, [*lead, num_bytes, 8])
  return tf.cast(tf.reduce_sum(bit * 2 ** tf.range(8), axis=-1), tf.uint8)


def unpack(packed: tf.Tensor, num_values: int, bits: int) -> tf.Tensor:
  """Unpacks the integers that `pack` packed, int32 [..., num_values]."""
  *lead, num_bytes = packed.shape
  packed = tf.cast(packed, tf.int32)[..., tf.newaxis]
  bit = tf.bitwise.bitwise_and(tf.bitwise.right_shift(packed, tf.range(8)), 1)
  bit = tf.reshape(bit, [-1, 8 * num_bytes])[:, : num_values * bits]
  bit = tf.reshape(bit, [*lead, num_values, bits])
  return tf.reduce_sum(bit * 2 ** tf.range(bits), axis=-1)


def quantize(
  values: tf.Tensor,
  bits: int,
  seed: tf.Tensor | None = None,
  range_dtype: tf.DType = tf.float32,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Rounds the last axis to 2**bits evenly spaced levels, ends included.

  Args:
    values: float [..., n].
    bits: 1 to 24.
    seed: int32 [2] to round up or down at random, so that the expectation is
      the value itself (Suresh et al. 2017, section 2.2); `None` rounds to the
      nearest level.
    range_dtype: What the lowest and highest value are rounded to, before the
      levels are chosen; beyond tf.float16's range they become infinite.

  Returns:
    Levels, whole floats in [0, 2**bits) [..., n], and the lowest and highest
    value, `range_dtype` [..., 2].
  """
  value_range = tf.cast(
    tf.stack([tf.reduce_min(values, -1), tf.reduce_max(values, -1)], axis=-1),
    range_dtype,
  )
  low, high = tf.split(tf.cast(value_range, values.dtype), 2, axis=-1)
  values = tf.clip_by_value(values, low, high)
  top = 2**bits - 1
  levels = top * tf.math.divide_no_nan(values - low, high - low)
  if seed is None:
    levels = tf.round(levels)
  else:
    random = tf.random.stateless_uniform(levels.shape, seed, dtype=levels.dtype)
    # In float32, 255 + the largest number below 1 is 256.
    levels = tf.minimum(tf.floor(levels + random), top)
  return levels, value_range


def dequantize(
  levels: tf.Tensor, value_range: tf.Tensor, bits: int
) -> tf.Tensor:
  """Returns what levels of `quantize` stand for, float [..., n]."""
  value_range = tf.cast(value_range, tf.float32)
  low, high = value_range[..., :1], value_range[..., 1:]
  levels = tf.cast(levels, value_range.dtype)
  return low + levels * ((high - low) / (2**bits - 1))


def encode_values(
  values: tf.Tensor, bits: int, seed: tf.Tensor | None = None
) -> collections.OrderedDict[str, tf.Tensor]:
  """Encodes a float32 vector as it is, or in 8 bits with its range.

  Args:
    values: float32 [n].
    bits: One of `VALUE_BITS`.
    seed: See `quantize`.
  """
  if bits == 32:
    return collections.OrderedDict(values=values)
  levels, value_range = quantize(values, bits, seed)
  return collections.OrderedDict(values=pack(levels, bits), range=value_range)


def decode_values(message, num_values: int, bits: int) -> tf.Tensor:
  """Decodes what `encode_values` encoded, float32 [num_values]."""
  if bits == 32:
    return message['values']
  levels = unpack(message['values'], num_values, bits)
  return dequantize(levels, message['range'], bits)


def values_bytes(num_values: int, bits: int) -> int:
  """Counts the bytes of what `encode_values` makes."""
  if bits == 32:
    return codec.FLOAT_BYTES * num_values
  return packed_bytes(num_values, bits) + 2 * codec.FLOAT_BYTES
