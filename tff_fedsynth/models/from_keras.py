"""From a Keras model to one that FedSynth can train."""

import collections
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.errors import UnsupportedModelError
from tff_fedsynth.models import keras_model
from tff_fedsynth.models import losses
from tff_fedsynth.models import metrics as metrics_lib
from tff_fedsynth.models import model_checks
from tff_fedsynth.models.keras_function import KerasFunction
from tff_fedsynth.models.keras_model import KerasModel
from tff_fedsynth.models.keras_model import split_batch

keras = tf.keras


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


def _metrics_fns(loss, metrics, output_shape, spec):
  """The loss and the metrics of a model as TFF's pure functions."""
  label_shape = split_batch(spec)[1].shape[1:]
  return metrics_lib.functions(
    [
      lambda: losses.MeanLoss(loss),
      *(
        metrics_lib.constructor(metric, label_shape, output_shape)
        for metric in metrics
      ),
    ]
  )


def _embedding_model(model, loss, label_spec, input_spec, metrics, ignored):
  """A model that starts with an embedding, split behind it."""
  embedding, layers = model_checks.split_at_embedding(model)
  masks_zero = embedding.mask_zero

  def rest(outputs, training):
    for layer in layers:
      outputs = model_checks.call_layer(layer, outputs, training)
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
  if loss is not None:
    loss = losses.resolve(loss)
  elif masks_zero:
    loss = losses.MaskedCrossEntropy()
  else:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  if metrics is None:
    ignored = tuple(ignored) or ((0,) if masks_zero else ())
    metrics = (
      [lambda: metrics_lib.MaskedAccuracy(ignored)]
      if ignored
      else [keras.metrics.SparseCategoricalAccuracy('accuracy')]
    )
  weights = [w for layer in layers for w in layer.trainable_weights]
  return keras_model.LanguageModel(
    embedding,
    KerasFunction(model, rest, weights),
    [w.numpy() for w in weights],
    ends_with_dense=ends_with_dense,
    loss=loss,
    metrics_fns=_metrics_fns(loss, metrics, model.output_shape[1:], spec),
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
    metrics = metrics_lib.accuracy(loss)
  return KerasModel(
    KerasFunction(model),
    initial_weights=(tuple(w.numpy() for w in model.trainable_weights), ()),
    loss=loss,
    label_forms=_label_forms(loss, split_batch(spec)[1]),
    metrics_fns=_metrics_fns(loss, metrics, shape, spec),
    input_spec=spec,
  )


def from_keras(
  model: keras.Model,
  *,
  loss: keras.losses.Loss | str | Callable[..., tf.Tensor] | None = None,
  label_spec: tf.TensorSpec | None = None,
  input_spec: Any = None,
  metrics: Sequence[metrics_lib.Metric] | None = None,
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
    metrics: What `compile` in Keras takes: metrics, names, functions of labels and
      outputs; constructors too. The accuracy that goes with a cross-entropy if
      `None`.
    ignored_labels: Tokens that the accuracy of a language model leaves out; the
      padding, if there are none.

  Returns:
    A `tff.learning.models.FunctionalModel`, whose metrics are `loss`, the mean
    over examples, and `metrics`.

  Raises:
    UnsupportedModelError: If the model cannot be trained as it is:
      batch normalization, regularizers and other losses of layers, weights that
      are not trainable or not float32, several inputs or outputs, inputs of an
      unknown shape or of integers without an embedding, constraints, a training
      step of the model's own, or layers that keep a state; or if outputs, loss and
      labels do not go together. The message says which, and what to change.
  """
  model_checks.check_structure(model)
  if model_checks.embeddings(model):
    made = _embedding_model(
      model, loss, label_spec, input_spec, metrics, ignored_labels
    )
  else:
    model_checks.check_float_inputs(model)
    if ignored_labels:
      raise UnsupportedModelError(
        'ignored_labels are tokens of a language model, which this one is not. '
        'Leave them out.'
      )
    made = _float_model(model, loss, label_spec, input_spec, metrics)
  model_checks.check_on_a_batch(model, made)
  return made
