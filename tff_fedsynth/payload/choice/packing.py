"""A message as bytes, for messages of which one or another is sent."""

import tensorflow as tf


def pack(message, num_bytes: int) -> tf.Tensor:
  """All bits of a message, and zeros behind them, uint8 [num_bytes]."""
  parts = [
    tf.reshape(tf.bitcast(tensor, tf.uint8), [-1])
    for tensor in tf.nest.flatten(message)
  ]
  packed = tf.concat(parts, axis=0)
  return tf.pad(packed, [[0, num_bytes - packed.shape[0]]])


def unpack(packed: tf.Tensor, specs):
  """Inverse of `pack`: a message as its `tf.TensorSpec`s say."""
  flat = tf.nest.flatten(specs)
  sizes = [spec.shape.num_elements() * spec.dtype.size for spec in flat]
  parts = tf.split(packed[: sum(sizes)], sizes)
  message = []
  for part, spec in zip(parts, flat):
    each = [] if spec.dtype.size == 1 else [spec.dtype.size]
    message.append(
      tf.bitcast(tf.reshape(part, [*spec.shape, *each]), spec.dtype)
    )
  return tf.nest.pack_sequence_as(specs, message)
