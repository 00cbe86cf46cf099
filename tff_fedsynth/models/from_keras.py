"""From a Keras model to one that FedSynth can train."""

import collections
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.errors import UnsupportedModelError
from tff_fedsynth.models.checks import keras_checks
from tff_fedsynth.models.checks import trial
from tff_fedsynth.models.functional import language_model
from tff_fedsynth.models.functional import losses
from tff_fedsynth.models.functional.keras_function import KerasFunction
from tff_fedsynth.models.functional.keras_model import KerasModel
from tff_fedsynth.models.functional.keras_model import split_batch

keras = tf.keras

Metric = keras.metrics.Metric | str | Callable[[], keras.metrics.Metric]


def _metric_constructor(metric: Metric) -> Callable[[], keras.metrics.Metric]:
  """A constructor out of what Keras takes for a metric."""
  if isinstance(metric, str):
    found = keras.metrics.get(metric)
    if isinstance(found, keras.metrics.Metric):
      return _metric_constructor(found)
    return lambda: keras.metrics.MeanMetricWrapper(found, name=metric)
  if isinstance(metric, keras.metrics.Metric):
    return lambda: type(metric).from_config(metric.get_config())
  return metric


def _metrics_fns(mean_loss, metrics: Sequence[Metric]):
  """What `FunctionalModel` takes for metrics: the loss and others, by name."""
  constructors = [mean_loss, *map(_metric_constructor, metrics)]
  names = [make().name for make in constructors]
  twice = sorted({n for n in names if names.count(n) > 1})
  if twice:
    raise UnsupportedModelError(
      f'Two metrics are named {twice[0]!r}; the loss is one of them, named '
      "'loss'. Give each metric a name of its own."
    )
  return tff.learning.metrics.create_functional_metric_fns(
    lambda: collections.OrderedDict(
      (name, make()) for name, make in zip(names, constructors)
    )
  )


def _accuracy(loss) -> list[Metric]:
  """The accuracy that goes with a loss, if there is one."""
  if losses.is_sparse(loss):
    return [keras.metrics.SparseCategoricalAccuracy('accuracy')]
  if losses.is_categorical(loss):
    return [keras.metrics.CategoricalAccuracy('accuracy')]
  if isinstance(loss, keras.losses.BinaryCrossentropy):
    threshold = 0.0 if losses.from_logits(loss) else 0.5
    return [keras.metrics.BinaryAccuracy('accuracy', threshold=threshold)]
  return []


def _label_forms(loss, label_spec: tf.TensorSpec) -> tuple[str, ...]:
  """Forms of synthetic labels, the default first; see `forms.LABELS`."""
  if losses.is_sparse(loss):
    return ('signed', 'distributions')
  if not label_spec.dtype.is_integer:
    return ('targets', 'signed')
  if losses.is_categorical(loss):
    return ('signed', 'distributions')
  return ('signed',)


def _specs(model, label_spec, input_spec, dtype, default_labels):
  """The input spec of the `FunctionalModel`, with what was left open.

  Raises:
    UnsupportedModelError: If both specs are given, or the inputs do not fit.
  """
  own = tf.TensorSpec([None, *model.input_shape[1:]], dtype)
  if input_spec is None:
    return own, label_spec or default_labels
  if label_spec is not None:
    raise UnsupportedModelError(
      'input_spec has the labels in it. Leave out label_spec.'
    )
  x, y = split_batch(input_spec)
  kind = 'is_integer' if own.dtype.is_integer else 'is_floating'
  if not (own.shape.is_compatible_with(x.shape) and getattr(x.dtype, kind)):
    raise UnsupportedModelError(
      f'The inputs of input_spec are {x}, but the model takes {own}.'
    )
  if isinstance(input_spec, Mapping):
    return collections.OrderedDict(x=x, y=y)
  return x, y


