"""From a Keras model to one that FedSynth can train."""

import collections
from collections.abc import Callable
from collections.abc import Sequence

import tensorflow as tf
import tensorflow_federated as tff


class UnsupportedModelError(ValueError):
  """A Keras model that cannot be replayed; the message says why."""


def _check_can_be_replayed(model: tf.keras.Model, classifies: bool) -> None:
  """Raises `UnsupportedModelError`, see `from_keras`."""
  if not model.built or not hasattr(model, 'input_shape'):
    raise UnsupportedModelError(
      'The Keras model does not know its input shape. Start it with '
      'tf.keras.Input, or call build() on it.'
    )
  if len(model.inputs) != 1 or len(model.outputs) != 1:
    raise UnsupportedModelError(
      f'The Keras model has {len(model.inputs)} inputs and '
      f'{len(model.outputs)} outputs. FedSynth needs one of each.'
    )
  for layer in model.submodules:
    if isinstance(layer, tf.keras.layers.BatchNormalization):
      raise UnsupportedModelError(
        f'Layer {layer.name!r} is a batch normalisation: its running averages '
        'are not weights that a gradient step can replay. Use '
        'tf.keras.layers.GroupNormalization.'
      )
    if isinstance(layer, tf.keras.layers.Embedding):
      raise UnsupportedModelError(
        f'Layer {layer.name!r} is an embedding: its integer inputs have no '
        'gradient. Feed the embedded, float sequences.'
      )
  if not model.inputs[0].dtype.is_floating:
    raise UnsupportedModelError(
      f'The inputs are {model.inputs[0].dtype.name}, which have no gradient. '
      'Cast them to float32 in the data set.'
    )
  if model.non_trainable_weights:
    names = [w.name for w in model.non_trainable_weights]
    raise UnsupportedModelError(
      f'The weights {names} are not trainable. Make them trainable, or move '
      'what they do into the data set.'
    )
  last = model.layers[-1]
  activation = getattr(last, 'activation', None)
  is_softmax = isinstance(last, tf.keras.layers.Softmax) or (
    activation is tf.keras.activations.softmax
  )
  if classifies and is_softmax:
    raise UnsupportedModelError(
      f'The last layer {last.name!r} applies a softmax. Return logits: soft '
      'labels need a loss on logits to be differentiated twice.'
    )


def from_keras(
  model: tf.keras.Model,
  *,
  loss: tf.keras.losses.Loss | None = None,
  label_spec: tf.TensorSpec | None = None,
  metrics: Sequence[Callable[[], tf.keras.metrics.Metric]] | None = None,
) -> tff.learning.models.FunctionalModel:
  """Makes a `FunctionalModel` that FedSynth can train of a Keras model.

  Like `tff.learning.models.functional_model_from_keras`, on which it stands, the
  result works inside `tff` computations and graphs only, not eagerly.

  Args:
    model: A built Keras model with one float input and one output. Its current
      weights are the initial ones.
    loss: The loss on real data; cross-entropy of class numbers and logits if
      `None`.
    label_spec: Of a batch of real labels; int32 [None] if `None`. Float labels
      make a regression, whose synthetic labels are used as they are learned.
    metrics: Constructors of metrics; accuracy, for a classifier, if `None`.

  Returns:
    A `tff.learning.models.FunctionalModel`.

  Raises:
    UnsupportedModelError: If the model has batch normalisation, integer inputs,
      weights that are not trainable, several inputs or outputs, an unknown
      input shape, or, as a classifier, a softmax as its last layer.
  """
  if loss is None:
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  if label_spec is None:
    label_spec = tf.TensorSpec([None], tf.int32)
  classifies = label_spec.dtype.is_integer
  if metrics is None:
    metrics = (
      [lambda: tf.keras.metrics.SparseCategoricalAccuracy('accuracy')]
      if classifies
      else []
    )
  _check_can_be_replayed(model, classifies)

  def make_metrics():
    # A FunctionalModel does not report its loss by itself.
    mean_loss = tf.keras.metrics.MeanMetricWrapper(loss, name='loss')
    made = [mean_loss, *(make() for make in metrics)]
    return collections.OrderedDict((m.name, m) for m in made)

  return tff.learning.models.functional_model_from_keras(
    model,
    loss,
    (tf.TensorSpec([None, *model.input_shape[1:]], tf.float32), label_spec),
    make_metrics,
  )
