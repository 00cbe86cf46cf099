"""What a compressor of model updates is: pure TensorFlow, one update at a time.

`baselines.aggregation.CodecSumFactory` makes a TFF aggregator of any codec.
"""

import abc
import bisect
import collections
from collections.abc import Sequence
import math

import tensorflow as tf

from tff_fedsynth.communication import BudgetTooSmallError

Shapes = Sequence[tuple[int, ...]]

SEED_BYTES = 4
FLOAT_BYTES = 4


class Codec(abc.ABC):
  """Encodes a client's update in a message of fixed shapes, and decodes it.

  Subclasses are frozen dataclasses; what a user can set are fields made by
  `tff_fedsynth.options.option`, the rest follows from a budget.
  """

  @abc.abstractmethod
  def encode(
    self, values: Sequence[tf.Tensor], seed: tf.Tensor
  ) -> collections.OrderedDict[str, tf.Tensor]:
    """Encodes an update.

    Args:
      values: float32 tensors of known shapes.
      seed: int32 [], of all that is drawn. A codec whose server must draw the
        same again puts it into the message.

    Returns:
      The message: all that is uploaded.
    """

  @abc.abstractmethod
  def decode(self, message, shapes: Shapes) -> list[tf.Tensor]:
    """Decodes a message to float32 tensors of the given shapes."""

  @abc.abstractmethod
  def message_bytes(self, shapes: Shapes) -> int:
    """The size of a message in bytes, counted, for an update of these shapes."""

  def relative_error(self, shapes: Shapes) -> float | None:
    """E|decoded - x|^2 / |x|^2, the same for every update x, if it is unbiased.

    `None` for codecs that are biased, or whose error depends on the update.
    """
    del shapes
    return None

  @abc.abstractmethod
  def describe(self, shapes: Shapes) -> str:
    """A few words: how the message is filled."""

  @classmethod
  @abc.abstractmethod
  def for_budget(cls, budget: float, shapes: Shapes, **options) -> 'Codec':
    """The codec whose message fills a budget best.

    Args:
      budget: The most bytes a message may have; `math.inf` for no limit.
      shapes: Of the update's tensors.
      **options: Fields that are fixed.

    Raises:
      BudgetTooSmallError: If the smallest message is larger.
    """


class SizedCodec(Codec):
  """A codec whose first field is a size, which is what a budget decides."""

  @classmethod
  def largest_size(cls, shapes: Shapes) -> int:
    """The size at which nothing is left out; the number of floats by default."""
    return sum(sizes(shapes))

  @classmethod
  def for_budget(cls, budget, shapes, **options):
    def message_bytes(size):
      return cls(size, **options).message_bytes(shapes)

    require(message_bytes(1), budget, cls.__name__)
    all_sizes = range(1, cls.largest_size(shapes) + 1)
    return cls(
      bisect.bisect_right(all_sizes, budget, key=message_bytes), **options
    )


def sizes(shapes: Shapes) -> list[int]:
  """The number of floats in each tensor."""
  return [math.prod(shape) for shape in shapes]


def flatten(values: Sequence[tf.Tensor]) -> tf.Tensor:
  """All values in one float32 vector."""
  return tf.concat([tf.reshape(v, [-1]) for v in values], axis=0)


def unflatten(flat: tf.Tensor, shapes: Shapes) -> list[tf.Tensor]:
  """The tensors that `flatten` joined."""
  parts = tf.split(flat, sizes(shapes))
  return [tf.reshape(p, shape) for p, shape in zip(parts, shapes)]


def stateless_seed(seed: tf.Tensor, purpose: int) -> tf.Tensor:
  """An int32 [2] seed for stateless random functions, other for each purpose."""
  return tf.stack([seed, purpose])


def require(smallest: int, budget: float, what: str) -> None:
  """Raises `BudgetTooSmallError` if the smallest message is over the budget."""
  if smallest > budget:
    raise BudgetTooSmallError(
      f'{what} uploads at least {smallest} bytes beside the weight of the '
      f'client, but the budget leaves {int(budget)}. Raise the budget.'
    )
