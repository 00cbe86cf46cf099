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
