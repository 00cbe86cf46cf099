"""A message in one of two ways: each client sends what misses less.

Synthetic data are worth their bytes where an update is easy to learn, as in early
rounds. Later a sketch of the whole update, by the same bytes, can miss less. A
client knows both errors before it sends: see `sketch.is_better_alone`. It looks at
these, not at what is drawn, so that neither way gets a bias by the choice.
"""

import collections
import dataclasses

import tensorflow as tf

from tff_fedsynth import updates
from tff_fedsynth.compression import codec as codec_lib
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload import sketch as sketch_lib
from tff_fedsynth.payload.choice import packing
from tff_fedsynth.payload.payload import CodecPayload
from tff_fedsynth.payload.payload import Decoded
from tff_fedsynth.payload.payload import Encoded
from tff_fedsynth.payload.payload import Payload

CHOICE_BYTES = 1


@dataclasses.dataclass(frozen=True)
class EitherPayload:
  """Synthetic data with a sketch of the rest, or a sketch of the whole.

  A message is uint8 [], 1 for a sketch alone, and the bytes of the longer one.

  Attributes:
    payload: Of the one way; its sketch has the codec `alone`, of the other.
  """

  # As `Payload.chunk_size`: each message has to be alone.
  chunk_size = 1

  payload: Payload

  @property
  def alone(self) -> codec_lib.Codec:
    """The codec of a sketch alone."""
    return self.payload.sketch.alone

  @property
  def data_bytes(self) -> int:
    """Bytes of the synthetic data."""
    return self.payload.data_bytes

  def num_bytes(self, shapes: codec_lib.Shapes) -> int:
    """As `Payload.num_bytes`."""
    sketch_lib.check_unbiased(self.alone, shapes)
    return CHOICE_BYTES + max(
      self.payload.num_bytes(shapes), self.alone.message_bytes(shapes)
    )

  def encode(
    self, variables, model, weights, *, target, fits_scale: bool, seed
  ) -> Encoded:
    """As `Payload.encode`; `replayed` is of the synthetic data in any case."""
    data, replayed = self.payload.encode_data(
      variables, model, weights, target=target, fits_scale=fits_scale
    )
    shapes = codec_lib.known_shapes(target)
    missed = tuple(t - u for t, u in zip(target, replayed))
    is_alone = sketch_lib.is_better_alone(
      self.payload.sketch,
      shapes,
      missed=updates.squared_norm(missed),
      whole=updates.squared_norm(target),
    )
    num_bytes = self.num_bytes(shapes) - CHOICE_BYTES

    def encode_alone():
      message = self.alone.encode(target, sketch_lib.drawn_seed(seed))
      update = tuple(self.alone.decode(message, shapes))
      return packing.pack(message, num_bytes), update

    def encode_both():
      both = self.payload.add_sketch(
        data, replayed, model, weights, target=target, seed=seed
      )
      return packing.pack(both.message, num_bytes), both.update

    packed, update = tf.cond(is_alone, encode_alone, encode_both)
    message = collections.OrderedDict(
      is_alone=tf.cast(is_alone, tf.uint8), packed=packed
    )
    return Encoded(message, replayed, update)

  def decode(self, message, model, weights) -> Decoded:
    """As `Payload.decode`; a sketch alone has no numbers to bound but its update."""
    shapes = [tuple(w.shape) for w in weights[0]]
    specs_alone, specs_both = self._specs(shapes)
    is_alone = message['is_alone'] > 0
    both = packing.unpack(message['packed'], specs_both)

    alone = packing.unpack(message['packed'], specs_alone)
    update = tf.cond(
      is_alone,
      lambda: CodecPayload(self.alone).decode(alone, model, weights).update,
      lambda: self.payload.decode(both, model, weights).update,
    )
    parts = tf.nest.map_structure(
      lambda part: tf.where(is_alone, tf.zeros_like(part), part),
      self.payload.parts(both, model, weights),
    )
    return Decoded(update, parts)

  def _specs(self, shapes):
    """`tf.TensorSpec`s of a sketch alone, and of the other message."""
    both = encoding.message_specs(self.payload.spec)
    with tf.Graph().as_default():
      zeros, seed = [tf.zeros(s) for s in shapes], tf.zeros([], tf.int32)
      alone, both['residual'] = (
        tf.nest.map_structure(
          tf.TensorSpec.from_tensor, codec.encode(zeros, seed)
        )
        for codec in (self.alone, self.payload.sketch.codec)
      )
    return alone, both
