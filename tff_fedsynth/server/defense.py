"""What the server believes of a payload, and how it averages; pure TensorFlow.

A server sees what each client's data do, so every defense that needs single
updates can be had: bounds, clipping, and means that few liars cannot move.
"""

from collections.abc import Callable
import dataclasses
import functools

import tensorflow as tf

from tff_fedsynth import options
from tff_fedsynth import updates
from tff_fedsynth.payload.payload import Decoded
from tff_fedsynth.updates import Update

_option = functools.partial(options.option, group='Trust')

# Why a payload has no part in the mean, in the order of the checks.
REASONS = ('weight', 'non_finite_payload', 'out_of_bounds', 'non_finite_update')

# `adaptive` clips at so many times the median norm of a round.
_ADAPTIVE_FACTOR = 2.0


def _columns(stacked: Update, function) -> Update:
  """A function of sorted values, float [clients, n] to [n], for each tensor."""
  return tuple(
    tf.reshape(
      function(tf.sort(tf.reshape(u, [tf.shape(u)[0], -1]), axis=0)),
      u.shape[1:],
    )
    for u in stacked
  )


def median(stacked: Update, trim: float) -> Update:
  """The coordinate-wise median (Yin et al. 2018, definition 1)."""
  del trim

  def middle(values):
    count = tf.shape(values)[0]
    # Two of an even number; of none, NaN.
    return tf.reduce_mean(values[(count - 1) // 2 : count // 2 + 1], axis=0)

  return _columns(stacked, middle)


def trimmed_mean(stacked: Update, trim: float) -> Update:
  """The coordinate-wise mean without extremes (Yin et al. 2018, definition 2).

  Args:
    stacked: float [clients, ...], one at least.
    trim: Share of the clients left out at each end, rounded down, below half.
  """

  def inner(values):
    count = tf.shape(values)[0]
    left_out = tf.cast(trim * tf.cast(count, tf.float32) + 1e-4, tf.int32)
    return tf.reduce_mean(values[left_out : count - left_out], axis=0)

  return _columns(stacked, inner)


# Those that need all updates at once; `mean` does not.
ROBUST: dict[str, Callable[[Update, float], Update]] = {
  'median': median,
  'trimmed_mean': trimmed_mean,
}
AGGREGATIONS = ('mean', *ROBUST)


@dataclasses.dataclass(frozen=True)
class Defense:
  """What the server refuses, and how it averages what is left.

  Attributes:
    max_value: Largest magnitude of a decoded input or label.
    max_step_size: Largest magnitude of a step size.
    max_scale: Largest magnitude of a final scale.
    max_client_weight: Larger weights count as this; `None` for no limit.
    update_clip_norm: Updates of a larger norm are shortened to it; 'adaptive'
      for twice the median norm of the round; `None` for no clipping.
    aggregation: 'mean', weighted by clients; or a name in `ROBUST`, which takes
      memory for all updates of a round, and no weights.
    trim: Share of clients that 'trimmed_mean' leaves out at each end.

  Raises:
    OptionError: If a field is out of its range.
  """

  max_value: float = options.limited(1e4, above=0, is_infinite=True)
  max_step_size: float = options.limited(1e4, above=0, is_infinite=True)
  max_scale: float = options.limited(1e6, above=0, is_infinite=True)
  max_client_weight: float | None = _option(
    None,
    'Lets no client weigh more than this.',
    default_text='no limit',
    above=0,
  )
  update_clip_norm: float | str | None = _option(
    None,
    'Clips decoded updates to this norm; adaptive is twice the median norm of '
    'the round.',
    default_text='no clipping',
    above=0,
    words=('adaptive',),
  )
  aggregation: str = _option(
    'mean',
    'Chooses the mean of decoded updates: weighted, or robust against liars.',
    AGGREGATIONS,
  )
  trim: float = options.limited(0.2, minimum=0, below=0.5)

  def __post_init__(self):
    options.check(self)


def rejection(
  defense: Defense, decoded: Decoded, weight: tf.Tensor
) -> tf.Tensor:
  """Which of `REASONS` applies first, int32 []; their number where none does.

  Args:
    defense: The bounds.
    decoded: Of a client, or the sum of several.
    weight: float32 [], or [clients].
  """
  within_bounds = [
    tf.reduce_all(tf.abs(values) <= getattr(defense, bound))
    for bound, parts in decoded.parts.items()
    for values in parts
  ]
  parts = [values for of_bound in decoded.parts.values() for values in of_bound]
  fine = (
    # not (x > 0) is also true for NaN.
    tf.reduce_all((weight > 0) & tf.math.is_finite(weight)),
    updates.all_finite(parts),
    tf.reduce_all([True, *within_bounds]),
    updates.all_finite(decoded.update),
  )
  failed = tf.cast(tf.logical_not(tf.stack([*fine, False])), tf.int32)
  return tf.argmax(failed, output_type=tf.int32)


def adaptive_norm(norms: tf.Tensor) -> tf.Tensor:
  """Where `adaptive` clips, for the norms of accepted updates, float [n]."""
  return _ADAPTIVE_FACTOR * median((norms,), 0.0)[0]
