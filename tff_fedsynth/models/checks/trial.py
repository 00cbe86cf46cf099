"""Tries a converted Keras model on a tiny batch, before anything trains.

What cannot be seen in a model's structure is seen in what it does: which losses it
adds, what its outputs are, whether loss, metrics and labels go together, and
whether it can be differentiated twice.
"""

from collections.abc import Iterator
import re

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.errors import UnsupportedModelError
from tff_fedsynth.models.checks import differentiability
from tff_fedsynth.models.checks import keras_checks
from tff_fedsynth.models.checks.keras_checks import call_layer
from tff_fedsynth.models.functional import losses
from tff_fedsynth.models.functional.keras_function import KerasFunction
from tff_fedsynth.models.functional.keras_model import KerasModel
from tff_fedsynth.models.functional.keras_model import split_batch
from tff_fedsynth.models.functional.language_model import LanguageModel

keras = tf.keras

_FEWEST_EXAMPLES = 3
_GRADIENT_EXAMPLES = 2
_LENGTH = 2
# Ops that draw from a state, in which a run could not be repeated.
_DRAWS = ('Random', 'Multinomial', 'TruncatedNormal', 'StatefulUniform')


def check(model: keras.Model, made: KerasModel) -> None:
  """Raises `UnsupportedModelError` where a model does not do what it must."""
  x_spec, y_spec = split_batch(made.input_spec)
  shape = [_LENGTH if n is None else n for n in x_spec.shape[1:]]
  output_shape = _output_shape(model, made, shape)
  loss = made.keras_loss
  _check_labels(loss, y_spec, output_shape)
  # As many examples as no other size, with which they would broadcast by chance.
  examples = min(
    set(range(_FEWEST_EXAMPLES, 99))
    - {*shape, *output_shape, *y_spec.shape[1:]}
  )
  random = np.random.RandomState(0)
  x = _draw_inputs(made, x_spec, [examples, *shape], random)
  y = _draw_labels(loss, y_spec, examples, output_shape, random)
  _check_outputs(loss, y_spec, _run(model, made, x, y, random))
  _check_gradients(model, made, shape, output_shape)


def _output_shape(model, made, shape) -> tuple[int, ...]:
  """Of one example."""
  if not isinstance(made, LanguageModel):
    return tuple(model.output_shape[1:])
  tokens = model.output_shape[-1]
  if tokens != made.vocabulary_size:
    raise UnsupportedModelError(
      f'The embedding has {made.vocabulary_size} tokens, but the outputs are '
      f'logits of {tokens}. Make both alike.'
    )
  return (*shape, tokens)


def _without_last_one(shape) -> tuple:
  shape = tuple(shape)
  return shape[:-1] if shape and shape[-1] == 1 else shape


def _check_labels(loss, y_spec, output_shape) -> None:
  """Labels that do not belong to outputs one by one may be paired all the same."""
  if losses.is_sparse(loss):
    if output_shape[-1] == 1:
      raise UnsupportedModelError(
        'The model has one output, for which the cross-entropy of class numbers '
        'is always 0. Give it an output a class, or '
        'loss=tf.keras.losses.BinaryCrossentropy(from_logits=True).'
      )
    expected = output_shape[:-1]
  elif losses.is_of_keras(loss):
    expected = output_shape
  else:
    return
  found = tuple(y_spec.shape[1:])
  agree = tf.TensorShape(found).is_compatible_with(expected) or (
    _without_last_one(found) == _without_last_one(expected)
  )
  if not agree:
    raise UnsupportedModelError(
      f'Labels of an example have the shape {found}, but its outputs '
      f'{output_shape}: {type(loss).__name__} needs labels of shape {expected}. '
      'Change label_spec, or the model.'
    )


def _draw_inputs(made, x_spec, shape, random) -> np.ndarray:
  if isinstance(made, LanguageModel):
    tokens = random.randint(0, made.vocabulary_size, shape)
    # Some are masked, if that is what the model does with zeros.
    tokens[0, -1] = 0
    return tokens.astype(x_spec.dtype.as_numpy_dtype)
  return random.normal(size=shape).astype(np.float32)


def _draw_labels(loss, y_spec, examples, output_shape, random) -> np.ndarray:
  shape = [
    size if n is None else n
    for n, size in zip(y_spec.shape[1:], [*output_shape, *output_shape])
  ]
  shape = [examples, *shape]
  classes = output_shape[-1]
  if losses.is_sparse(loss):
    labels = random.randint(0, classes, shape)
  elif losses.is_categorical(loss):
    labels = np.eye(classes)[random.randint(0, classes, shape[:-1])]
  elif y_spec.dtype.is_integer or losses.from_logits(loss) is not None:
    labels = random.randint(0, 2, shape)
  else:
    labels = random.normal(size=shape)
  return labels.astype(y_spec.dtype.as_numpy_dtype)


