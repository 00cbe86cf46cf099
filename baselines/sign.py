"""Signs with one scale a tensor (Karimireddy et al. 2019, 1901.09847)."""

import collections
import dataclasses
import math

import tensorflow as tf

from tff_fedsynth.compression import codec
from tff_fedsynth.compression import quantization


def _mean_magnitude(value: tf.Tensor) -> tf.Tensor:
  # The mean of nothing would be NaN.
  return tf.reduce_mean(tf.abs(value)) if math.prod(value.shape) else 0.0


@dataclasses.dataclass(frozen=True)
class Sign(codec.Codec):
  """Sends one bit a coordinate and the mean magnitude of each tensor.

  The scaled sign |x|_1 / n * sign(x) of section 4 there; biased.
  A zero counts as positive: rows that no example touched, such as those of an
  embedding, move by the scale.
  """

  def _encode(self, values, seed):
    del seed
    return collections.OrderedDict(
      signs=quantization.pack(tf.cast(codec.flatten(values) >= 0, tf.int32), 1),
      scales=tf.stack([_mean_magnitude(v) for v in values]),
    )

  def _decode(self, message, shapes):
    bits = quantization.unpack(message['signs'], sum(codec.sizes(shapes)), 1)
    signs = codec.unflatten(tf.cast(2 * bits - 1, tf.float32), shapes)
    return [s * scale for s, scale in zip(signs, tf.unstack(message['scales']))]

  def _message_bytes(self, shapes):
    return quantization.packed_bytes(
      sum(codec.sizes(shapes)), 1
    ) + codec.FLOAT_BYTES * len(shapes)

  def _describe(self, shapes):
    return f'the sign of every value and {len(shapes)} scales'

  @classmethod
  def _for_budget(cls, budget, shapes):
    codec.require(cls().message_bytes(shapes), budget, cls.__name__)
    return cls()
