"""What can be seen of a Keras model without calling it: can it be trained?"""

import tensorflow as tf

from tff_fedsynth.errors import UnsupportedModelError

keras = tf.keras


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
