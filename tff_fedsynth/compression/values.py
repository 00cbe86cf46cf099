"""Values of a message: float32 as they are, or 8 bits with their range."""

import collections

import tensorflow as tf

from tff_fedsynth.compression import codec
from tff_fedsynth.compression import quantization

SUPPORTED_BITS = (32, 8)


def encode(
  values: tf.Tensor, bits: int, seed: tf.Tensor | None = None
) -> collections.OrderedDict[str, tf.Tensor]:
  """Encodes a float32 vector; see `quantization.quantize` for the seed."""
  if bits == 32:
    return collections.OrderedDict(values=values)
  levels, value_range = quantization.quantize(values, bits, seed)
  return collections.OrderedDict(
    values=quantization.pack(levels, bits), range=value_range
  )


def decode(message, num_values: int, bits: int) -> tf.Tensor:
  """Decodes what `encode` made."""
  if bits == 32:
    return message['values']
  levels = quantization.unpack(message['values'], num_values, bits)
  return quantization.dequantize(levels, message['range'], bits)


def size(num_values: int, bits: int) -> int:
  """Bytes of what `encode` makes."""
  if bits == 32:
    return codec.FLOAT_BYTES * num_values
  return quantization.packed_bytes(num_values, bits) + 2 * codec.FLOAT_BYTES
