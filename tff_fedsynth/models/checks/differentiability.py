"""Checks that the gradient of a replay is right, before anything trains.

A replay is a step along the gradient g(w, x, y) of a loss in the weights, so the
gradient of a replay in the synthetic data (x, y) is a derivative of a derivative.
TensorFlow has none for some ops, and a silent zero for others. So for a fixed a,

  d<g(w, x, y), a> / d(x, y)

along a random direction is compared with a central difference, on a tiny batch.
"""

from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Sequence
import dataclasses
import re
import weakref

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

_TRIES = 3
# How TensorFlow says that it has no derivative.
_MISSING = re.compile(
  r'(?:gradient registry has no entry for:|No gradient defined .*op type:) (\w+)'
)
_CHECKED: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True)
class _Precision:
  """How a difference is taken, and how far off a gradient may be.

  Attributes:
    dtype: Of all computations.
    steps: Two lengths of a step. Where they do not agree the loss has a kink in
      between, and nothing can be said there.
    agreement: Relative distance up to which they do.
    tolerance: Relative distance of gradient and difference, likewise.
    compares_inputs: Whether steps are so short that hardly any activation has a
      kink in between. Labels have no such kinks.
  """

  dtype: tf.DType
  steps: tuple[float, float]
  agreement: float
  tolerance: float
  compares_inputs: bool


FLOAT64 = _Precision(tf.float64, (1e-6, 1e-7), 1e-2, 1e-2, True)
# Of the inputs, only a gradient that is zero and should not be is found.
FLOAT32 = _Precision(tf.float32, (3e-2, 1e-2), 5e-2, 0.1, False)


class WrongGradientError(ValueError):
  """A gradient of a gradient is missing or wrong; the message says in what way."""


def _relative(a: float, b: float, scale: float) -> float:
  return abs(a - b) / max(abs(a), abs(b), scale)


def _rounds(graph: tf.Graph) -> bool:
  """Whether an op makes float32 of float64, as `tf.image.resize` does."""
  return any(
    tf.float64 in (t.dtype for t in op.inputs)
    and tf.float32 in (t.dtype for t in op.outputs)
    for op in graph.get_operations()
  )


