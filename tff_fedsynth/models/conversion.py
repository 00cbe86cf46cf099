"""From a Keras model to one that FedSynth can train."""

import collections
from collections.abc import Callable
from collections.abc import Sequence

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.models import language


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


def _embeddings(model: tf.keras.Model) -> list[tf.keras.layers.Embedding]:
  return [
    layer
    for layer in model.submodules
    if isinstance(layer, tf.keras.layers.Embedding)
  ]


class _Chain(tf.keras.Model):
  """Copies of layers, one after the other, behind a masking embedding or not.

  A functional model would call each layer on a placeholder when it is built;
  the loops of recurrent layers on it survive in TFF's graphs, and fail there.
  """

  def __init__(self, layers, masks_zero: bool):
    super().__init__()
    self._chain = [
      type(layer).from_config(layer.get_config()) for layer in layers
    ]
    self._masks_zero = masks_zero
    for copy, layer in zip(self._chain, layers):
      copy.build(layer.input_shape)
      copy.built = True
    self.built = True

  def call(self, inputs, training=None):
    del training  # Keras passes it on to the layers.
    outputs = tf.identity(inputs)
    if self._masks_zero:
      # Keras hands this on from layer to layer. Zeros carry it over the cut.
      outputs._keras_mask = tf.reduce_any(tf.not_equal(inputs, 0.0), axis=-1)
    for layer in self._chain:
      outputs = layer(outputs)
    return outputs


def _split_at_embedding(model: tf.keras.Model):
  """The embedding that a model starts with, and the layers behind it.

  Raises:
    UnsupportedModelError: If the model is not an embedding and a chain of
      layers.
  """
  embedding, *others = _embeddings(model)
  if others:
    raise UnsupportedModelError(
      f'The model has {1 + len(others)} embeddings. FedSynth can split a model '
      'behind one, which must be its first layer.'
    )
  layers = [
    layer
    for layer in model.layers
    if not isinstance(layer, tf.keras.layers.InputLayer)
  ]
  if layers[0] is not embedding:
    raise UnsupportedModelError(
      f'Embedding {embedding.name!r} is not the first layer of the model, so '
      'synthetic sequences cannot be fed behind it. Do what comes before it in '
      'the data set.'
    )
  for before, layer in zip(layers, layers[1:]):
    if len(layer.inbound_nodes) != 1 or layer.input is not before.output:
      raise UnsupportedModelError(
        f'Layer {layer.name!r} does not simply follow layer {before.name!r}. '
        'FedSynth can split a model that is an embedding and a chain of layers, '
        'each fed by the one before; put branches into one layer of your own.'
      )
    if any(w is embedding.embeddings for w in layer.weights):
      raise UnsupportedModelError(
        f'Layer {layer.name!r} uses the table of embedding {embedding.name!r} '
        'again. Give it its own weights.'
      )
  return embedding, layers[1:]


def _language_model(
  model, loss, label_spec, metrics, ignored_labels
) -> language.LanguageModel:
  embedding, layers = _split_at_embedding(model)
  masks_zero = embedding.mask_zero

  def make_rest():
    rest = _Chain(layers, masks_zero)
    if tf.executing_eagerly():  # TFF also calls this in graphs.
      rest.set_weights([w for layer in layers for w in layer.get_weights()])
    return rest

  table = embedding.embeddings.numpy()
  last = model.layers[-1]
  ends_with_dense = (
    isinstance(last, tf.keras.layers.Dense)
    and last.use_bias
    and last.activation is tf.keras.activations.linear
  )
  if len(model.output_shape) != 3:
    raise UnsupportedModelError(
      'A model with an embedding must output logits for every position, [batch, '
      f'time, tokens], but its outputs have shape {model.output_shape}.'
    )
  if loss is None and masks_zero:
    loss_fn = language.masked_cross_entropy
    mean_loss = language.MaskedLoss
  else:
    loss = loss or tf.keras.losses.SparseCategoricalCrossentropy(True)
    loss_fn = lambda output, label, sample_weight=None: loss(label, output)
    mean_loss = lambda: tf.keras.metrics.MeanMetricWrapper(loss, name='loss')
  if metrics is None:
    ignored = tuple(ignored_labels) or ((0,) if masks_zero else ())
    if ignored:
      metrics = [lambda: language.MaskedAccuracy(ignored)]
    else:
      metrics = [lambda: tf.keras.metrics.SparseCategoricalAccuracy('accuracy')]
  tokens = tf.TensorSpec([None, *model.input_shape[1:]], tf.int64)
  return language.LanguageModel(
    table,
    tff.learning.models.functional_model_from_keras(
      make_rest,
      tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
      (tf.TensorSpec([None, None, table.shape[1]], tf.float32), tokens),
    ),
    masks_zero=masks_zero,
    ends_with_dense=ends_with_dense,
    loss_fn=loss_fn,
    metrics_fns=tff.learning.metrics.create_functional_metric_fns(
      lambda: _named([mean_loss, *metrics])
    ),
    input_spec=(tokens, label_spec or tokens),
  )


