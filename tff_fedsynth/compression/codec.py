"""What a compressor of model updates is, one update at a time.

`baselines.aggregation.CodecSumFactory` makes a TFF aggregator of any codec, and
`tff_fedsynth.build_codec_fed_avg` a whole process.
"""

import abc
import bisect
import collections
from collections.abc import Sequence
import dataclasses
import math

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import errors
from tff_fedsynth import options
from tff_fedsynth import seeds
from tff_fedsynth.errors import BudgetTooSmallError

Shapes = Sequence[tuple[int, ...]]

SEED_BYTES = 4
FLOAT_BYTES = 4


class CodecError(errors.OptionError):
  """A codec that does not fit an update; the message says what to change."""


class Codec(abc.ABC):
  """Encodes a client's update in a message of fixed shapes, and decodes it.

  Subclasses are frozen dataclasses; what a user can set are fields made by
  `tff_fedsynth.options.option`, the rest follows from a budget. They define the
  methods with an underscore, which are called with what `check_fits` lets pass.
  """

  def check_fits(self, shapes: Shapes) -> None:
    """Raises `CodecError` if updates of these shapes cannot be encoded.

    All methods that know the shapes call it.
    """
    check_shapes(shapes)
    self._check_fits(shapes)

  def encode(
    self, values: Sequence[tf.Tensor], seed: tf.Tensor
  ) -> collections.OrderedDict[str, tf.Tensor]:
    """Encodes an update.

    What becomes of values that are not finite is not said. TFF's FedAvg, and
    FedSynth's client, take zeros of no weight for an update with any.

    Args:
      values: float32 tensors of known shapes.
      seed: int32 [], of all that is drawn. A codec whose server must draw the
        same again puts it into the message.

    Returns:
      The message: all that is uploaded.

    Raises:
      CodecError: See `check_fits`.
      OptionError: If the seed is a number that is no 32-bit integer.
      TypeError: If the values are not float32, or the seed is not int32.
    """
    values = [tf.convert_to_tensor(v) for v in values]
    self.check_fits(known_shapes(values))
    if not tf.is_tensor(seed):
      options.check_seed(seed)
      seed = tf.constant(seed, tf.int32)
    if seed.dtype != tf.int32:
      raise TypeError(f'The seed must be int32, found {seed.dtype.name}.')
    return self._encode(values, seed)

  def decode(self, message, shapes: Shapes) -> list[tf.Tensor]:
    """Decodes a message to float32 tensors of the given shapes."""
    self.check_fits(shapes)
    return self._decode(message, shapes)

  def message_bytes(self, shapes: Shapes) -> int:
    """Counts the bytes of a message, for an update of these shapes."""
    self.check_fits(shapes)
    return self._message_bytes(shapes)

  def relative_error(self, shapes: Shapes) -> float | None:
    """Returns E|decoded - x|^2 / |x|^2 if it is the same for every update x.

    `None` for codecs that are biased, or whose error depends on the update.
    """
    self.check_fits(shapes)
    return self._relative_error(shapes)

  def describe(self, shapes: Shapes) -> str:
    """Describes how the message is filled, in a few words."""
    self.check_fits(shapes)
    return self._describe(shapes)

  @classmethod
  def for_budget(cls, budget: float, shapes: Shapes, **fields) -> 'Codec':
    """Returns the codec whose message fills a budget best.

    Args:
      budget: The most bytes a message may have; `math.inf` for no limit.
      shapes: Shapes of the update's tensors.
      **fields: Fields that are fixed.

    Raises:
      BudgetTooSmallError: If the smallest message is larger.
      CodecError: If no update has these shapes, or the budget is no number.
    """
    check_shapes(shapes)
    if math.isnan(budget):
      raise CodecError('The budget must be a number of bytes, found NaN.')
    if not math.isinf(budget):
      budget = math.floor(budget)
    return cls._for_budget(budget, shapes, **fields)

  def _check_fits(self, shapes):
    """As `check_fits`, for shapes that some codecs can encode."""
    del shapes

  @abc.abstractmethod
  def _encode(self, values, seed):
    """See `encode`."""

  @abc.abstractmethod
  def _decode(self, message, shapes):
    """See `decode`."""

  @abc.abstractmethod
  def _message_bytes(self, shapes):
    """See `message_bytes`."""

  def _relative_error(self, shapes):
    """See `relative_error`."""
    del shapes
    return None

  @abc.abstractmethod
  def _describe(self, shapes):
    """See `describe`."""

  @classmethod
  @abc.abstractmethod
  def _for_budget(cls, budget, shapes, **fields):
    """See `for_budget`; the budget is a whole number or infinite."""


