"""What crosses the network, and the update that it stands for.

Client and server hold the same `Payload`. There are four kinds: synthetic data;
these with a sketch of the residual; these or a sketch of the whole update,
whichever has the smaller error; and the message of a codec.
"""

import abc
import collections
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
from typing import Any
from typing import NamedTuple

import tensorflow as tf

from tff_fedsynth import seeds
from tff_fedsynth import updates
from tff_fedsynth.compression import codec as codec_lib
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload import sketch as sketch_lib
from tff_fedsynth.payload.replay import replay
from tff_fedsynth.payload.spec import SyntheticData
from tff_fedsynth.payload.spec import SyntheticSpec
from tff_fedsynth.updates import Update

# More at once take more memory, and hardly less time.
EXAMPLES_AT_ONCE = 40
# Says which of two messages follows.
CHOICE_BYTES = 1


class Decoded(NamedTuple):
  """What a message stands for.

  Attributes:
    update: The model update.
    parts: Numbers that a server can bound, by the field of `Defense` that does:
      `max_value`, `max_step_size` or `max_scale`.
  """

  update: Update
  parts: Mapping[str, Sequence[tf.Tensor]]


class Encoded(NamedTuple):
  """A message, and what it stands for.

  Attributes:
    message: All that is uploaded, beside the client's weight.
    replayed: The update of the synthetic data alone, with its scale.
    update: The update that the server will decode.
  """

  message: collections.OrderedDict[str, Any]
  replayed: Update
  update: Update


def _parts(data: SyntheticData) -> dict[str, list[tf.Tensor]]:
  return dict(
    max_value=[data.inputs, data.labels],
    max_step_size=[data.step_sizes],
    max_scale=[data.scale],
  )


class Payload(abc.ABC):
  """What a client uploads, and how the server decodes it.

  Attributes:
    chunk_size: Number of messages that are decoded together, by `decode_sum`; 1
      where each has to be alone.
  """

  chunk_size: int = 1

  @abc.abstractmethod
  def decode(self, message, model, weights) -> Decoded:
    """Decodes the update that a message stands for.

    Args:
      message: As the client encoded it.
      model: A `tff.learning.models.FunctionalModel`.
      weights: `(trainable, non_trainable)` tuples of tensors, as broadcast.
    """


@dataclasses.dataclass(frozen=True)
class SyntheticPayload(Payload):
  """Synthetic data, which are replayed.

  Attributes:
    spec: Shapes and encoding of the synthetic data.
    examples_at_once: Number of examples, of several messages, in one gradient; 1
      for a model in which examples of a batch change each other's outputs.
  """

  spec: SyntheticSpec
  examples_at_once: int = EXAMPLES_AT_ONCE

  @property
  def data_bytes(self) -> int:
    """Bytes of the synthetic data."""
    specs = encoding.message_specs(self.spec).values()
    return sum(s.shape.num_elements() * s.dtype.size for s in specs)

  def num_bytes(self, shapes: codec_lib.Shapes) -> int:
    """Counts the bytes of a message, for weights of these shapes."""
    del shapes
    return self.data_bytes

  def encode(
    self, variables, model, weights, *, target, fits_scale: bool, seed=None
  ) -> Encoded:
    """Encodes what a client learned.

    Args:
      variables: As in `encoding.initialize`.
      model: A `tff.learning.models.FunctionalModel`.
      weights: `(trainable, non_trainable)` tuples of tensors, as broadcast.
      target: The local update, to fit the scale and for a sketch; or `None`.
      fits_scale: Whether the replayed update gets its best scale.
      seed: int32 [2], of the client and round, for a sketch.
    """
    del seed
    message = encoding.encode(self.spec, variables)
    replayed, _ = self._replay(message, model, weights)
    if fits_scale:
      scale = updates.best_scale(replayed, target)
      # A single step has its size in there already.
      message['scale'] = scale * message['scale']
      replayed = updates.scaled(scale, replayed)
    return Encoded(message, replayed, replayed)

  def decode(self, message, model, weights) -> Decoded:
    update, data = self._replay(message, model, weights)
    return Decoded(update, _parts(data))

  @property
  def chunk_size(self) -> int:
    """Number of messages that are decoded together."""
    if self.spec.steps > 1 or not self.spec.has_linear_loss:
      return 1
    return math.ceil(self.examples_at_once / self.spec.batch_size)

  def decode_sum(self, messages, factors, model, weights) -> Decoded:
    """Decodes the sum of the updates of `chunk_size` messages, by one gradient.

    A step from the same weights is a gradient, and a sum of gradients is one of
    all examples together. Factors, and scales, weigh the labels.

    Args:
      messages: Messages with a first axis of clients.
      factors: float32 [clients], what each update is multiplied with.
      model: As in `decode`.
      weights: As in `decode`.

    Returns:
      The sum, equal to that of single updates but for rounding, and the parts of
      all messages.
    """
    number, size = self.chunk_size, self.spec.batch_size
    spec = dataclasses.replace(self.spec, batch_size=number * size)
    scale = messages['scale']
    examples = {
      name: tf.reshape(part, [1, number * size, *part.shape[3:]])
      for name, part in messages.items()
      if name != 'scale'
    }
    data = encoding.decode(
      spec, dict(examples, scale=tf.ones([])), model, weights
    )
    # The loss is the mean over the examples of all, not of one.
    factors = tf.repeat(number * factors * scale, size)
    shape = [1, number * size] + [1] * (data.labels.shape.rank - 2)
    weighted = data._replace(labels=tf.reshape(factors, shape) * data.labels)
    update = replay(model, weights, weighted, self.spec.loss_fn)
    return Decoded(update, _parts(data._replace(scale=scale)))

  def _replay(self, message, model, weights):
    data = encoding.decode(self.spec, message, model, weights)
    return replay(model, weights, data, self.spec.loss_fn), data