def _run(model, made, x, y, random) -> list[np.ndarray]:
  """Calls the model in all ways that training does, once.

  Returns:
    Outputs at the initial weights, and at others.
  """
  initial = [np.asarray(w) for w in made.initial_weights[0]]
  # Outputs that look like probabilities at the initial weights may not be any.
  others = [
    w + random.normal(size=w.shape) / np.sqrt(max(1, np.prod(w.shape[:-1])))
    for w in initial
  ]
  variables = made.function.variables
  if isinstance(made, LanguageModel):
    variables = [keras_checks.embeddings(model)[0].embeddings, *variables]
  whole = KerasFunction(model, weights=variables)
  with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
    weights = [tf.compat.v1.placeholder(tf.float32, w.shape) for w in initial]
    try:
      view = made.view(seed=tf.constant([0, 0]))
      outputs = view.predict_on_batch((weights, ()), x, training=False)
      trained = view.predict_on_batch((weights, ()), x, training=True)
      added = whole.added_losses(weights, x)
      expected = whole(weights, x, False)
      feed = lambda values: dict(zip(weights, values))
      found = [session.run(outputs, feed(v)) for v in (initial, others)]
    except Exception as e:
      raise UnsupportedModelError(
        'The Keras model cannot be called in a graph with tensors in place of '
        f'its weights: {_told(e)} Replace the layer that fails.'
      ) from e
    if added:
      raise UnsupportedModelError(
        f'Layers {added} add to the loss (a regularizer, or add_loss). Neither '
        "TFF's FedAvg nor a replay can follow that: leave it out."
      )
    _check_draws(graph)
    if not np.allclose(
      found[1], session.run(expected, feed(others)), rtol=1e-3, atol=1e-5
    ):
      raise UnsupportedModelError(
        'The embedding and the layers behind it, called one after the other, give '
        'other outputs than the Keras model. Use tf.keras.layers.Embedding itself, '
        'and put what else is done to its outputs into a layer behind it.'
      )
    examples = len(x)
    try:
      y = tf.constant(y)
      loss = made.loss(trained, y)
      state = made.update_metrics_state(
        made.initialize_metrics_state(),
        labels=y,
        batch_output=tff.learning.models.BatchOutput(
          loss=loss, predictions=trained, num_examples=examples
        ),
      )
      metrics = made.finalize_metrics(state)
      session.run((loss, metrics, *made.loss_sum(trained, y)), feed(initial))
      values, _ = losses.terms(made.keras_loss, y, trained)
      values.shape[:1].assert_is_compatible_with([examples])
    except Exception as e:
      raise UnsupportedModelError(
        f'Loss and metrics cannot be computed for labels {tuple(y.shape[1:])} of '
        f'{y.dtype.name} and outputs {tuple(outputs.shape[1:])} of an example: '
        f'{_told(e)} Change the loss, the metrics or label_spec.'
      ) from e
    return found


def _told(error: Exception) -> str:
  """What went wrong, without the places that Keras and AutoGraph put around it."""
  text = str(error)
  of_layer = re.findall(
    r'Exception encountered when calling ([^\n]*)\.\s+(.*?)\n\s*\n'
    r'\s*Call arguments',
    text,
    re.DOTALL,
  )
  if of_layer:
    where, what = of_layer[-1]
    return f'{where}: {" ".join(what.split())}'
  *_, last = [line.strip() for line in text.splitlines() if line.strip()] or [
    ''
  ]
  return f'{type(error).__name__}: {last}'


def _check_draws(graph: tf.Graph) -> None:
  definition = graph.as_graph_def(add_shapes=False)
  nodes = [*definition.node]
  for function in definition.library.function:
    nodes += function.node_def
  for node in nodes:
    if node.op.startswith(_DRAWS) and 'Stateless' not in node.op:
      raise UnsupportedModelError(
        f'The op {node.name!r} ({node.op}) draws from a state of its own, so '
        'that no run could be repeated. Draw with a layer of Keras, such as '
        'Dropout or GaussianNoise.'
      )


def _are_probabilities(outputs: np.ndarray, of_rows: bool) -> bool:
  """Whether rows are non-negative and sum to 1, or all numbers are in (0, 1)."""
  if not np.isfinite(outputs).all():
    return False
  if of_rows:
    sums = outputs.sum(axis=-1)
    return outputs.min() >= -1e-6 and np.abs(sums - 1).max() < 1e-3
  return outputs.min() >= 0 and outputs.max() <= 1


