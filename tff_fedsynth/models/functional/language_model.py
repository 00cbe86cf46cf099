"""A model that starts with an embedding, and can be fed synthetic sequences.

Tokens have no gradient. So the model is split behind its embedding table, and
what follows, one and the same, is reached in three ways: by tokens, by
distributions over tokens, and by embedded vectors.
"""

import tensorflow as tf

from tff_fedsynth.models.functional.keras_function import KerasFunction
from tff_fedsynth.models.functional.keras_model import KerasModel


class LanguageModel(KerasModel):
  """Next-token prediction: int tokens [batch, time] to logits [.., tokens].

  The first trainable weight is the embedding table, float [tokens, size].
  """

  def __init__(
    self,
    table,
    rest: KerasFunction,
    rest_weights,
    *,
    masks_zero: bool,
    ends_with_dense: bool,
    loss: tf.keras.losses.Loss | None,
    metrics_fns,
    input_spec,
  ):
    """Joins an embedding table with what follows it.

    Args:
      table: Initial embeddings, [tokens, size].
      rest: From embedded sequences [batch, time, size] to logits. Positions
        that are zero throughout are masked if `masks_zero`.
      rest_weights: Initial weights of `rest`.
      masks_zero: Whether token 0 is padding.
      ends_with_dense: Whether the last two weights of `rest` are kernel and
        bias of a linear layer whose outputs are the logits.
      loss: Of labels and logits; `masked_cross_entropy` if `None`.
      metrics_fns: As in `FunctionalModel`.
      input_spec: Likewise.
    """
    self._masks_zero = masks_zero
    self._ends_with_dense = ends_with_dense
    super().__init__(
      rest,
      initial_weights=((table, *rest_weights), ()),
      loss=loss,
      loss_fn=None if loss else masked_cross_entropy,
      metrics_fns=metrics_fns,
      input_spec=input_spec,
    )

  def predict(self, model_weights, x, training=True):
    embedded = tf.gather(model_weights[0][0], x)
    if self._masks_zero:
      is_token = tf.cast(tf.not_equal(x, 0), embedded.dtype)
      embedded *= is_token[..., tf.newaxis]
    return self.predict_on_embeddings(model_weights, embedded, training)

  def added_losses(self, trainable, x):
    embedded = tf.gather(trainable[0], x)
    return self.function.added_losses(trainable[1:], embedded)

  def loss_sum(self, outputs, labels):
    if self.keras_loss is not None:
      return super().loss_sum(outputs, labels)
    tokens = tf.math.count_nonzero(labels, dtype=tf.float32)
    return masked_cross_entropy(outputs, labels) * tokens, tokens

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


def masked_cross_entropy(output, label, sample_weight=None) -> tf.Tensor:
  """Mean cross-entropy a token; the padding, label 0, does not count."""
  del sample_weight
  losses = tf.nn.sparse_softmax_cross_entropy_with_logits(label, output)
  is_token = tf.cast(tf.not_equal(label, 0), losses.dtype)
  return tf.math.divide_no_nan(
    tf.reduce_sum(losses * is_token), tf.reduce_sum(is_token)
  )


class MaskedAccuracy(tf.keras.metrics.SparseCategoricalAccuracy):
  """Accuracy over the positions whose label is none of some tokens."""

  def __init__(self, ignored_labels: tuple[int, ...], name='accuracy'):
    super().__init__(name)
    self._ignored_labels = ignored_labels

  def update_state(self, y_true, y_pred, sample_weight=None):
    del sample_weight
    counts = [tf.not_equal(y_true, label) for label in self._ignored_labels]
    return super().update_state(
      y_true, y_pred, tf.cast(tf.reduce_all(counts, axis=0), tf.float32)
    )


class MaskedLoss(tf.keras.metrics.Mean):
  """The mean of `masked_cross_entropy` over all tokens seen."""

  def __init__(self, name='loss'):
    super().__init__(name)

  def update_state(self, y_true, y_pred, sample_weight=None):
    del sample_weight
    tokens = tf.math.count_nonzero(y_true, dtype=tf.float32)
    return super().update_state(masked_cross_entropy(y_pred, y_true), tokens)
