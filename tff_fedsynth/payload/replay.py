"""Replaying synthetic data: from weights and data to a model update.

Client and server call the same `replay`, so that what the client tuned is what
the server gets.

The gradient. With g(w, x, y) the gradient of the loss in the weights, replay is

  w[s + 1] = w[s] - eta[s] * g(w[s], x[s], y[s])     for s = 0 .. steps - 1
  update = scale * (w[0] - w[steps])

Let J be what the client minimizes and a[s] = dJ/dw[s]. The chain rule, walked
from the last step to the first, gives with p[s] = <g(w[s], x[s], y[s]), a[s + 1]>

  dJ/d eta[s] = -p[s]
  dJ/d x[s]   = -eta[s] * dp[s]/dx[s]       (labels y[s] likewise)
  a[s]        = a[s + 1] - eta[s] * dp[s]/dw[s]

where dp/dw is a Hessian-vector product. `_descend` keeps w[s] of every step and
does this in a loop: the graph does not grow with the number of steps, and memory
is steps times the size of the model.
"""

from collections.abc import Callable

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import updates
from tff_fedsynth.payload.spec import SyntheticData


def _descend(gradient, initial, inputs, labels, step_sizes):
  """Computes w[0] - w[steps], with the gradient derived at the top of this file.

  Args:
    gradient: Function (weights, inputs, labels) -> g of one step.
    initial: The trainable weights w[0].
    inputs: See `SyntheticData`, as are labels and step sizes.
    labels: Likewise.
    step_sizes: Likewise.
  """
  steps = inputs.shape[0]

  def run_forward(inputs, labels, step_sizes):
    trajectory = tuple(
      tf.TensorArray(w.dtype, steps, element_shape=w.shape) for w in initial
    )

    def step(s, weights, trajectory):
      trajectory = tuple(t.write(s, w) for t, w in zip(trajectory, weights))
      moves = gradient(weights, inputs[s], labels[s])
      weights = tuple(w - step_sizes[s] * g for w, g in zip(weights, moves))
      return s + 1, weights, trajectory

    _, weights, trajectory = tf.while_loop(
      lambda s, *_: s < steps, step, (0, initial, trajectory)
    )
    return tuple(w0 - w for w0, w in zip(initial, weights)), trajectory

  @tf.custom_gradient
  def descend(inputs, labels, step_sizes):
    update, trajectory = run_forward(inputs, labels, step_sizes)

    def backward(*upstream):
      def step(s, adjoint, arrays, needs_weights):
        weights = tuple(t.read(s) for t in trajectory)
        sources = (inputs[s], labels[s]) + (weights if needs_weights else ())
        with tf.GradientTape() as tape:
          tape.watch((weights, sources))
          product = updates.inner_product(
            gradient(weights, *sources[:2]), adjoint
          )
        d_x, d_y, *d_weights = tape.gradient(
          product, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        eta = step_sizes[s]
        values = (-eta * d_x, -eta * d_y, -product)
        arrays = tuple(a.write(s, v) for a, v in zip(arrays, values))
        adjoint = tuple(a - eta * d for a, d in zip(adjoint, d_weights))
        return s - 1, adjoint, arrays

      arrays = tuple(
        tf.TensorArray(v.dtype, steps, element_shape=v.shape[1:])
        for v in (inputs, labels, step_sizes)
      )
      adjoint = tuple(-u for u in upstream)
      s, adjoint, arrays = tf.while_loop(
        lambda s, *_: s > 0,
        lambda *state: step(*state, needs_weights=True),
        (steps - 1, adjoint, arrays),
      )
      # The weights before the first step are given: no product for them.
      _, _, arrays = step(s, adjoint, arrays, needs_weights=False)
      return tuple(array.stack() for array in arrays)

    return update, backward

  return descend(inputs, labels, step_sizes)


def replay(
  model: tff.learning.models.FunctionalModel,
  weights,
  data: SyntheticData,
  loss_fn: Callable[..., tf.Tensor],
) -> tuple[tf.Tensor, ...]:
  """Trains on synthetic data, one SGD step a batch, and returns the update.

  Args:
    model: The `tff.learning.models.FunctionalModel`, differentiable twice.
    weights: `(trainable, non_trainable)` tuples of tensors. They are constants
      of the gradient.
    data: The `SyntheticData`.
    loss_fn: (model, weights, inputs, labels) -> the loss of a synthetic batch,
      as `SyntheticSpec.loss_fn`.

  Returns:
    The update, shaped like the trainable weights: weights before minus weights
    after, as `tff.learning` has it, times `data.scale`. `tf.GradientTape` can
    differentiate it in `data` once.
  """
  trainable, frozen = tuple(weights[0]), tuple(weights[1])

  def gradient(weights, inputs, labels):
    with tf.GradientTape() as tape:
      tape.watch(weights)
      loss = loss_fn(model, (weights, frozen), inputs, labels)
    gradients = tape.gradient(
      loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    # Embedding lookups give tf.IndexedSlices.
    return tuple(tf.convert_to_tensor(g) for g in gradients)

  if data.inputs.shape[0] == 1:
    # One step needs no trajectory, and keeping its activations is faster.
    only = gradient(trainable, data.inputs[0], data.labels[0])
    update = updates.scaled(data.step_sizes[0], only)
  else:
    update = _descend(
      gradient, trainable, data.inputs, data.labels, data.step_sizes
    )
  return updates.scaled(data.scale, update)