class _Probe:
  """<g(w, x, y), a> and its gradient in x and y, in a graph of its own."""

  def __init__(self, loss, weights, values, precision):
    dtype = precision.dtype
    self._graph = tf.Graph()
    with self._graph.as_default():
      place = lambda v: tf.compat.v1.placeholder(
        dtype if np.asarray(v).dtype.kind == 'f' else np.asarray(v).dtype,
        np.shape(v),
      )
      self._weights = tf.nest.map_structure(place, weights)
      self._values = tuple(map(place, values))
      self._adjoint = tuple(map(place, weights[0]))

      @tf.function
      def run(trainable, frozen, values, adjoint):
        with tf.GradientTape() as outer:
          outer.watch(values)
          with tf.GradientTape() as inner:
            inner.watch(trainable)
            value = loss((trainable, frozen), *values)
          gradient = tuple(
            tf.convert_to_tensor(g)
            for g in inner.gradient(
              value,
              trainable,
              unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
          )
          product = tf.add_n(
            [tf.reduce_sum(g * a) for g, a in zip(gradient, adjoint)]
          )
        return (
          gradient,
          product,
          outer.gradient(
            product,
            values,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
          ),
        )

      traced = run.get_concrete_function(
        *self._weights, self._values, self._adjoint
      )
      if dtype == tf.float64 and _rounds(traced.graph):
        raise TypeError('It computes in float32 in between.')
      self._outputs = run(*self._weights, self._values, self._adjoint)
    self._session = tf.compat.v1.Session(graph=self._graph)
    self._feed = dict(
      zip(tf.nest.flatten(self._weights), tf.nest.flatten(weights))
    )
    self._zero = tuple(np.zeros(np.shape(w)) for w in weights[0])

  def gradient(self, values):
    """g(w, x, y)."""
    return self._run(self._outputs[0], values, self._zero)

  def product(self, values, adjoint) -> float:
    return float(self._run(self._outputs[1], values, adjoint))

  def product_gradient(self, values, adjoint):
    return self._run(self._outputs[2], values, adjoint)

  def _run(self, fetches, values, adjoint):
    feed = dict(self._feed)
    feed.update(zip(self._values, values))
    feed.update(zip(self._adjoint, adjoint))
    return self._session.run(fetches, feed)

  def close(self):
    self._session.close()


def _judge(probe, part, values, adjoint, precision, random) -> bool | None:
  """Whether the gradient along one direction is right; `None` if none can say."""
  direction = random.normal(size=np.shape(values[part]))
  gradient = np.asarray(
    probe.product_gradient(values, adjoint)[part], np.float64
  )
  along = float(np.sum(gradient * direction))

  def moved(step):
    changed = list(values)
    changed[part] = values[part] + step * direction
    return probe.product(changed, adjoint)

  differences = [(moved(h) - moved(-h)) / (2 * h) for h in precision.steps]
  size = abs(probe.product(values, adjoint))
  # What rounding alone makes of a difference.
  noise = 100 * np.finfo(precision.dtype.as_numpy_dtype).eps * size
  scale = max(
    noise / min(precision.steps),
    1e-3 * np.linalg.norm(gradient),
    np.finfo(np.float32).tiny,
  )
  if (
    not np.isfinite([along, *differences]).all()
    or _relative(*differences, scale) > precision.agreement
  ):
    return None
  if part == 0 and not precision.compares_inputs:
    return bool(np.any(gradient)) or max(map(abs, differences)) <= scale
  return _relative(along, differences[0], scale) <= precision.tolerance


def check(
  loss: Callable[..., tf.Tensor],
  weights,
  draw: Callable[[np.random.RandomState], Sequence[np.ndarray]],
  precision: _Precision,
) -> list[bool]:
  """Compares gradients of gradients with differences.

  Args:
    loss: (weights, *values) -> a scalar, where weights are `(trainable, frozen)`.
    weights: Of the model, as arrays.
    draw: Draws float arrays, a tiny batch of inputs and one of labels.
    precision: Of all computations.

  Returns:
    For each of the values, whether its gradient is zero throughout.

  Raises:
    WrongGradientError: If one is missing or wrong, or the loss is random.
    Whatever TensorFlow raises where the loss cannot be computed so.
  """
  random = np.random.RandomState(0)
  try:
    probe = _Probe(loss, weights, draw(random), precision)
  except Exception as e:
    # A LookupError, or AutoGraph's error about it.
    missing = _MISSING.search(str(e))
    if not missing:
      raise
    raise WrongGradientError(
      f'TensorFlow has no derivative of the op {missing[1].strip()}'
    ) from e
  try:
    values, other = draw(random), draw(random)
    adjoint = probe.gradient(other)
    if probe.product(values, adjoint) != probe.product(values, adjoint):
      raise WrongGradientError('it is random outside of training')
    is_zero = []
    for part in range(len(values)):
      for _ in range(_TRIES):
        values, other = draw(random), draw(random)
        adjoint = probe.gradient(other)
        right = _judge(probe, part, values, adjoint, precision, random)
        if right is False:
          raise WrongGradientError(
            'the derivative that TensorFlow has of its gradient is not the one '
            'that a finite difference has'
          )
        if right:
          break
      gradient = probe.product_gradient(values, adjoint)[part]
      is_zero.append(not np.any(gradient))
    return is_zero
  finally:
    probe.close()


def check_model(
  model: tff.learning.models.FunctionalModel,
  key: Hashable,
  loss: Callable[..., tf.Tensor],
  draw: Callable[[np.random.RandomState], Sequence[np.ndarray]],
) -> list[bool]:
  """`check` of a model in float64 where it can compute so, once for each key.

  Args:
    model: The model.
    key: Of what is checked.
    loss: (model, weights, *values) -> a scalar.
    draw: See `check`.

  Returns:
    See `check`.

  Raises:
    WrongGradientError: See `check`.
  """
  done = _CHECKED.setdefault(model, {})
  if key not in done:
    in_float64 = model.view(float64=True) if hasattr(model, 'view') else model
    in_float32 = model.view() if hasattr(model, 'view') else model
    on = lambda view: lambda *arguments: loss(view, *arguments)
    try:
      done[key] = check(on(in_float64), model.initial_weights, draw, FLOAT64)
    except WrongGradientError:
      raise
    except Exception:  # Some ops and models know float32 alone.
      done[key] = check(on(in_float32), model.initial_weights, draw, FLOAT32)
  return done[key]
