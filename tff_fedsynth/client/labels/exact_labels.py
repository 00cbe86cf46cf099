"""The best labels for given inputs: least squares, pure TensorFlow.

One step with labels r that the loss is linear in replays to u = J^T r, where J is
the Jacobian of the outputs in the weights, at the synthetic inputs. The labels that
minimize |J^T r - t|^2 are a least-squares problem (variable projection, Golub &
Pereyra 1973). `solve` takes steps of conjugate gradients on it (CGLS, Hestenes &
Stiefel 1952). J^T p is a replay with labels p, and J e is the gradient of a replay
in its labels, in the direction e: nothing as large as J is formed.
"""

import tensorflow as tf

from tff_fedsynth import updates
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload import replay as replay_lib


def applies_to(spec, objective) -> bool:
  """Whether labels of this kind can be solved for, for this objective."""
  return (
    objective.is_least_squares and spec.steps == 1 and spec.has_linear_labels
  )


def solve(model, weights, variables, target, spec, steps: int):
  """Steps of CGLS towards the labels whose update is nearest to the target.

  Each step lessens |J^T r - target|. Inputs are taken as the server will decode
  them. Of sparse labels, only those that are sent are changed.

  Args:
    model: A `tff.learning.models.FunctionalModel`.
    weights: `(trainable, non_trainable)` tuples of tensors.
    variables: As in `encoding.initialize`; labels to start from.
    target: The real update.
    spec: The `SyntheticSpec`; see `applies_to`.
    steps: How many, from 0; a few, as more bring out rounding errors.

  Returns:
    The variables, with other labels.
  """
  data = encoding.relax(spec, variables, model, weights)
  free = tf.ones_like(data.labels)
  if spec.is_sparse:
    free = tf.cast(tf.not_equal(data.labels, 0), tf.float32)

  def replay(labels):
    moved = data._replace(labels=labels)
    return replay_lib.replay(model, weights, moved, spec.loss_fn)

  with tf.GradientTape(persistent=True) as tape:
    tape.watch(data.labels)
    update = replay(data.labels)

  def descent(error):
    # The gradient of a linear function is the same for all labels.
    return free * tape.gradient(
      update,
      data.labels,
      output_gradients=error,
      unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )

  scale = updates.best_scale(update, target)
  solved = scale * data.labels
  error = tuple(t - scale * u for t, u in zip(target, update))

  def step(i, solved, error, direction, length):
    moved = replay(direction)
    size = tf.math.divide_no_nan(length, updates.squared_norm(moved))
    solved += size * direction
    error = tuple(e - size * m for e, m in zip(error, moved))
    gradient = descent(error)
    last, length = length, tf.reduce_sum(gradient**2)
    direction = gradient + tf.math.divide_no_nan(length, last) * direction
    return i + 1, solved, error, direction, length

  gradient = descent(error)
  # A loop of TensorFlow: the graph of a replay can be large.
  _, solved, _, _, _ = tf.while_loop(
    lambda i, *_: i < steps,
    step,
    (0, solved, error, gradient, tf.reduce_sum(gradient**2)),
  )
  return {**variables, 'labels': solved}
