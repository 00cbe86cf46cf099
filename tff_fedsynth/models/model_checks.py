"""Refuses Keras models that cannot be trained as they are, in a sentence.

What a model is made of is looked at first. What that does not show is seen in what
the model does on a tiny batch: which losses it adds, what its outputs are, whether
loss, metrics and labels go together. Whether it can be differentiated twice is
checked when FedSynth is built.
"""

import re

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.errors import UnsupportedModelError
from tff_fedsynth.models import losses
from tff_fedsynth.models.keras_function import KerasFunction
from tff_fedsynth.models.keras_model import KerasModel
from tff_fedsynth.models.keras_model import LanguageModel
from tff_fedsynth.models.keras_model import split_batch

keras = tf.keras

_FEWEST_EXAMPLES = 3
_LENGTH = 2
# Ops that draw from a state, in which a run could not be repeated.
_DRAWS = ('Random', 'Multinomial', 'TruncatedNormal', 'StatefulUniform')
# How Keras trains, which a model may change.
_STEPS = (
  *('train_step', 'make_train_function', 'compute_loss', 'compute_metrics'),
  *('test_step', 'make_test_function'),
)


def _layers(model) -> list[keras.layers.Layer]:
  return list(model._flatten_layers(include_self=False))


def embeddings(model) -> list[keras.layers.Embedding]:
  """The embeddings of a model."""
  return [p for p in _layers(model) if isinstance(p, keras.layers.Embedding)]


def call_layer(layer, inputs, training: bool) -> tf.Tensor:
  """Calls one layer outside of its model, where Keras does not know `training`."""
  if layer._expects_training_arg:
    return layer(inputs, training=training)
  return layer(inputs)


def check_structure(model: keras.Model) -> None:
  """Raises `UnsupportedModelError` for what can be seen without a call."""
  if not model.built or not getattr(model, 'inputs', None):
    raise UnsupportedModelError(
      'The Keras model does not know its input shape. Start it with '
      'tf.keras.Input; a model with a call of its own can be one layer of it.'
    )
  if len(model.inputs) != 1 or len(model.outputs) != 1:
    raise UnsupportedModelError(
      f'The Keras model has {len(model.inputs)} inputs and '
      f'{len(model.outputs)} outputs. FedSynth needs one of each.'
    )
  for what, structure in (('input', model.input), ('output', model.output)):
    if not hasattr(structure, 'shape'):
      raise UnsupportedModelError(
        f'The {what} of the Keras model is in a {type(structure).__name__}. '
        'Build it with tensors alone, as tf.keras.Model(inputs, outputs).'
      )
  for name in _STEPS:
    if getattr(type(model), name) is not getattr(keras.Model, name):
      raise UnsupportedModelError(
        f'{type(model).__name__} has a {name} of its own, which neither TFF nor '
        'a replay calls. Put it into the layers, or give from_keras a loss.'
      )
  for layer in _layers(model):
    _check_layer(layer)
  if model.non_trainable_weights:
    names = [w.name for w in model.non_trainable_weights]
    raise UnsupportedModelError(
      f'The weights {names} are not trainable. Make them trainable, or move '
      'what they do into the data set.'
    )
  if not model.trainable_weights:
    raise UnsupportedModelError('The Keras model has no weights to train.')


def _check_layer(layer: keras.layers.Layer) -> None:
  if isinstance(layer, keras.layers.BatchNormalization):
    raise UnsupportedModelError(
      f'Layer {layer.name!r} is a batch normalization: its running averages '
      'are not weights that a gradient step can replay. Use '
      'tf.keras.layers.GroupNormalization.'
    )
  dtypes = {tf.as_dtype(w.dtype) for w in layer.weights}
  if layer.compute_dtype:
    dtypes.add(tf.as_dtype(layer.compute_dtype))
  others = sorted(d.name for d in dtypes if d.is_floating and d != tf.float32)
  if others:
    raise UnsupportedModelError(
      f'Layer {layer.name!r} computes in {others[0]}. Updates are of float32: '
      "build the model with dtype='float32', and without mixed precision."
    )
  if getattr(layer, 'stateful', False):
    raise UnsupportedModelError(
      f'Layer {layer.name!r} keeps a state from batch to batch. Build it with '
      'stateful=False.'
    )
  constrained = [w.name for w in layer.weights if _constraint(w) is not None]
  if constrained:
    raise UnsupportedModelError(
      f'Layer {layer.name!r} has a constraint on {constrained[0]!r}, which only an '
      'optimizer of Keras applies. Leave it out, or compute with a constrained '
      'function of the weight, such as tf.nn.relu.'
    )


def _constraint(weight):
  return getattr(weight, 'constraint', None)


def check_float_inputs(model: keras.Model) -> None:
  """Raises `UnsupportedModelError` for inputs that cannot be learned."""
  inputs = model.inputs[0]
  if not inputs.dtype.is_floating:
    raise UnsupportedModelError(
      f'The inputs are {inputs.dtype.name}, which have no gradient. '
      'Cast them to float32 in the data set, or start with an embedding.'
    )
  for what, shape in (
    ('inputs', model.input_shape),
    ('outputs', model.output_shape),
  ):
    if len(shape) < 2 or None in shape[1:]:
      raise UnsupportedModelError(
        f'The {what} have the shape {shape}, but those of synthetic examples '
        'must be known, but for the batch. Give tf.keras.Input every size.'
      )


def split_at_embedding(model: keras.Model):
  """The embedding that a model starts with, and the layers behind it.

  Raises:
    UnsupportedModelError: If the model is not an embedding and a chain of
      layers that ends with logits for every position.
  """
  embedding, *others = embeddings(model)
  if others:
    raise UnsupportedModelError(
      f'The model has {1 + len(others)} embeddings. FedSynth can split a model '
      'behind one, which must be its first layer.'
    )
  layers = [
    layer
    for layer in model.layers
    if not isinstance(layer, keras.layers.InputLayer)
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
  if len(model.output_shape) != 3 or len(layers) == 1:
    raise UnsupportedModelError(
      'A model with an embedding must output logits for every position, [batch, '
      f'time, tokens], but its outputs have shape {model.output_shape}.'
    )
  return embedding, layers[1:]


def check_on_a_batch(model: keras.Model, made: KerasModel) -> None:
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
    variables = [embeddings(model)[0].embeddings, *variables]
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
