"""What a client minimizes while it learns its synthetic data.

An own objective is an instance of a subclass of `Objective`; put into `OBJECTIVES`,
it has a name.
"""

import abc
from collections.abc import Callable

import tensorflow as tf

from tff_fedsynth import errors
from tff_fedsynth import options
from tff_fedsynth import updates
from tff_fedsynth.updates import Update


class UnknownObjectiveError(errors.OptionError):
  """No objective has this name; the message lists those that there are."""


class Objective(abc.ABC):
  """A loss of the replayed update, to be minimized over synthetic data.

  Attributes:
    uses_target: Whether the real local update is needed. If not, no local
      training takes place, and the scale that is sent is 1.
    uses_batches: Whether real batches are needed. If so, one meta-step is taken
      for each real batch of the client's data set.
    is_least_squares: Whether, of updates at their best scale, the nearest to the
      target is the best. Labels can then be solved for; see `exact_labels`.
  """

  uses_target: bool = True
  uses_batches: bool = False
  is_least_squares: bool = False

  @abc.abstractmethod
  def value(
    self,
    update: Update,
    target: Update | None,
    batch_loss: Callable[[Update], tf.Tensor] | None,
  ) -> tf.Tensor:
    """The scalar to minimize.

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

  is_least_squares = True

  def value(self, update, target, batch_loss):
    del batch_loss
    return updates.relative_squared_error(update, target)


class UpdateCosine(Objective):
  """1 - cos(update, target), with the best scale sent (3SFC, Zhou et al. 2023)."""

  is_least_squares = True

  def value(self, update, target, batch_loss):
    del batch_loss
    return 1.0 - updates.cosine(update, target)


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
      f'tff_fedsynth.Objective, found {objective!r}.'
    )
  return options.pick(OBJECTIVES, objective, 'objective', UnknownObjectiveError)
