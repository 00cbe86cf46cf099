"""QSGD: stochastic quantisation (Alistarh et al. 2017, arXiv 1610.02132)."""

import collections
import dataclasses

import tensorflow as tf

from tff_fedsynth import options
from tff_fedsynth.compression import codec
from tff_fedsynth.compression import quantization


@dataclasses.dataclass(frozen=True)
class Qsgd(codec.Codec):
  """Rounds each value to |v| sign(x) l / s at random; unbiased (section 3.1).

  `v` are the values of a bucket, `s = 2**(bits - 1) - 1`, and `l` in [0, s] is
  one of the two levels around s |x| / |v|. Signs and levels have a fixed size,
  where the paper goes on with Elias coding.

  Attributes:
    bits: 2 to 8 for each value: one for its sign, the rest for its level.
    bucket_size: Values that share one norm |v|, sent as float32.
  """

  bits: int = options.option(
    8,
    'Sends each value of the update in so many bits; a budget chooses them.',
    tuple(range(2, 9)),
  )
  bucket_size: int = options.option(
    512, 'Lets so many values of the update share one norm.', minimum=1
  )

  def __post_init__(self):
    options.check(self)

  @property
  def _top(self) -> int:
    return 2 ** (self.bits - 1) - 1

  def _num_buckets(self, size):
    return -(-size // self.bucket_size)

  def _bucket(self, size):
    """The size of a bucket; no larger than what there is to fill it."""
    return min(self.bucket_size, size)

  def _encode(self, values, seed):
    flat = codec.flatten(values)
    size = flat.shape[0]
    bucket = self._bucket(size)
    padding = self._num_buckets(size) * bucket - size
    buckets = tf.reshape(tf.pad(flat, [[0, padding]]), [-1, bucket])
    norms = tf.norm(buckets, axis=-1)
    random = tf.random.stateless_uniform(
      buckets.shape, codec.stateless_seed(seed, 0)
    )
    share = tf.math.divide_no_nan(tf.abs(buckets), norms[:, tf.newaxis])
    levels = tf.minimum(tf.floor(self._top * share + random), self._top)
    # The sign is the highest bit.
    levels += tf.where(buckets < 0, 2.0 ** (self.bits - 1), 0.0)
    return collections.OrderedDict(
      levels=quantization.pack(tf.reshape(levels, [-1])[:size], self.bits),
      norms=norms,
    )

  def _decode(self, message, shapes):
    size = sum(codec.sizes(shapes))
    coded = quantization.unpack(message['levels'], size, self.bits)
    half = 2 ** (self.bits - 1)
    levels = tf.cast(coded % half, tf.float32)
    norms = tf.repeat(message['norms'], self._bucket(size))[:size]
    flat = tf.where(coded < half, levels, -levels) * norms / self._top
    return codec.unflatten(flat, shapes)

  def _message_bytes(self, shapes):
    size = sum(codec.sizes(shapes))
    return quantization.packed_bytes(
      size, self.bits
    ) + codec.FLOAT_BYTES * self._num_buckets(size)

  def _describe(self, shapes):
    return f'every value in {self.bits} bits, a norm for {self.bucket_size}'

  @classmethod
  def _for_budget(cls, budget, shapes, *, bits=None, **fields):
    choices = list(range(2, 9)) if bits is None else [bits]
    candidates = [cls(bits=b, **fields) for b in choices]
    codec.require(candidates[0].message_bytes(shapes), budget, cls.__name__)
    return [c for c in candidates if c.message_bytes(shapes) <= budget][-1]
