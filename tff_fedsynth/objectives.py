"""What a client minimises while it learns its synthetic data.

All updates follow `tff.learning`: weights before minus weights after. An own
objective is an instance of a subclass of `Objective`.
"""

import abc
from collections.abc import Callable

import tensorflow as tf

from tff_fedsynth import options

Update = tuple[tf.Tensor, ...]


class UnknownObjectiveError(options.OptionError):
  """No objective has this name; the message lists those that there are."""


def inner_product(a: Update, b: Update) -> tf.Tensor:
  """The sum over all weights of a * b, a scalar."""
  return tf.add_n([tf.reduce_sum(x * y) for x, y in zip(a, b)])


def squared_norm(a: Update) -> tf.Tensor:
  """The sum over all weights of a * a, a scalar."""
  return inner_product(a, a)


def cosine(a: Update, b: Update) -> tf.Tensor:
  """The cosine of the angle between two updates; 0 where one is zero."""
  return tf.math.divide_no_nan(
    inner_product(a, b), tf.sqrt(squared_norm(a)) * tf.sqrt(squared_norm(b))
  )


def relative_squared_error(update: Update, target: Update) -> tf.Tensor:
  """|update - target|^2 / |target|^2; 0 where the target is zero."""
  difference = tuple(u - t for u, t in zip(update, target))
  return tf.math.divide_no_nan(squared_norm(difference), squared_norm(target))


class Objective(abc.ABC):
  """A loss of the replayed update, to be minimised over synthetic data.

  Attributes:
    uses_target: Whether the real local update is needed. If not, no local
      training takes place, and the scale that is sent is 1.
    uses_batches: Whether real batches are needed. If so, one meta-step is taken
      for each real batch of the client's data set.
  """

  uses_target: bool = True
  uses_batches: bool = False

  @abc.abstractmethod
  def value(
    self,
    update: Update,
    target: Update | None,
    batch_loss: Callable[[Update], tf.Tensor] | None,
  ) -> tf.Tensor:
    """The scalar to minimise.

    Args:
      update: The replayed update; at its best scale, if `uses_target`.
      target: The real local update, if `uses_target`.
      batch_loss: If `uses_batches`, maps an update to the loss on the current
        real batch of the model to which the update was applied.
    """


class DataLoss(Objective):
  """Loss on real data after the replay (Hu et al. 2022, equation 2)."""

  uses_target = False
  uses_batches = True

  def value(self, update, target, batch_loss):
    del target
    return batch_loss(update)


class UpdateL2(Objective):
  """|update - target|^2 / |target|^2 (Goetz & Tewari 2020, section 3).

  The update has its best scale. Leaving that out of the learning made some
  clients diverge late in training, when targets are short.
  """

  def value(self, update, target, batch_loss):
    del batch_loss
    return relative_squared_error(update, target)


class UpdateCosine(Objective):
  """1 - cos(update, target), with the best scale sent (3SFC, Zhou et al. 2023)."""

  def value(self, update, target, batch_loss):
    del batch_loss
    return 1.0 - cosine(update, target)


OBJECTIVES: dict[str, Objective] = {
  'data_loss': DataLoss(),
  'update_l2': UpdateL2(),
  'update_cosine': UpdateCosine(),
}


def get_objective(objective: str | Objective) -> Objective:
  """Looks an objective up by name, or passes an `Objective` through.

  Raises:
    UnknownObjectiveError: If the name is not in `OBJECTIVES`.
    TypeError: If it is neither a name nor an `Objective`.
  """
  if isinstance(objective, Objective):
    return objective
  if not isinstance(objective, str):
    raise TypeError(
      'objective must be a name or an instance of a subclass of '
      f'tff_fedsynth.objectives.Objective, found {objective!r}.'
    )
  return options.pick(OBJECTIVES, objective, 'objective', UnknownObjectiveError)
