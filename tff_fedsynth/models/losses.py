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
  if inspect.isfunction(loss) and loss.__module__.startswith('keras'):
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


def match(labels, outputs) -> tuple[tf.Tensor, tf.Tensor]:
  """Brings labels to the rank and type of outputs, as `compile` in Keras does."""
  labels, outputs = map(tf.convert_to_tensor, (labels, outputs))
  if labels.shape.rank == 1 and outputs.shape.rank == 2:
    labels = labels[:, tf.newaxis]
  both = (labels.dtype, outputs.dtype)
  if all(d.is_floating for d in both) or all(d.is_integer for d in both):
    labels = tf.cast(labels, outputs.dtype)
  return labels, outputs


def mask_of(tensor) -> tf.Tensor | None:
  """Keras' mask of a tensor, True where it counts; `None` if it has none."""
  return getattr(tensor, '_keras_mask', None)


def terms(loss, labels, outputs) -> tuple[tf.Tensor, tf.Tensor | None]:
  """Computes the terms that a loss is the mean (or sum) of, and their weights.

  A term is left out where Keras leaves it out: where the outputs are masked, or
  where the loss ignores the label.

  Args:
    loss: A Keras loss.
    labels: Labels of a batch.
    outputs: Outputs of the model for it, with Keras' mask if it has one.

  Returns:
    Float tensors of one shape, [batch, ...]; weights are 0 or 1, and `None` if
    all are 1.
  """
  labels, outputs = match(labels, outputs)
  call = loss.call
  if not tf.executing_eagerly():
    # As Keras does, so that a loss of one's own may have branches.
    status = tf.__internal__.autograph.control_status_ctx()
    call = tf.__internal__.autograph.tf_convert(call, status)
  values = call(labels, outputs)
  if values.shape.rank == 0:
    values = tf.fill(tf.shape(outputs)[:1], values)
    return values, None
  masks = [m for m in (mask_of(outputs), mask_of(values)) if m is not None]
  if not masks:
    return values, None
  mask = tf.cast(tf.reduce_all(tf.stack(masks), axis=0), values.dtype)
  # What is left out may be NaN.
  return tf.math.multiply_no_nan(values, mask), mask


def loss_sum(loss, labels, outputs) -> tuple[tf.Tensor, tf.Tensor]:
  """The sum of the terms of a loss that count, and their number, scalars.

  Batches have different numbers of terms, so a mean over batches of their means
  is not the mean over examples.
  """
  values, weights = terms(loss, labels, outputs)
  if weights is None:
    weights = tf.ones_like(values)
  return tf.reduce_sum(values), tf.reduce_sum(weights)


def value(loss, labels, outputs) -> tf.Tensor:
  """The loss of a batch as `compile` in Keras has it, a scalar.

  It is 0, and not NaN, where no term counts.
  """
  if type(loss).__call__ is not keras.losses.Loss.__call__:
    labels, outputs = match(labels, outputs)
    mask = mask_of(outputs)
    weights = {} if mask is None else dict(sample_weight=mask)
    return loss(labels, outputs, **weights)
  total, count = loss_sum(loss, labels, outputs)
  if loss.reduction == keras.losses.Reduction.SUM:
    return total
  return tf.math.divide_no_nan(total, count)


class MaskedCrossEntropy(keras.losses.SparseCategoricalCrossentropy):
  """Cross-entropy of logits with tokens; the padding, label 0, does not count."""

  def __init__(self):
    super().__init__(from_logits=True)

  def call(self, y_true, y_pred):
    values = tf.nn.sparse_softmax_cross_entropy_with_logits(y_true, y_pred)
    values._keras_mask = tf.not_equal(y_true, 0)
    return values


class MeanLoss(keras.metrics.Mean):
  """The mean of a loss over all terms seen, whatever their batches."""

  def __init__(self, loss: keras.losses.Loss, name='loss'):
    super().__init__(name)
    self._loss = loss

  def update_state(self, y_true, y_pred, sample_weight=None):
    del sample_weight  # The mask, which the outputs have too.
    values, weights = terms(self._loss, y_true, y_pred)
    if weights is None:
      return super().update_state(values)
    count = tf.reduce_sum(weights)
    mean = tf.math.divide_no_nan(tf.reduce_sum(values), count)
    return super().update_state(mean, count)