def _named(constructors):
  made = [make() for make in constructors]
  return collections.OrderedDict((m.name, m) for m in made)


def from_keras(
  model: tf.keras.Model,
  *,
  loss: tf.keras.losses.Loss | None = None,
  label_spec: tf.TensorSpec | None = None,
  metrics: Sequence[Callable[[], tf.keras.metrics.Metric]] | None = None,
  ignored_labels: Sequence[int] = (),
) -> tff.learning.models.FunctionalModel:
  """Makes a `FunctionalModel` that FedSynth can train of a Keras model.

  Like `tff.learning.models.functional_model_from_keras`, on which it stands, the
  result works inside `tff` computations and graphs only, not eagerly.

  A model that starts with an embedding becomes a `language.LanguageModel`: it is
  split behind the embedding, and synthetic sequences are fed there.

  Args:
    model: A built Keras model with one input, of floats or into an embedding,
      and one output. Its current weights are the initial ones.
    loss: The loss on real data; cross-entropy of class numbers and logits if
      `None`, without the padding, label 0, where the embedding masks zeros.
    label_spec: Of a batch of real labels; if `None`, int32 [None], or like the
      tokens. Float labels make a regression, whose synthetic labels are used
      as they are learned.
    metrics: Constructors of metrics; accuracy, for a classifier, if `None`.
    ignored_labels: Tokens that the accuracy of a language model leaves out; the
      padding, if there are none.

  Returns:
    A `tff.learning.models.FunctionalModel`.

  Raises:
    UnsupportedModelError: If the model has batch normalisation, integer inputs
      without an embedding, an embedding behind which it cannot be split,
      weights that are not trainable, several inputs or outputs, an unknown
      input shape, or, as a classifier, a softmax as its last layer.
  """
  classifies = label_spec is None or label_spec.dtype.is_integer
  _check_can_be_replayed(model, classifies)
  if _embeddings(model):
    return _language_model(model, loss, label_spec, metrics, ignored_labels)
  if not model.inputs[0].dtype.is_floating:
    raise UnsupportedModelError(
      f'The inputs are {model.inputs[0].dtype.name}, which have no gradient. '
      'Cast them to float32 in the data set, or start with an embedding.'
    )
  if loss is None:
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  if label_spec is None:
    label_spec = tf.TensorSpec([None], tf.int32)
  if metrics is None:
    metrics = (
      [lambda: tf.keras.metrics.SparseCategoricalAccuracy('accuracy')]
      if classifies
      else []
    )

  # A FunctionalModel does not report its loss by itself.
  mean_loss = lambda: tf.keras.metrics.MeanMetricWrapper(loss, name='loss')
  return tff.learning.models.functional_model_from_keras(
    model,
    loss,
    (tf.TensorSpec([None, *model.input_shape[1:]], tf.float32), label_spec),
    lambda: _named([mean_loss, *metrics]),
  )
