"""The largest values and where they are (Aji & Heafield 2017, 1704.05021)."""

import collections
import dataclasses

import tensorflow as tf

from tff_fedsynth import options
from tff_fedsynth.compression import codec
from tff_fedsynth.compression import quantization


def _index_bits(shapes: codec.Shapes) -> int:
  return max(1, (sum(codec.sizes(shapes)) - 1).bit_length())


@dataclasses.dataclass(frozen=True)
class TopK(codec.SizedCodec):
  """Sends the values of the largest magnitude and their packed indices.

  Biased: what is not sent is taken as zero.

  Attributes:
    kept_values: Number of values that are sent.
    bits: Of a value. With 8, values are rounded to the nearest of 256 levels.
  """

  kept_values: int = options.limited(minimum=1)
  bits: int = options.option(
    32,
    'Sends each of the largest values in so many bits.',
    quantization.VALUE_BITS,
  )

  def __post_init__(self):
    options.check(self)

  def _encode(self, values, seed):
    del seed
    flat = codec.flatten(values)
    _, indices = tf.math.top_k(tf.abs(flat), self.kept_values, sorted=False)
    message = quantization.encode_values(tf.gather(flat, indices), self.bits)
    bits = _index_bits(codec.known_shapes(values))
    return collections.OrderedDict(
      message, indices=quantization.pack(indices, bits)
    )

  def _decode(self, message, shapes):
    kept = quantization.decode_values(message, self.kept_values, self.bits)
    indices = quantization.unpack(
      message['indices'], self.kept_values, _index_bits(shapes)
    )
    flat = tf.scatter_nd(
      indices[:, tf.newaxis], kept, [sum(codec.sizes(shapes))]
    )
    return codec.unflatten(flat, shapes)

  def _message_bytes(self, shapes):
    return quantization.values_bytes(
      self.kept_values, self.bits
    ) + quantization.packed_bytes(self.kept_values, _index_bits(shapes))

  def _describe(self, shapes):
    return (
      f'{self.kept_values} of {sum(codec.sizes(shapes))} values in {self.bits} '
      f'bits, each with an index of {_index_bits(shapes)} bits'
    )