@dataclasses.dataclass(frozen=True)
class SketchedPayload(Payload):
  """Synthetic data, and a sketch of the residual.

  Attributes:
    data: The payload of the synthetic data.
    sketch: How the residual is sketched.
  """

  data: SyntheticPayload
  sketch: sketch_lib.Sketch

  @property
  def data_bytes(self) -> int:
    """Bytes of the synthetic data."""
    return self.data.data_bytes

  def num_bytes(self, shapes: codec_lib.Shapes) -> int:
    """Counts the bytes of a message, for weights of these shapes.

    Raises:
      CodecError: If the codec of the sketch does not fit them.
      ResidualError: If it is biased.
    """
    sketch_lib.check_unbiased(self.sketch.codec, shapes)
    return self.data_bytes + self.sketch.codec.message_bytes(shapes)

  def encode(
    self, variables, model, weights, *, target, fits_scale: bool, seed
  ) -> Encoded:
    """Encodes what a client learned; see `SyntheticPayload.encode`."""
    encoded = self.data.encode(
      variables, model, weights, target=target, fits_scale=fits_scale
    )
    return self.add_sketch(encoded, model, weights, target=target, seed=seed)

  def add_sketch(
    self, encoded: Encoded, model, weights, *, target, seed
  ) -> Encoded:
    """Adds the sketch to encoded synthetic data; see `encode`."""
    residual = [t - u for t, u in zip(target, encoded.replayed)]
    message = collections.OrderedDict(
      encoded.message,
      residual=self.sketch.codec.encode(residual, seeds.draw_seed(seed)),
    )
    # Bit for bit as on the server, so once more.
    update = self.decode(message, model, weights).update
    return Encoded(message, encoded.replayed, update)

  def decode(self, message, model, weights) -> Decoded:
    replayed, parts = self.data.decode(message, model, weights)
    shapes = [tuple(u.shape) for u in replayed]
    sketched = self.sketch.codec.decode(message['residual'], shapes)
    scale = self.sketch.scale
    update = tuple(u + scale * r for u, r in zip(replayed, sketched))
    return Decoded(update, parts)


