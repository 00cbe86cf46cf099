"""What crosses the network: synthetic data, and a sketch, or a codec's message.

A payload says how a client's message is encoded, and what update it stands for.
Client and server hold the same one.
"""

import collections
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
from typing import Any
from typing import NamedTuple

import tensorflow as tf

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


@dataclasses.dataclass(frozen=True)
class Payload:
  """Synthetic data, and a sketch of what they miss.

  Attributes:
    spec: Of the synthetic data.
    sketch: Of the residual; `None` if there is none.
    examples_at_once: Of several messages, in one gradient; 1 for a model in which
      examples of a batch change each other's outputs.
  """

  spec: SyntheticSpec
  sketch: sketch_lib.Sketch | None = None
  examples_at_once: int = EXAMPLES_AT_ONCE

  @property
  def data_bytes(self) -> int:
    """Bytes of the synthetic data."""
    specs = encoding.message_specs(self.spec).values()
    return sum(s.shape.num_elements() * s.dtype.size for s in specs)

  def num_bytes(self, shapes: codec_lib.Shapes) -> int:
    """Bytes of a message, for a model whose weights have these shapes.

    Raises:
      CodecError: If the codec of the sketch does not fit them.
      ResidualError: If it is biased.
    """
    if self.sketch is None:
      return self.data_bytes
    sketch_lib.check_unbiased(self.sketch.codec, shapes)
    return self.data_bytes + self.sketch.codec.message_bytes(shapes)

  def encode(
    self, variables, model, weights, *, target, fits_scale: bool, seed
  ) -> Encoded:
    """Encodes what a client learned.

    Args:
      variables: As in `encoding.initialize`.
      model: A `tff.learning.models.FunctionalModel`.
      weights: `(trainable, non_trainable)` tuples of tensors, as broadcast.
      target: The real update, to fit the scale and for the sketch; or `None`.
      fits_scale: Whether the replayed update gets its best scale.
      seed: int32 [2], of the client and round.
    """
    message, replayed = self.encode_data(
      variables, model, weights, target=target, fits_scale=fits_scale
    )
    if self.sketch is None:
      return Encoded(message, replayed, replayed)
    return self.add_sketch(
      message, replayed, model, weights, target=target, seed=seed
    )

  def encode_data(self, variables, model, weights, *, target, fits_scale: bool):
    """A message without its sketch, and the replayed update; see `encode`."""
    message = encoding.encode(self.spec, variables)
    replayed = self._replay(message, model, weights)[0]
    if fits_scale:
      scale = updates.best_scale(replayed, target)
      # A single step has its size in there already.
      message['scale'] = scale * message['scale']
      replayed = updates.scaled(scale, replayed)
    return message, replayed

  def add_sketch(
    self, message, replayed, model, weights, *, target, seed
  ) -> Encoded:
    """What `encode_data` gave, with the sketch; see `encode`."""
    residual = sketch_lib.encode(self.sketch, target, replayed, seed)
    message = collections.OrderedDict(message, residual=residual)
    update = self.decode(message, model, weights).update
    return Encoded(message, replayed, update)

  def decode(self, message, model, weights) -> Decoded:
    """The update that a message stands for; client and server call this.

    Args:
      message: As `encode` made it.
      model: A `tff.learning.models.FunctionalModel`.
      weights: `(trainable, non_trainable)` tuples of tensors, as broadcast.
    """
    update, data = self._replay(message, model, weights)
    if self.sketch is not None:
      update = sketch_lib.add(self.sketch, update, message['residual'])
    return Decoded(update, _parts(data))

  def parts(self, message, model, weights) -> Mapping[str, list[tf.Tensor]]:
    """The `Decoded.parts` of a message; arguments are those of `decode`."""
    return _parts(encoding.decode(self.spec, message, model, weights))

  @property
  def chunk_size(self) -> int:
    """Messages that are decoded together; 1 where each has to be alone."""
    is_linear = self.spec.steps == 1 and self.spec.has_linear_loss
    if self.sketch is not None or not is_linear:
      return 1
    return math.ceil(self.examples_at_once / self.spec.batch_size)

  def decode_sum(self, messages, factors, model, weights) -> Decoded:
    """The sum of the updates of `chunk_size` messages, by one gradient.

    A step from the same weights is a gradient, and a sum of gradients is one of
    all examples together. Factors, and scales, weigh the labels.

    Args:
      messages: With a first axis of clients.
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
class CodecPayload:
  """The message of a codec, for the whole update.

  Attributes:
    codec: Any.
  """

  # As `Payload.chunk_size`.
  chunk_size = 1

  codec: codec_lib.Codec

  def decode(self, message, model, weights) -> Decoded:
    """As `Payload.decode`; nothing of it has bounds but the update."""
    del model
    shapes = [tuple(w.shape) for w in weights[0]]
    message = collections.OrderedDict(message)
    return Decoded(tuple(self.codec.decode(message, shapes)), {})
