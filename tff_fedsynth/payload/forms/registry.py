"""What learned numbers stand for: forms of synthetic inputs and labels, by name.

A form decodes what was learned, with the weights that were broadcast, into what
is replayed. That is a constant of the replay: `token_queries` attend once, and
the table that is trained then gets its gradient through the decoded tokens.
"""

from collections.abc import Callable
import dataclasses

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.models.keras_model import KerasModel
from tff_fedsynth.models.keras_model import split_batch


@dataclasses.dataclass(frozen=True)
class InputForm:
  """How learned numbers become inputs, and how a model takes them.

  Attributes:
    decode: (values, model, weights) -> inputs.
    predict: (model, weights, inputs) -> outputs of the model.
    size: Of a position's values, given a `LanguageModel`; `None` for forms of
      other models.
  """

  decode: Callable[..., tf.Tensor]
  predict: Callable[..., tf.Tensor]
  size: Callable[..., int] | None = None


@dataclasses.dataclass(frozen=True)
class LabelForm:
  """How learned numbers become labels, and the loss on them.

  Attributes:
    decode: (values, model, weights) -> labels.
    loss: (model, outputs, labels) -> mean loss, a scalar that is
      differentiable twice.
    size: Of a position's values, given a `LanguageModel`; `None` for forms of
      other models.
    is_sparse: Whether only the largest values of each position are sent.
    is_linear: Whether the loss is linear in the learned numbers, so that zeros
      replay to no update.
    has_linear_loss: Whether the loss is linear in the decoded labels, so that
      labels can be weighed, and is a mean over examples.
  """

  decode: Callable[..., tf.Tensor]
  loss: Callable[..., tf.Tensor]
  size: Callable[..., int] | None = None
  is_sparse: bool = False
  is_linear: bool = False
  has_linear_loss: bool = True


def label_forms(model: tff.learning.models.FunctionalModel) -> tuple[str, ...]:
  """Forms that labels of a model of float inputs may have, the default first."""
  if isinstance(model, KerasModel):
    return model.label_forms
  _, labels = split_batch(model.input_spec)
  if tf.nest.flatten(labels)[0].dtype.is_integer:
    return ('signed', 'distributions')
  return ('targets', 'signed')


def soft_label_form(model: tff.learning.models.FunctionalModel) -> str:
  """Soft labels, as in the paper, for a classifier; else the default."""
  forms = label_forms(model)
  return 'distributions' if 'distributions' in forms else forms[0]


def cross_entropy(model, outputs, labels) -> tf.Tensor:
  """Mean cross-entropy of logits with distributions.

  Written out because TF's fused op silently gives a zero second derivative in
  the labels (tensorflow issue 26495).
  """
  del model
  log_probabilities = tf.nn.log_softmax(outputs)
  return -tf.reduce_mean(tf.reduce_sum(labels * log_probabilities, axis=-1))


def inner_product_loss(model, outputs, labels) -> tf.Tensor:
  """Mean of <labels, logits>: labels are the gradient in the logits itself."""
  del model
  return tf.reduce_mean(tf.reduce_sum(labels * outputs, axis=-1))


def _as_learned(values, model, weights):
  del model, weights
  return values


def _softmax(values, model, weights):
  del model, weights
  return tf.nn.softmax(values)


def _attention(queries, model, weights):
  """Distributions over tokens: attention of queries over the table's rows.

  The rows are taken at unit mean square, so that the same queries are as
  decided at the start of training, when all rows are short, as at its end.
  """
  del model
  table = weights[0][0]
  keys = table * tf.math.rsqrt(tf.reduce_mean(tf.square(table)) + 1e-12)
  return tf.nn.softmax(tf.tensordot(queries, tf.transpose(keys), 1))


def _through_output_layer(vectors, model, weights):
  return tf.nn.softmax(model.apply_output_layer(weights, vectors))


# training=False: a random layer would make client and server disagree.
def _predict(model, weights, inputs):
  return model.predict_on_batch(weights, inputs, training=False)


def _predict_on_embeddings(model, weights, inputs):
  return model.predict_on_embeddings(weights, inputs, training=False)


def _predict_on_distributions(model, weights, inputs):
  return model.predict_on_distributions(weights, inputs, training=False)


INPUTS: dict[str, InputForm] = {
  # Float inputs of the model.
  'values': InputForm(_as_learned, _predict),
  # Vectors in place of embedded tokens: the table gets no update.
  'embeddings': InputForm(
    _as_learned, _predict_on_embeddings, lambda m: m.embedding_size
  ),
  'soft_tokens': InputForm(
    _softmax, _predict_on_distributions, lambda m: m.vocabulary_size
  ),
  'token_queries': InputForm(
    _attention, _predict_on_distributions, lambda m: m.embedding_size
  ),
}

LABELS: dict[str, LabelForm] = {
  # Float targets of a regression.
  'targets': LabelForm(
    _as_learned,
    lambda model, outputs, labels: model.loss(outputs, labels),
    has_linear_loss=False,
  ),
  'distributions': LabelForm(
    _softmax, cross_entropy, lambda m: m.vocabulary_size
  ),
  'signed': LabelForm(
    _as_learned,
    inner_product_loss,
    lambda m: m.vocabulary_size,
    is_linear=True,
  ),
  'sparse': LabelForm(
    _as_learned,
    inner_product_loss,
    lambda m: m.vocabulary_size,
    is_sparse=True,
    is_linear=True,
  ),
  # Distributions, out of vectors put before the model's last layer.
  'output_vectors': LabelForm(
    _through_output_layer, cross_entropy, lambda m: m.hidden_size
  ),
}


def loss_of(input_form: str, label_form: str) -> Callable[..., tf.Tensor]:
  """The loss (model, weights, inputs, labels) -> scalar of two forms."""

  def loss(model, weights, inputs, labels):
    outputs = INPUTS[input_form].predict(model, weights, inputs)
    return LABELS[label_form].loss(model, outputs, labels)

  return loss


def default_loss(model, weights, inputs, labels) -> tf.Tensor:
  """Loss of plain inputs: cross-entropy of a classifier, or the model's own."""
  loss = loss_of('values', soft_label_form(model))
  return loss(model, weights, inputs, labels)