@dataclasses.dataclass(frozen=True)
class EitherPayload(Payload):
  """Synthetic data with a sketch of the residual, or a sketch of the whole.

  Synthetic data are worth their bytes where an update is easy to learn, as in
  early rounds. Later a sketch of the whole update, by the same bytes, can have
  less error. A client knows both errors before it sends: see
  `sketch.is_better_alone`. It looks at these, not at what is drawn, so that
  neither way gets a bias by the choice.

  A message is uint8 [], 1 for a sketch alone, and the bytes of the longer one.

  Attributes:
    both: The payload of the one way; its sketch has the codec `alone`, of the
      other.
  """

  both: SketchedPayload

  @property
  def data_bytes(self) -> int:
    """Bytes of the synthetic data."""
    return self.both.data_bytes

  @property
  def _alone(self) -> codec_lib.Codec:
    return self.both.sketch.alone

  def num_bytes(self, shapes: codec_lib.Shapes) -> int:
    """Counts the bytes of a message; see `SketchedPayload.num_bytes`."""
    sketch_lib.check_unbiased(self._alone, shapes)
    return CHOICE_BYTES + max(
      self.both.num_bytes(shapes), self._alone.message_bytes(shapes)
    )

  def encode(
    self, variables, model, weights, *, target, fits_scale: bool, seed
  ) -> Encoded:
    """Encodes what a client learned; see `SyntheticPayload.encode`.

    `replayed` is of the synthetic data in any case.
    """
    encoded = self.both.data.encode(
      variables, model, weights, target=target, fits_scale=fits_scale
    )
    shapes = codec_lib.known_shapes(target)
    residual = tuple(t - u for t, u in zip(target, encoded.replayed))
    is_alone = sketch_lib.is_better_alone(
      self.both.sketch,
      shapes,
      residual=updates.squared_norm(residual),
      whole=updates.squared_norm(target),
    )
    num_bytes = self.num_bytes(shapes) - CHOICE_BYTES

    def encode_alone():
      message = self._alone.encode(target, seeds.draw_seed(seed))
      update = tuple(self._alone.decode(message, shapes))
      return encoding.to_bytes(message, num_bytes), update

    def encode_both():
      both = self.both.add_sketch(
        encoded, model, weights, target=target, seed=seed
      )
      return encoding.to_bytes(both.message, num_bytes), both.update

    packed, update = tf.cond(is_alone, encode_alone, encode_both)
    message = collections.OrderedDict(
      is_alone=tf.cast(is_alone, tf.uint8), packed=packed
    )
    return Encoded(message, encoded.replayed, update)

  def decode(self, message, model, weights) -> Decoded:
    """Decodes a message; a sketch alone has nothing to bound but its update."""
    specs_alone, specs_both = self._specs([tuple(w.shape) for w in weights[0]])
    is_alone = message['is_alone'] > 0
    both = encoding.from_bytes(message['packed'], specs_both)
    alone = encoding.from_bytes(message['packed'], specs_alone)
    update = tf.cond(
      is_alone,
      lambda: CodecPayload(self._alone).decode(alone, model, weights).update,
      lambda: self.both.decode(both, model, weights).update,
    )
    data = encoding.decode(self.both.data.spec, both, model, weights)
    parts = tf.nest.map_structure(
      lambda part: tf.where(is_alone, tf.zeros_like(part), part), _parts(data)
    )
    return Decoded(update, parts)

  def _specs(self, shapes):
    """Returns `tf.TensorSpec`s of a sketch alone, and of the other message."""
    both = encoding.message_specs(self.both.data.spec)
    with tf.Graph().as_default():
      zeros, seed = [tf.zeros(s) for s in shapes], tf.zeros([], tf.int32)
      alone, both['residual'] = (
        tf.nest.map_structure(
          tf.TensorSpec.from_tensor, codec.encode(zeros, seed)
        )
        for codec in (self._alone, self.both.sketch.codec)
      )
    return alone, both


@dataclasses.dataclass(frozen=True)
class CodecPayload(Payload):
  """The message of a codec, for the whole update.

  Attributes:
    codec: Any codec.
  """

  codec: codec_lib.Codec

  def decode(self, message, model, weights) -> Decoded:
    """Decodes a message; nothing of it has bounds but the update."""
    del model
    shapes = [tuple(w.shape) for w in weights[0]]
    message = collections.OrderedDict(message)
    return Decoded(tuple(self.codec.decode(message, shapes)), {})
