"""Metrics on real data: what `compile` in Keras takes, as TFF's pure functions."""

import collections
from collections.abc import Callable
from collections.abc import Sequence
import inspect

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.errors import UnsupportedModelError
from tff_fedsynth.models import losses

keras = tf.keras

Metric = (
  keras.metrics.Metric | str | Callable[[], keras.metrics.Metric] | Callable
)

# Names that Keras resolves by the shapes of labels and outputs.
_BY_SHAPES = {
  'accuracy': (
    keras.metrics.binary_accuracy,
    keras.metrics.sparse_categorical_accuracy,
    keras.metrics.categorical_accuracy,
  ),
  'crossentropy': (
    keras.metrics.binary_crossentropy,
    keras.metrics.sparse_categorical_crossentropy,
    keras.metrics.categorical_crossentropy,
  ),
}
_SHORT = {'acc': 'accuracy', 'ce': 'crossentropy'}


def _by_shapes(name: str, label_shape, output_shape):
  """The function that a name stands for, by the rule of `compile` in Keras."""
  binary, sparse, categorical = _BY_SHAPES[_SHORT.get(name, name)]
  if output_shape[-1] == 1:
    return binary
  # Labels of rank 1 get an axis beside outputs of rank 2.
  if len(label_shape) < len(output_shape) or label_shape[-1] == 1:
    return sparse
  return categorical


def _takes_no_argument(function: Callable) -> bool:
  """Whether a function can be called without arguments."""
  try:
    inspect.signature(function).bind()
  except TypeError:
    return False
  except ValueError:  # A builtin without a signature.
    return True
  return True


def _found(name: str):
  try:
    found = keras.metrics.get(name)
  except ValueError:
    found = None
  if not callable(found):  # Keras gives some unknown names back.
    raise UnsupportedModelError(
      f'Keras knows no metric {name!r}. Give a name that tf.keras.metrics.get '
      'knows, a tf.keras.metrics.Metric, or a function of labels and outputs.'
    )
  return found


def constructor(
  metric: Metric, label_shape, output_shape
) -> Callable[[], keras.metrics.Metric]:
  """A constructor out of what `compile` in Keras takes for a metric.

  Args:
    metric: A `Metric`, a name, a function of labels and outputs, or a constructor.
    label_shape: The shape of a label, without the batch.
    output_shape: The shape of an output, likewise.

  Raises:
    UnsupportedModelError: If it is none of these.
  """
  function, name = metric, None
  if isinstance(metric, str):
    name = metric
    if _SHORT.get(metric.lower(), metric.lower()) in _BY_SHAPES:
      function = _by_shapes(metric.lower(), label_shape, output_shape)
    else:
      function = _found(metric)
  if isinstance(function, keras.metrics.Metric):
    return lambda: type(function).from_config(function.get_config())
  if not callable(function):
    raise UnsupportedModelError(
      'A metric must be a tf.keras.metrics.Metric, a name, a function of labels '
      f'and outputs, or a constructor, found {metric!r}.'
    )
  if inspect.isclass(function) or _takes_no_argument(function):
    return function
  name = name or next(
    getattr(function, a) for a in ('name', '__name__') if hasattr(function, a)
  )
  return lambda: keras.metrics.MeanMetricWrapper(function, name=name)


def _undecorated(function: Callable) -> Callable:
  # `create_functional_metric_fns` does the same: see there.
  while hasattr(function, '__original_wrapped__'):
    function = function.__original_wrapped__
  return function


def _masked(make: Callable[[], keras.metrics.Metric]):
  """A constructor of metrics that take outputs and their mask as `y_pred`."""

  def construct() -> keras.metrics.Metric:
    metric = make()
    update = _undecorated(metric.update_state)

    def update_state(y_true, y_pred):
      outputs, mask = y_pred
      labels, outputs = losses.match(y_true, outputs)
      if mask is None:
        return update(labels, outputs)
      outputs._keras_mask = mask
      return update(labels, outputs, sample_weight=mask)

    metric.update_state = update_state
    return metric

  return construct


def functions(constructors: Sequence[Callable[[], keras.metrics.Metric]]):
  """What `KerasModel` takes for metrics.

  Args:
    constructors: Of metrics with different names.

  Raises:
    UnsupportedModelError: If two have the same name.
  """
  names = [make().name for make in constructors]
  twice = sorted({n for n in names if names.count(n) > 1})
  if twice:
    raise UnsupportedModelError(
      f'Two metrics are named {twice[0]!r}; the loss is one of them, named '
      "'loss'. Give each metric a name of its own."
    )
  return tff.learning.metrics.create_functional_metric_fns(
    lambda: collections.OrderedDict(
      (name, _masked(make)()) for name, make in zip(names, constructors)
    )
  )


def accuracy(loss) -> list[Metric]:
  """The accuracy that goes with a loss, if there is one."""
  if losses.is_sparse(loss):
    return [keras.metrics.SparseCategoricalAccuracy('accuracy')]
  if losses.is_categorical(loss):
    return [keras.metrics.CategoricalAccuracy('accuracy')]
  if isinstance(loss, keras.losses.BinaryCrossentropy):
    threshold = 0.0 if losses.from_logits(loss) else 0.5
    return [keras.metrics.BinaryAccuracy('accuracy', threshold=threshold)]
  return []


class MaskedAccuracy(keras.metrics.SparseCategoricalAccuracy):
  """Accuracy over the positions whose label is none of some tokens."""

  def __init__(self, ignored_labels: tuple[int, ...], name='accuracy'):
    super().__init__(name)
    self._ignored_labels = ignored_labels

  def update_state(self, y_true, y_pred, sample_weight=None):
    counts = tf.reduce_all(
      [tf.not_equal(y_true, label) for label in self._ignored_labels], axis=0
    )
    if sample_weight is not None:
      counts = tf.logical_and(counts, tf.cast(sample_weight, tf.bool))
    return super().update_state(y_true, y_pred, tf.cast(counts, tf.float32))
