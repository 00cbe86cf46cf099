"""Losses on real data: what a user may pass, and how many terms a mean is over."""

import inspect

import tensorflow as tf

from tff_fedsynth.errors import UnsupportedModelError

keras = tf.keras

# What Keras makes of a function; it pairs labels [n] with outputs [n, 1].
_FunctionLoss = keras.__internal__.losses.LossFunctionWrapper

# What Keras itself takes for `from_logits=False`.
_EPSILON = 1e-7


class _CategoricalCrossentropy(keras.losses.CategoricalCrossentropy):
  """Keras' loss of the same name, with a right gradient of the gradient.

  TF's fused op, which Keras uses, silently gives a zero second derivative in the
  labels (tensorflow issue 26495).
  """

  def call(self, y_true, y_pred):
    config = self.get_config()
    axis, smoothing = config['axis'], config['label_smoothing']
    y_true = tf.cast(y_true, y_pred.dtype)
    classes = tf.cast(tf.shape(y_true)[axis], y_pred.dtype)
    y_true = y_true * (1.0 - smoothing) + smoothing / classes
    if config['from_logits']:
      log_probabilities = tf.nn.log_softmax(y_pred, axis)
    else:
      total = tf.reduce_sum(y_pred, axis, keepdims=True)
      log_probabilities = tf.math.log(
        tf.clip_by_value(y_pred / total, _EPSILON, 1.0 - _EPSILON)
      )
    return -tf.reduce_sum(y_true * log_probabilities, axis)


# Functions of these names are what Keras' classes wrap.
_CLASSES = {
  'binary_crossentropy': keras.losses.BinaryCrossentropy,
  'categorical_crossentropy': keras.losses.CategoricalCrossentropy,
  'sparse_categorical_crossentropy': keras.losses.SparseCategoricalCrossentropy,
}


def resolve(loss) -> keras.losses.Loss:
  """A Keras loss out of what Keras takes for one.

  Args:
    loss: A `Loss`, a class of losses, a name, or a function of labels and outputs.

  Raises:
    UnsupportedModelError: If it is none, or does not reduce to one number.
  """
  if isinstance(loss, str):
    try:
      loss = keras.losses.get(loss)
    except ValueError as e:
      raise UnsupportedModelError(
        f'Keras knows no loss {loss!r}. Give a name that '
        'tf.keras.losses.get knows, or a tf.keras.losses.Loss.'
      ) from e
    loss = _CLASSES.get(loss.__name__, loss)
  if inspect.isclass(loss) and issubclass(loss, keras.losses.Loss):
    loss = loss()
  if not isinstance(loss, keras.losses.Loss):
    if not callable(loss):
      raise UnsupportedModelError(
        f'loss must be a tf.keras.losses.Loss, a name or a function, found '
        f'{loss!r}.'
      )
    return _FunctionLoss(loss, name=getattr(loss, '__name__', None))
  if loss.reduction == keras.losses.Reduction.NONE:
    raise UnsupportedModelError(
      f'The loss {type(loss).__name__} has the reduction NONE. Give it '
      'reduction=tf.keras.losses.Reduction.SUM_OVER_BATCH_SIZE.'
    )
  if type(loss) is keras.losses.CategoricalCrossentropy:
    return _CategoricalCrossentropy.from_config(loss.get_config())
  return loss


def is_sparse(loss) -> bool:
  """Whether labels are class numbers."""
  return isinstance(loss, keras.losses.SparseCategoricalCrossentropy)


def is_categorical(loss) -> bool:
  """Whether outputs are one distribution a label, in some form."""
  return is_sparse(loss) or isinstance(
    loss, keras.losses.CategoricalCrossentropy
  )


def is_of_keras(loss) -> bool:
  """Whether Keras has it, so that labels must be of the shape of outputs."""
  function = getattr(loss, 'fn', loss)
  return function.__module__.startswith('keras')


def from_logits(loss) -> bool | None:
  """Whether a cross-entropy takes logits; `None` for other losses."""
  known = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.CategoricalCrossentropy,
    keras.losses.BinaryCrossentropy,
  )
  if not isinstance(loss, known):
    return None
  return bool(loss.get_config()['from_logits'])


def terms(loss, labels, outputs) -> tuple[tf.Tensor, tf.Tensor]:
  """The terms that a loss is the mean (or sum) of, and the weight of each.

  Batches have different numbers of terms, so a mean over batches of their means
  is not the mean over examples.

  Args:
    loss: A Keras loss.
    labels: Of a batch.
    outputs: Of the model for it.

  Returns:
    Float tensors of one shape, [batch, ...].
  """
  values = loss.call(labels, outputs)
  if values.shape.rank == 0:
    size = tf.shape(outputs)[:1]
    return tf.fill(size, values), tf.ones(size, values.dtype)
  # How Keras says that a label is not to count.
  mask = getattr(values, '_keras_mask', None)
  if mask is None:
    return values, tf.ones_like(values)
  mask = tf.cast(mask, values.dtype)
  # What is left out may be NaN.
  return tf.math.multiply_no_nan(values, mask), mask


class MeanLoss(keras.metrics.Mean):
  """The mean of a loss over all examples seen, whatever their batches."""

  def __init__(self, loss: keras.losses.Loss, name='loss'):
    super().__init__(name)
    self._loss = loss

  def update_state(self, y_true, y_pred, sample_weight=None):
    del sample_weight
    return super().update_state(*terms(self._loss, y_true, y_pred))