class SizedCodec(Codec):
  """A codec whose first field is a size, which is what a budget decides."""

  @classmethod
  def largest_size(cls, shapes: Shapes) -> int:
    """Returns the size at which nothing is left out, by default all floats."""
    return sum(sizes(shapes))

  def _check_fits(self, shapes):
    name = dataclasses.fields(self)[0].name
    size, largest = getattr(self, name), self.largest_size(shapes)
    if size > largest:
      raise CodecError(
        f'{self} does not fit an update of {sum(sizes(shapes))} values: '
        f'{name} can be at most {largest} there.'
      )

  @classmethod
  def _for_budget(cls, budget, shapes, **fields):
    def message_bytes(size):
      return cls(size, **fields).message_bytes(shapes)

    require(message_bytes(1), budget, cls.__name__)
    all_sizes = range(1, cls.largest_size(shapes) + 1)
    return cls(
      bisect.bisect_right(all_sizes, budget, key=message_bytes), **fields
    )


def check_shapes(shapes: Shapes) -> None:
  """Raises `CodecError` unless shapes are known, and hold a value or more."""
  if any(side is None or side < 0 for shape in shapes for side in shape):
    raise CodecError(
      f'An update is encoded in a message of known size, but its shapes are '
      f'{list(shapes)}. Give every axis its size.'
    )
  if not any(sizes(shapes)):
    raise CodecError(
      f'An update with the shapes {list(shapes)} has no values to encode. '
      'Aggregate it without a codec.'
    )


def known_shapes(values: Sequence[tf.Tensor | tf.TensorSpec]) -> Shapes:
  """Returns the shapes of float32 tensors, or of specs of them.

  Raises:
    CodecError: If the number of axes of one is not known.
    TypeError: If one is not float32.
  """
  found = sorted({v.dtype.name for v in values} - {'float32'})
  if found:
    raise TypeError(
      f'Codecs are for float32 values, but found {", ".join(found)}. Cast them '
      'first.'
    )
  if any(v.shape.rank is None for v in values):
    raise CodecError(
      'An update is encoded in a message of known size, but one of its shapes '
      'is not known at all. Give every tensor its shape.'
    )
  return [tuple(v.shape) for v in values]


def sizes(shapes: Shapes) -> list[int]:
  """Returns the number of floats in each tensor."""
  return [math.prod(shape) for shape in shapes]


def flatten(values: Sequence[tf.Tensor]) -> tf.Tensor:
  """Joins all values in one float32 vector."""
  return tf.concat([tf.reshape(v, [-1]) for v in values], axis=0)


def unflatten(flat: tf.Tensor, shapes: Shapes) -> list[tf.Tensor]:
  """Returns the tensors that `flatten` joined."""
  parts = tf.split(flat, sizes(shapes))
  return [tf.reshape(p, shape) for p, shape in zip(parts, shapes)]


def stateless_seed(seed: tf.Tensor, purpose: int) -> tf.Tensor:
  """Returns an int32 [2] seed for stateless random functions, one a purpose."""
  return tf.stack([seed, purpose])


def random_indices(seed: tf.Tensor, size: int, kept: int) -> tf.Tensor:
  """Draws `kept` different indices below `size`, uniform, int32 [kept]."""
  shuffled = tf.random.experimental.stateless_shuffle(
    tf.range(size), stateless_seed(seed, 0)
  )
  return shuffled[:kept]


def require(smallest: int, budget: float, what: str) -> None:
  """Raises `BudgetTooSmallError` if the smallest message is over the budget."""
  if smallest > budget:
    raise BudgetTooSmallError(
      f'{what} uploads at least {smallest} bytes beside the weight of the '
      f'client, but the budget leaves {budget}. Raise the budget.'
    )


def build_encode(
  codec: Codec, value_type: tff.Type
) -> tuple[Shapes, tff.Computation]:
  """Builds what a client does with a value: encode it with a seed of its own.

  Args:
    codec: What encodes.
    value_type: The type of a value, a structure of tensors.

  Returns:
    The shapes of the tensors, and a computation from the int32 [2] seed of a
    round and a value to the message and its distortion
    |decoded - value|^2 / |value|^2, float32.

  Raises:
    CodecError: If the codec does not fit the shapes of the value.
    TypeError: If the value is not a structure of float32 tensors.
  """
  specs = tf.nest.flatten(tff.types.type_to_tf_tensor_specs(value_type))
  shapes = known_shapes(specs)
  codec.check_fits(shapes)

  @tff.tensorflow.computation(tff.TensorType(np.int32, [2]), value_type)
  def encode(round_seed, value):
    values = tf.nest.flatten(value)
    seed = seeds.draw_seed(seeds.fold_in_data(round_seed, values))
    message = codec.encode(values, seed)
    decoded = codec.decode(message, shapes)
    # One op a tensor: updates of many tensors are large.
    error = tf.add_n([tf.nn.l2_loss(d - v) for d, v in zip(decoded, values)])
    norm = tf.add_n([tf.nn.l2_loss(v) for v in values])
    return message, tf.math.divide_no_nan(error, norm)

  return shapes, encode
