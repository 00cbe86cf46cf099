"""A `FunctionalModel` of a Keras model."""

from collections.abc import Sequence
import copy

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.models.functional import losses
from tff_fedsynth.models.functional.keras_function import KerasFunction


class KerasModel(tff.learning.models.FunctionalModel):
  """What `from_keras` makes of a model of float inputs.

  Attributes:
    function: The Keras model as a function of its weights.
    keras_loss: The loss on real data, as Keras has it; `None` if it is another.
    label_forms: Forms that synthetic labels may have, the default first; names
      in `forms.LABELS`.
  """

  # Of views alone.
  _seed: tf.Tensor | None = None
  _float64 = False

  def __init__(
    self,
    function: KerasFunction,
    *,
    initial_weights,
    loss: tf.keras.losses.Loss | None,
    label_forms: Sequence[str] = (),
    metrics_fns,
    input_spec,
    loss_fn=None,
  ):
    """Initializes the model.

    Args:
      function: See the class.
      initial_weights: As in `FunctionalModel`.
      loss: On real data; `None` where a subclass gives `loss_fn`.
      label_forms: See the class.
      metrics_fns: As in `FunctionalModel`.
      input_spec: Likewise.
      loss_fn: Likewise, in place of `loss`.
    """
    self.function = function
    self.label_forms = tuple(label_forms)
    self.keras_loss = loss
    # TFF wants a function that it can trace.
    predict = tf.function(
      lambda weights, x, training: self.predict(weights, x, training)
    )
    super().__init__(
      initial_weights=initial_weights,
      predict_on_batch_fn=predict,
      loss_fn=loss_fn
      or (lambda output, label, sample_weight=None: loss(label, output)),
      metrics_fns=metrics_fns,
      input_spec=input_spec,
    )

  def predict(self, model_weights, x, training=True) -> tf.Tensor:
    """`predict_on_batch` without a graph of its own."""
    return self._call(model_weights[0], x, training)

  def _call(self, trainable, x, training):
    return self.function(trainable, x, training, self._seed, self._float64)

  def added_losses(self, trainable, x) -> list[str]:
    """Names of layers that add terms to the loss; see `KerasFunction`."""
    return self.function.added_losses(trainable, x)

  def loss_sum(self, outputs, labels) -> tuple[tf.Tensor, tf.Tensor]:
    """The sum of the loss over what its mean is over, and the number of that."""
    values, weights = losses.terms(self.keras_loss, labels, outputs)
    return tf.reduce_sum(values), tf.reduce_sum(weights)

  def view(
    self, *, seed: tf.Tensor | None = None, float64: bool = False
  ) -> 'KerasModel':
    """The same model, for use in one graph alone.

    Args:
      seed: int32 [2], of what is random in training.
      float64: Whether it computes in float64.
    """
    view = copy.copy(self)
    view._seed, view._float64 = seed, float64
    # A graph that is kept would keep the seed of another one.
    view.predict_on_batch = view.predict
    return view


def loss_sum(model, outputs, labels) -> tuple[tf.Tensor, tf.Tensor]:
  """`KerasModel.loss_sum`, or the mean over examples that other models give."""
  if isinstance(model, KerasModel):
    return model.loss_sum(outputs, labels)
  count = tf.cast(tf.shape(tf.nest.flatten(outputs)[0])[0], tf.float32)
  return model.loss(outputs, labels) * count, count


def seeded(model, seed: tf.Tensor):
  """The model with a seed for what is random in it, if there is anything."""
  if isinstance(model, KerasModel) and model.function.is_random:
    return model.view(seed=seed)
  return model


def split_batch(batch):
  """Inputs and labels of a batch: a pair, or a mapping with keys x and y."""
  if hasattr(batch, 'keys'):
    return batch['x'], batch['y']
  x, y = batch
  return x, y
