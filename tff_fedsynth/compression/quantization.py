"""Real values as integers of few bits, and those packed into bytes."""

import tensorflow as tf


def packed_bytes(num_values: int, bits: int) -> int:
  """Bytes that `pack` makes of `num_values` integers of `bits` bits."""
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
  """The integers that were packed, int32 [..., num_values]; see `pack`."""
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
  """The values that levels stand for, float [..., n]; see `quantize`."""
  value_range = tf.cast(value_range, tf.float32)
  low, high = value_range[..., :1], value_range[..., 1:]
  levels = tf.cast(levels, value_range.dtype)
  return low + levels * ((high - low) / (2**bits - 1))