def _embedding_model(model, loss, label_spec, input_spec, metrics, ignored):
  """A model that starts with an embedding, split behind it."""
  embedding, layers = keras_checks.split_at_embedding(model)
  masks_zero = embedding.mask_zero

  def rest(inputs, training):
    outputs = tf.identity(inputs)
    if masks_zero:
      # Keras hands this on from layer to layer. Zeros carry it over the cut.
      outputs._keras_mask = tf.reduce_any(tf.not_equal(inputs, 0.0), axis=-1)
    for layer in layers:
      outputs = keras_checks.call_layer(layer, outputs, training)
    return outputs

  last = layers[-1]
  ends_with_dense = (
    isinstance(last, keras.layers.Dense)
    and last.use_bias
    and last.activation is keras.activations.linear
  )
  dtype = model.inputs[0].dtype
  dtype = dtype if dtype.is_integer else tf.int64
  tokens = tf.TensorSpec([None, *model.input_shape[1:]], dtype)
  spec = _specs(model, label_spec, input_spec, dtype, tokens)
  if loss is None and masks_zero:
    mean_loss = language_model.MaskedLoss
  else:
    loss = losses.resolve(
      loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    mean_loss = lambda: losses.MeanLoss(loss)
  if metrics is None:
    ignored = tuple(ignored) or ((0,) if masks_zero else ())
    metrics = (
      [lambda: language_model.MaskedAccuracy(ignored)]
      if ignored
      else [keras.metrics.SparseCategoricalAccuracy('accuracy')]
    )
  weights = [w for layer in layers for w in layer.trainable_weights]
  return language_model.LanguageModel(
    embedding.embeddings.numpy(),
    KerasFunction(model, rest, weights),
    [w.numpy() for w in weights],
    masks_zero=masks_zero,
    ends_with_dense=ends_with_dense,
    loss=loss,
    metrics_fns=_metrics_fns(mean_loss, metrics),
    input_spec=spec,
  )


def _float_model(model, loss, label_spec, input_spec, metrics):
  """A model of float inputs."""
  loss = losses.resolve(
    loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  )
  shape = model.output_shape[1:]
  # A class for each position of the outputs.
  labels = tf.TensorSpec([None, *shape[:-1]], tf.int32)
  spec = _specs(model, label_spec, input_spec, tf.float32, labels)
  if metrics is None:
    metrics = _accuracy(loss)
  return KerasModel(
    KerasFunction(model),
    initial_weights=(tuple(w.numpy() for w in model.trainable_weights), ()),
    loss=loss,
    label_forms=_label_forms(loss, split_batch(spec)[1]),
    metrics_fns=_metrics_fns(lambda: losses.MeanLoss(loss), metrics),
    input_spec=spec,
  )


def from_keras(
  model: keras.Model,
  *,
  loss: keras.losses.Loss | str | Callable[..., tf.Tensor] | None = None,
  label_spec: tf.TensorSpec | None = None,
  input_spec: Any = None,
  metrics: Sequence[Metric] | None = None,
  ignored_labels: Sequence[int] = (),
) -> tff.learning.models.FunctionalModel:
  """Makes a `FunctionalModel` that FedSynth can train of a Keras model.

  The Keras model stays as it is, and usable. Trained weights get into it by

    process.get_model_weights(state).assign_weights_to(model)

  A model that starts with an embedding becomes a `language.LanguageModel`: it is
  split behind the embedding, and synthetic sequences are fed there.

  What is random in training, such as dropout, draws from a seed: that of the
  round and client in FedSynth. The weights and the batch are part of it, so that
  TFF's own algorithms draw anew in each step, too.

  Args:
    model: A built Keras model with one input, of float32 or into an embedding,
      and one output. Its current weights are the initial ones.
    loss: The loss on real data, as Keras takes it; cross-entropy of class numbers
      and logits if `None`, without the padding, label 0, where the embedding masks
      zeros.
    label_spec: Of a batch of real labels; if `None`, int32 class numbers, one for
      each vector of outputs, or like the tokens.
    input_spec: Of a whole batch, in place of `label_spec`: a pair, or a mapping
      with keys x and y.
    metrics: Metrics, their constructors or names; the accuracy that goes with
      a cross-entropy if `None`.
    ignored_labels: Tokens that the accuracy of a language model leaves out; the
      padding, if there are none.

  Returns:
    A `tff.learning.models.FunctionalModel`, whose metrics are `loss`, the mean
    over examples, and `metrics`.

  Raises:
    UnsupportedModelError: If the model cannot be trained or replayed as it is:
      batch normalization, regularizers and other losses of layers, weights that
      are not trainable or not float32, several inputs or outputs, inputs of an
      unknown shape or of integers without an embedding, layers that keep a state
      or that cannot be differentiated twice; or if outputs, loss and labels do not
      go together. The message says which, and what to change.
  """
  keras_checks.check_structure(model)
  if keras_checks.embeddings(model):
    made = _embedding_model(
      model, loss, label_spec, input_spec, metrics, ignored_labels
    )
  else:
    keras_checks.check_float_inputs(model)
    if ignored_labels:
      raise UnsupportedModelError(
        'ignored_labels are tokens of a language model, which this one is not. '
        'Leave them out.'
      )
    made = _float_model(model, loss, label_spec, input_spec, metrics)
  trial.check(model, made)
  return made
