"""What a compressor of model updates is: pure TensorFlow, one update at a time.

`aggregation.CodecSumFactory` makes a TFF aggregator of any codec.
"""

import abc
import collections
from collections.abc import Callable
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


def largest(
  message_bytes: Callable[[int], int], most: int, budget: float, what: str
) -> int:
  """The largest size in [1, most] whose message fits a budget, by bisection.

  Args:
    message_bytes: Bytes of a message of a size; grows with it.
    most: The largest size.
    budget: In bytes.
    what: Names the codec in the error.

  Raises:
    BudgetTooSmallError: If not even size 1 fits.
  """
  require(message_bytes(1), budget, what)
  low, high = 1, most
  while low < high:
    middle = (low + high + 1) // 2
    if message_bytes(middle) <= budget:
      low = middle
    else:
      high = middle - 1
  return low


def require(smallest: int, budget: float, what: str) -> None:
  """Raises `BudgetTooSmallError` if the smallest message is over the budget."""
  if smallest > budget:
    raise BudgetTooSmallError(
      f'{what} uploads at least {smallest} bytes beside the weight of the '
      f'client, but the budget leaves {int(budget)}. Raise --uplink_bytes, or '
      'lower --compression_ratio.'
    )
