"""A `FunctionalModel` of a Keras model.

Tokens have no gradient. So a model that starts with an embedding is split behind
its table, and what follows, one and the same, is reached in three ways: by tokens,
by distributions over tokens, and by embedded vectors.
"""

from collections.abc import Sequence
import copy

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.errors import UnsupportedModelError
from tff_fedsynth.models import losses
from tff_fedsynth.models.keras_function import KerasFunction


class KerasModel(tff.learning.models.FunctionalModel):
  """What `from_keras` makes of a model of float inputs.

  Outputs carry Keras' mask, if the model has one, to the loss and the metrics: so
  all of these are traced into the graph of the caller.

  Attributes:
    function: The Keras model as a function of its weights.
    keras_loss: The loss on real data, as Keras has it.
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
    loss: tf.keras.losses.Loss,
    label_forms: Sequence[str] = (),
    metrics_fns,
    input_spec,
  ):
    """Initializes the model.

    Args:
      function: See the class.
      initial_weights: As in `FunctionalModel`.
      loss: The loss on real data.
      label_forms: See the class.
      metrics_fns: Those of `metrics.functions`.
      input_spec: As in `FunctionalModel`.
    """
    self.function = function
    self.label_forms = tuple(label_forms)
    self.keras_loss = loss
    super().__init__(
      initial_weights=initial_weights,
      # TFF wants one that is decorated, and calls the method below.
      predict_on_batch_fn=tf.function(self.predict_on_batch),
      loss_fn=lambda output, label, sample_weight=None: losses.value(
        loss, label, output
      ),
      metrics_fns=metrics_fns,
      input_spec=input_spec,
    )

  def predict_on_batch(self, model_weights, x, training=True) -> tf.Tensor:
    """The outputs, with Keras' mask.

    Args:
      model_weights: `(trainable, non_trainable)`.
      x: The inputs.
      training: As in Keras.
    """
    return self._call(model_weights[0], x, training)

  def update_metrics_state(
    self, state, labels, batch_output, sample_weight=None
  ):
    outputs = batch_output.predictions
    masked = batch_output._replace(
      predictions=(outputs, losses.mask_of(outputs))
    )
    return super().update_metrics_state(state, labels, masked, sample_weight)

  def _call(self, trainable, x, training):
    return self.function(trainable, x, training, self._seed, self._float64)

  def loss_sum(self, outputs, labels) -> tuple[tf.Tensor, tf.Tensor]:
    """The sum of the loss over what its mean is over, and the number of that."""
    return losses.loss_sum(self.keras_loss, labels, outputs)

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
    return view


class LanguageModel(KerasModel):
  """Next-token prediction: int tokens [batch, time] to logits [.., tokens].

  The first trainable weight is the embedding table, float [tokens, size].
  """

  def __init__(
    self,
    embedding: tf.keras.layers.Embedding,
    rest: KerasFunction,
    rest_weights,
    *,
    ends_with_dense: bool,
    loss: tf.keras.losses.Loss,
    metrics_fns,
    input_spec,
  ):
    """Joins an embedding with what follows it.

    Args:
      embedding: The first layer; its table now is the initial one.
      rest: From embedded sequences [batch, time, size] to logits.
      rest_weights: Initial weights of `rest`.
      ends_with_dense: Whether the last two weights of `rest` are kernel and
        bias of a linear layer whose outputs are the logits.
      loss: The loss of labels and logits.
      metrics_fns: As in `KerasModel`.
      input_spec: As in `FunctionalModel`.
    """
    self._mask_of_tokens = embedding.compute_mask
    self._ends_with_dense = ends_with_dense
    super().__init__(
      rest,
      initial_weights=((embedding.embeddings.numpy(), *rest_weights), ()),
      loss=loss,
      metrics_fns=metrics_fns,
      input_spec=input_spec,
    )

  def predict_on_batch(self, model_weights, x, training=True):
    embedded = tf.gather(model_weights[0][0], x)
    mask = self._mask_of_tokens(x)
    if mask is not None:
      # Keras hands it on from layer to layer, beside the values.
      embedded._keras_mask = mask
    return self.predict_on_embeddings(model_weights, embedded, training)

  @property
  def vocabulary_size(self) -> int:
    """The number of tokens, special ones included."""
    return self.initial_weights[0][0].shape[0]

  @property
  def embedding_size(self) -> int:
    """The size of an embedded token."""
    return self.initial_weights[0][0].shape[1]

  @property
  def hidden_size(self) -> int | None:
    """The size of the inputs of the last, linear layer, if that is the last."""
    if not self._ends_with_dense:
      return None
    return self.initial_weights[0][-2].shape[0]

  def predict_on_embeddings(self, model_weights, x, training=True):
    """Logits of embedded sequences, float [batch, time, size]; no mask."""
    return self._call(model_weights[0][1:], x, training)

  def predict_on_distributions(self, model_weights, x, training=True):
    """Logits of sequences of distributions, float [batch, time, tokens]."""
    embedded = tf.tensordot(x, model_weights[0][0], 1)
    return self.predict_on_embeddings(model_weights, embedded, training)

  def apply_output_layer(self, model_weights, vectors):
    """Logits of vectors put before the last layer, float [.., hidden_size]."""
    kernel, bias = model_weights[0][-2:]
    return tf.tensordot(vectors, kernel, 1) + bias


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
  """Inputs and labels of a batch: a pair, or a mapping with keys x and y.

  Raises:
    UnsupportedModelError: If it is neither.
  """
  if hasattr(batch, 'keys') and {*batch} == {'x', 'y'}:
    return batch['x'], batch['y']
  if isinstance(batch, tuple | list) and len(batch) == 2:
    return tuple(batch)
  raise UnsupportedModelError(
    'A batch must be a pair of inputs and labels, or a mapping with the keys x '
    f'and y, but input_spec is {batch}. Leave out the rest.'
  )
