"""Parameterizations of synthetic inputs and labels, by name.

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

# An image has no more channels, which tells them from rows.
_MAX_CHANNELS = 4


@dataclasses.dataclass(frozen=True)
class InputForm:
  """How learned numbers become inputs, and how a model takes them.

  Attributes:
    decode: Function (values, model, weights) -> inputs.
    predict: Function (model, weights, inputs) -> outputs of the model.
    size: Function of a `LanguageModel`, the number of values of a position;
      `None` for forms of other models.
  """

  decode: Callable[..., tf.Tensor]
  predict: Callable[..., tf.Tensor]
  size: Callable[..., int] | None = None


@dataclasses.dataclass(frozen=True)
class LabelForm:
  """How learned numbers become labels, and the loss on them.

  Attributes:
    decode: Function (values, model, weights) -> labels.
    loss: Function (model, outputs, labels) -> mean loss, a scalar that is
      differentiable twice.
    size: As in `InputForm`.
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
  """Returns forms of labels for a model of float inputs, the default first."""
  if isinstance(model, KerasModel):
    return model.label_forms
  _, labels = split_batch(model.input_spec)
  if tf.nest.flatten(labels)[0].dtype.is_integer:
    return ('signed', 'distributions')
  return ('targets', 'signed')


def cross_entropy(model, outputs, labels) -> tf.Tensor:
  """Computes the mean cross-entropy of logits with distributions.

  Written out because TF's fused op silently gives a zero second derivative in
  the labels (tensorflow issue 26495).
  """
  del model
  log_probabilities = tf.nn.log_softmax(outputs)
  return -tf.reduce_mean(tf.reduce_sum(labels * log_probabilities, axis=-1))


def inner_product_loss(model, outputs, labels) -> tf.Tensor:
  """Computes the mean of <labels, logits>: labels are the gradient itself."""
  del model
  return tf.reduce_mean(tf.reduce_sum(labels * outputs, axis=-1))


def _as_learned(values, model, weights):
  del model, weights
  return values


def _softmax(values, model, weights):
  del model, weights
  return tf.nn.softmax(values)


def _attention(queries, model, weights):
  """Decodes distributions over tokens: attention of queries over the table.

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
  """Returns the loss (model, weights, inputs, labels) -> scalar of two forms."""

  def loss(model, weights, inputs, labels):
    outputs = INPUTS[input_form].predict(model, weights, inputs)
    return LABELS[label_form].loss(model, outputs, labels)

  return loss


def _has_channels_first(shape: tuple[int, ...]) -> bool:
  return shape[0] <= _MAX_CHANNELS < min(shape[1:])


def image_size(shape: tuple[int, ...]) -> tuple[int, int] | None:
  """Returns height and width of inputs that are images; `None` for others.

  Images are (height, width, channels) or (channels, height, width). They can be
  learned small: client and server enlarge them.
  """
  if len(shape) != 3:
    return None
  return tuple(shape[1:]) if _has_channels_first(shape) else tuple(shape[:2])


def with_side(shape: tuple[int, ...], side: int) -> tuple[int, ...]:
  """Returns the shape of an image, made a square of another size."""
  if _has_channels_first(shape):
    return (shape[0], side, side)
  return (side, side, shape[-1])


def enlarge(images: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
  """Enlarges images [steps, batch_size, ...] to a shape, bilinearly."""
  lead = images.shape[:2]
  images = tf.reshape(images, [-1, *images.shape[2:]])
  channels_first = _has_channels_first(shape)
  if channels_first:
    images = tf.transpose(images, [0, 2, 3, 1])
  images = tf.image.resize(images, image_size(shape), method='bilinear')
  if channels_first:
    images = tf.transpose(images, [0, 3, 1, 2])
  return tf.reshape(images, [*lead, *shape])
