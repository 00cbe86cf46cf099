"""Random masks (Konecny et al. 2016, arXiv 1610.05492, section 2)."""

import collections
import dataclasses

import tensorflow as tf

from tff_fedsynth import options
from tff_fedsynth.compression import codec
from tff_fedsynth.compression import quantization


@dataclasses.dataclass(frozen=True)
class RandomMask(codec.SizedCodec):
  """Sends a random subset of the coordinates, and the seed it was drawn with.

  Attributes:
    kept_values: Number of coordinates that are sent, anew for each message,
      uniformly without replacement.
    bits: Of a value. With 8, values are rounded stochastically between their
      minimum and maximum.
    unbiased: Whether values are multiplied by 1/p = n / kept_values, so that
      the expectation over masks is the update itself.
  """

  kept_values: int = options.limited(minimum=1)
  bits: int = options.option(
    32,
    'Sends each value of the mask in so many bits.',
    quantization.VALUE_BITS,
  )
  unbiased: bool = options.option(
    True,
    'Divides values by the share of them that is sent: the mean is unbiased.',
  )

  def __post_init__(self):
    options.check(self)

  def _encode(self, values, seed):
    flat = codec.flatten(values)
    indices = codec.random_indices(seed, flat.shape[0], self.kept_values)
    kept = tf.gather(flat, indices)
    if self.unbiased:
      kept *= flat.shape[0] / self.kept_values
    rounding = codec.stateless_seed(seed, 1)
    return collections.OrderedDict(
      quantization.encode_values(kept, self.bits, rounding), seed=seed
    )

  def _decode(self, message, shapes):
    size = sum(codec.sizes(shapes))
    indices = codec.random_indices(message['seed'], size, self.kept_values)
    kept = quantization.decode_values(message, self.kept_values, self.bits)
    flat = tf.scatter_nd(indices[:, tf.newaxis], kept, [size])
    return codec.unflatten(flat, shapes)

  def _message_bytes(self, shapes):
    return codec.SEED_BYTES + quantization.values_bytes(
      self.kept_values, self.bits
    )

  def _relative_error(self, shapes):
    # That of rounding to 8 bits, which is far below, is left out.
    if not self.unbiased:
      return None
    return sum(codec.sizes(shapes)) / self.kept_values - 1

  def _describe(self, shapes):
    return (
      f'{self.kept_values} of {sum(codec.sizes(shapes))} values in {self.bits} '
      f'bits, {"scaled to be unbiased" if self.unbiased else "not scaled"}'
    )
