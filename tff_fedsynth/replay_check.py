"""Refuses models whose replay TensorFlow differentiates wrongly, at build time.

A replay is a step along the gradient g(w, x, y) of a loss in the weights, so the
gradient of a replay in the synthetic data (x, y) is a derivative of a derivative.
TensorFlow has none for some ops, and a silent zero for others. So for a fixed a,

  d<g(w, x, y), a> / d(x, y)

along a random direction is compared with a central difference, on a tiny batch.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import re
import weakref

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import budget
from tff_fedsynth import updates
from tff_fedsynth.errors import UnsupportedModelError
from tff_fedsynth.models import keras_model
from tff_fedsynth.models import model_checks
from tff_fedsynth.models.keras_function import KerasFunction
from tff_fedsynth.payload import forms
from tff_fedsynth.payload.spec import SyntheticSpec

keras = tf.keras

_EXAMPLES = 2
_LENGTH = 3
_TRIES = 3
# How TensorFlow says that it has no derivative.
_MISSING = re.compile(
  r'(?:gradient registry has no entry for:|No gradient defined .*op type:) (\w+)'
)
# What was found out of a model, by the forms of synthetic data.
_CHECKED: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True)
class _Precision:
  """How a difference is taken, and how far off a gradient may be.

  Attributes:
    dtype: The type of all computations.
    steps: Two lengths of a step. Where they do not agree the loss has a kink in
      between, and nothing can be said there.
    agreement: The relative distance up to which they do.
    tolerance: The relative distance of gradient and difference, likewise.
    compares_inputs: Whether steps are so short that hardly any activation has a
      kink in between. Labels have no such kinks.
  """

  dtype: tf.DType
  steps: tuple[float, float]
  agreement: float
  tolerance: float
  compares_inputs: bool


_FLOAT64 = _Precision(tf.float64, (1e-6, 1e-7), 1e-2, 1e-2, True)
# Of the inputs, only a gradient that is zero and should not be is found.
_FLOAT32 = _Precision(tf.float32, (3e-2, 1e-2), 5e-2, 0.1, False)


class _WrongGradientError(ValueError):
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

  def __init__(self, loss, weights, values, dtype):
    self._graph = tf.Graph()
    with self._graph.as_default():
      place = lambda v: tf.compat.v1.placeholder(
        dtype if np.asarray(v).dtype.kind == 'f' else np.asarray(v).dtype,
        np.shape(v),
      )
      self._weights = tf.nest.map_structure(place, weights)
      self._values = tuple(map(place, values))
      self._adjoint = tuple(map(place, weights[0]))
      zero = dict(unconnected_gradients=tf.UnconnectedGradients.ZERO)

      @tf.function
      def run(trainable, frozen, values, adjoint):
        with tf.GradientTape() as outer:
          outer.watch(values)
          with tf.GradientTape() as inner:
            inner.watch(trainable)
            value = loss((trainable, frozen), *values)
          gradient = inner.gradient(value, trainable, **zero)
          gradient = tuple(map(tf.convert_to_tensor, gradient))
          product = updates.inner_product(gradient, adjoint)
        return gradient, product, outer.gradient(product, values, **zero)

      arguments = (*self._weights, self._values, self._adjoint)
      traced = run.get_concrete_function(*arguments)
      if dtype == tf.float64 and _rounds(traced.graph):
        raise TypeError('It computes in float32 in between.')
      self._outputs = run(*arguments)
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


def _compare(
  loss: Callable[..., tf.Tensor],
  weights,
  draw: Callable[[np.random.RandomState], Sequence[np.ndarray]],
  precision: _Precision,
) -> list[bool]:
  """Compares gradients of gradients with differences.

  Args:
    loss: (weights, *values) -> a scalar, where weights are `(trainable, frozen)`.
    weights: The weights of the model, as arrays.
    draw: Draws float arrays, a tiny batch of inputs and one of labels.
    precision: The precision of all computations.

  Returns:
    For each of the values, whether its gradient is zero throughout.

  Raises:
    _WrongGradientError: If one is missing or wrong, or the loss is random.
    Whatever TensorFlow raises where the loss cannot be computed so.
  """
  random = np.random.RandomState(0)
  try:
    probe = _Probe(loss, weights, draw(random), precision.dtype)
  except Exception as e:
    # A LookupError, or AutoGraph's error about it.
    missing = _MISSING.search(str(e))
    if not missing:
      raise
    raise _WrongGradientError(
      f'TensorFlow has no derivative of the op {missing[1].strip()}'
    ) from e
  try:
    values, other = draw(random), draw(random)
    adjoint = probe.gradient(other)
    if probe.product(values, adjoint) != probe.product(values, adjoint):
      raise _WrongGradientError('it is random outside of training')
    is_zero = []
    for part in range(len(values)):
      for _ in range(_TRIES):
        values, other = draw(random), draw(random)
        adjoint = probe.gradient(other)
        right = _judge(probe, part, values, adjoint, precision, random)
        if right is False:
          raise _WrongGradientError(
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


def _check(model, input_form, label_form, sizes) -> list[bool]:
  """`_compare` of two forms, in float64 where the model can compute so; once."""
  done = _CHECKED.setdefault(model, {})
  key = (input_form, label_form)
  if key in done:
    return done[key]
  loss_of_forms = forms.loss_of(input_form, label_form)

  def loss_on(view):
    return lambda weights, inputs, labels: loss_of_forms(
      view,
      weights,
      forms.INPUTS[input_form].decode(inputs, view, weights),
      forms.LABELS[label_form].decode(labels, view, weights),
    )

  def draw(random):
    return [random.normal(size=(_EXAMPLES, *size)) for size in sizes]

  view = getattr(model, 'view', lambda **_: model)
  weights = model.initial_weights
  try:
    done[key] = _compare(loss_on(view(float64=True)), weights, draw, _FLOAT64)
  except _WrongGradientError:
    raise
  except Exception:  # Some ops and models know float32 alone.
    try:
      done[key] = _compare(loss_on(view()), weights, draw, _FLOAT32)
    except _WrongGradientError:
      raise
    except Exception as e:
      raise UnsupportedModelError(
        'The model cannot be replayed on a batch of two examples: '
        f'{type(e).__name__}: {e}'
      ) from e
  return done[key]


def check_replay(
  model: tff.learning.models.FunctionalModel, spec: SyntheticSpec
) -> None:
  """Compares the gradient of a replay with a finite difference, on a tiny batch.

  Once for each model and form of synthetic data. In float64 where the model can
  compute so, to a relative 1e-2. Else in float32: labels to .1; and of the inputs,
  where activations have kinks, whether there is a gradient at all.

  Raises:
    UnsupportedModelError: If the gradient is missing or wrong, the replay is
      random, or labels that are learned as targets have no effect.
  """
  sizes = [spec.input_shape, spec.label_shape]
  of_targets = spec.label_form == 'targets'
  if isinstance(model, keras_model.LanguageModel):
    sizes = [(min(size[0], _LENGTH), *size[1:]) for size in sizes]
  try:
    if of_targets:
      # Where this is right, the loss alone can be wrong.
      outputs = budget.output_shape(model)
      _check(model, spec.input_form, 'signed', [sizes[0], outputs])
    else:
      _check(model, spec.input_form, spec.label_form, sizes)
  except _WrongGradientError as e:
    raise UnsupportedModelError(
      f'{_name_layer(model)} cannot be replayed: {e}. Replace it.'
    ) from e
  if not of_targets:
    return
  try:
    _, has_no_effect = _check(model, spec.input_form, spec.label_form, sizes)
  except _WrongGradientError as e:
    raise UnsupportedModelError(
      f'The loss of the model cannot be replayed: {e}. Write it out in elementary '
      'operations, or choose another.'
    ) from e
  if has_no_effect:
    raise UnsupportedModelError(
      'The gradient of the loss does not change with small changes of the labels, '
      "so that none can be learned. Build the spec with label_form='signed', or "
      'choose a smooth loss.'
    )


def _single_layers(model) -> Iterator[keras.layers.Layer]:
  for layer in model.layers:
    if isinstance(layer, keras.Model):
      yield from _single_layers(layer)
    elif not isinstance(
      layer, keras.layers.InputLayer | keras.layers.Embedding
    ) and isinstance(getattr(layer, 'input_shape', None), tuple):
      yield layer


def _is_right(layer, precision) -> bool:
  """Whether one layer alone has a right gradient of its gradient."""
  function = KerasFunction(
    layer, lambda x, training: model_checks.call_layer(layer, x, training)
  )

  def loss(weights, x, y):
    # An offset of the inputs is a weight that every layer has.
    (offset, *own), _ = weights
    outputs = function(own, x + offset, False, float64=x.dtype == tf.float64)
    return tf.reduce_sum(outputs * y)

  sizes = [
    [_EXAMPLES, *(_LENGTH if n is None else n for n in shape[1:])]
    for shape in (layer.input_shape, layer.output_shape)
  ]
  weights = [np.zeros(sizes[0]), *(w.numpy() for w in layer.trainable_weights)]
  try:
    _compare(
      loss,
      (tuple(weights), ()),
      lambda random: [random.normal(size=size) for size in sizes],
      precision,
    )
  except _WrongGradientError:
    return False
  except Exception:  # It does not run alone, or not so: others are to blame.
    pass
  return True


def _name_layer(model) -> str:
  """The layer whose own gradient of a gradient is wrong, if Keras has layers."""
  if isinstance(model, keras_model.KerasModel):
    for precision in (_FLOAT64, _FLOAT32):
      for layer in _single_layers(model.function.model):
        if not _is_right(layer, precision):
          return f'Layer {layer.name!r} ({type(layer).__name__})'
  return 'The model'


def has_independent_examples(
  model: tff.learning.models.FunctionalModel, spec: SyntheticSpec
) -> bool:
  """Whether the output of a synthetic example is the same in any batch.

  Tried on one example, beside two different others. Batch normalization on the
  statistics of the batch is what makes it `False`.
  """
  random = np.random.RandomState(0)
  one, *others = (
    random.normal(size=spec.input_shape).astype(np.float32) for _ in range(3)
  )
  form = forms.INPUTS[spec.input_form]

  # Keras models inside a FunctionalModel work in graphs only.
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    weights = tf.nest.map_structure(tf.constant, model.initial_weights)

    @tf.function
    def first_output(batch):
      inputs = form.decode(batch, model, weights)
      return form.predict(model, weights, inputs)[0]

    outputs = session.run(
      [first_output(tf.constant(np.stack([one, other]))) for other in others]
    )
  return np.allclose(*outputs, rtol=1e-4, atol=1e-6)
