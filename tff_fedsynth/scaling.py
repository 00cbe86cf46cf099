"""The scale that a payload carries: how long the replayed update is made.

One number for the whole update, or one for each weight tensor, for 4 bytes each.
"""

from collections.abc import Callable

import tensorflow as tf

from tff_fedsynth import objectives
from tff_fedsynth.objectives import Update

# Below this squared cosine, `unbiased` grows no further.
_GUARD = 0.64


def least_squares(update: Update, target: Update) -> tf.Tensor:
  """The c that minimises |c * update - target|; 0 for a zero update."""
  return tf.math.divide_no_nan(
    objectives.inner_product(update, target), objectives.squared_norm(update)
  )


def unbiased(update: Update, target: Update) -> tf.Tensor:
  """The c that makes <c * update, target> = |target|^2, with a guard.

  It is `least_squares` over the squared cosine, which is taken as 0.64 where it
  is less: a poor update would be made long instead of right.
  """
  square = objectives.cosine(update, target) ** 2
  return least_squares(update, target) / tf.maximum(square, _GUARD)


SCALINGS: dict[str, Callable[[Update, Update], tf.Tensor]] = {
  'least_squares': least_squares,
  'unbiased': unbiased,
}


def fit(
  update: Update,
  target: Update,
  by_layer: bool,
  rule: Callable[[Update, Update], tf.Tensor] = least_squares,
) -> tf.Tensor:
  """The scale of an update, float []; with `by_layer` one a tensor, float [n]."""
  if not by_layer:
    return rule(update, target)
  return tf.stack([rule((u,), (t,)) for u, t in zip(update, target)])


def apply(scale: tf.Tensor, update: Update) -> Update:
  """An update times its scale, as `fit` has it."""
  if scale.shape.rank == 0:
    return tuple(scale * u for u in update)
  return tuple(c * u for c, u in zip(tf.unstack(scale), update, strict=True))