def _check_outputs(loss, y_spec, outputs) -> None:
  """Logits, or probabilities: as the loss has it."""
  wants_logits = losses.from_logits(loss)
  if wants_logits is None:
    return
  of_rows = losses.is_categorical(loss)
  are = all(_are_probabilities(o, of_rows) for o in outputs)
  name = type(loss).__name__.lstrip('_')
  if are and wants_logits:
    raise UnsupportedModelError(
      f'The model outputs probabilities, as it applies a '
      f'{"softmax" if of_rows else "sigmoid"}. Return logits: {name} has '
      'from_logits=True, and applies one itself.'
    )
  if not are and not wants_logits:
    raise UnsupportedModelError(
      f'The model outputs logits, but {name} has from_logits=False, which is for '
      f'probabilities. Give tf.keras.losses.{name}(from_logits=True).'
    )
  if are and of_rows and (losses.is_sparse(loss) or y_spec.dtype.is_integer):
    raise UnsupportedModelError(
      'The model outputs probabilities, as it applies a softmax. Return logits: '
      'soft labels need a loss on logits to be differentiated twice. Give '
      f'tf.keras.losses.{name}(from_logits=True).'
    )


def _check_gradients(model, made, shape, output_shape) -> None:
  """Raises `UnsupportedModelError` for a layer or loss with a wrong gradient."""
  lead = (_GRADIENT_EXAMPLES,)
  if isinstance(made, LanguageModel):
    form = 'embeddings'
    shape = (*shape, made.embedding_size)
    predict = lambda view, *arguments: view.predict_on_embeddings(*arguments)
  else:
    form = 'values'
    predict = lambda view, *arguments: view.predict_on_batch(*arguments)

  def signed(view, weights, x, y):
    outputs = predict(view, weights, x, False)
    return tf.reduce_mean(tf.reduce_sum(y * outputs, axis=-1))

  def draw(random):
    sizes = (lead + tuple(shape), lead + tuple(output_shape))
    return [random.normal(size=size) for size in sizes]

  try:
    differentiability.check_model(made, (form, 'signed'), signed, draw)
  except differentiability.WrongGradientError as e:
    raise UnsupportedModelError(
      f'{_name_layer(model)} cannot be replayed: {e}. Replace it.'
    ) from e
  if 'targets' not in made.label_forms:
    return
  label_shape = split_batch(made.input_spec)[1].shape[1:]

  def targets(view, weights, x, y):
    return view.loss(predict(view, weights, x, False), y)

  def draw_targets(random):
    x, _ = draw(random)
    return [x, random.normal(size=lead + tuple(label_shape))]

  try:
    differentiability.check_model(
      made, (form, 'targets'), targets, draw_targets
    )
  except differentiability.WrongGradientError as e:
    raise UnsupportedModelError(
      f'The loss {made.keras_loss.name} cannot be replayed: {e}. Write it out '
      'in elementary operations, or choose another.'
    ) from e


def _single_layers(model) -> Iterator[keras.layers.Layer]:
  for layer in model.layers:
    if isinstance(layer, keras.Model):
      yield from _single_layers(layer)
    elif not isinstance(
      layer, keras.layers.InputLayer | keras.layers.Embedding
    ):
      yield layer


def _is_right(layer, precision) -> bool:
  """Whether one layer alone has a right gradient of its gradient."""
  function = KerasFunction(
    layer, lambda x, training: call_layer(layer, x, training)
  )

  def loss(weights, x, y):
    # An offset of the inputs is a weight that every layer has.
    (offset, *own), _ = weights
    outputs = function(own, x + offset, False, float64=x.dtype == tf.float64)
    return tf.reduce_sum(outputs * y)

  sizes = [
    [_GRADIENT_EXAMPLES, *(_LENGTH if n is None else n for n in shape[1:])]
    for shape in (layer.input_shape, layer.output_shape)
  ]
  weights = [np.zeros(sizes[0]), *(w.numpy() for w in layer.trainable_weights)]
  try:
    differentiability.check(
      loss,
      (tuple(weights), ()),
      lambda random: [random.normal(size=size) for size in sizes],
      precision,
    )
  except differentiability.WrongGradientError:
    return False
  except Exception:  # It does not run alone, or not so: others are to blame.
    pass
  return True


def _name_layer(model) -> str:
  """The layer whose own gradient of a gradient is wrong."""
  for precision in (differentiability.FLOAT64, differentiability.FLOAT32):
    for layer in _single_layers(model):
      is_alone = isinstance(getattr(layer, 'input_shape', None), tuple)
      if is_alone and not _is_right(layer, precision):
        return f'Layer {layer.name!r} ({type(layer).__name__})'
  return 'The model'
