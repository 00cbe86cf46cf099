"""Models of the experiments, by name. All output logits.

Image classifiers without convolutions take vectors and other shapes, too. Recurrent
language models map tokens to logits of the next token; sizes and layers are those
of TFF's own baselines.
"""

from collections.abc import Callable
import functools

import tensorflow as tf

from tff_fedsynth.models.lstm import LSTM

keras = tf.keras


def _build(name, input_shape, layers, seed):
  """A Sequential model whose initial weights depend on the seed alone."""
  model = keras.Sequential([keras.Input(input_shape), *layers], name=name)
  initializer = keras.initializers.GlorotUniform
  kernels = [w for w in model.weights if len(w.shape) > 1]
  for i, kernel in enumerate(kernels):
    kernel.assign(initializer(seed=1000 * seed + i)(kernel.shape))
  return model


def _one_hidden_layer(units, num_classes):
  return [
    keras.layers.Flatten(),
    keras.layers.Dense(units, 'relu'),
    keras.layers.Dense(num_classes),
  ]


def mlp(input_shape, num_classes, seed=0) -> keras.Model:
  """One hidden layer of 200: 159,010 parameters on 28x28x1 and 10 classes."""
  layers = _one_hidden_layer(200, num_classes)
  return _build('mlp', input_shape, layers, seed)


def wide_mlp(input_shape, num_classes, seed=0) -> keras.Model:
  """One hidden layer of 2000: 1,590,010 parameters on 28x28x1 and 10 classes."""
  layers = _one_hidden_layer(2000, num_classes)
  return _build('wide_mlp', input_shape, layers, seed)


def _two_convolutions(filters, units, num_classes):
  layers = []
  for count in filters:
    layers.append(
      keras.layers.Conv2D(count, 5, padding='same', activation='relu')
    )
    layers.append(keras.layers.MaxPool2D())
  return layers + [
    keras.layers.Flatten(),
    keras.layers.Dense(units, 'relu'),
    keras.layers.Dense(num_classes),
  ]


def cnn(input_shape, num_classes, seed=0) -> keras.Model:
  """`fedavg_cnn`, narrower: 101,682 parameters on 28x28x1 and 10 classes."""
  layers = _two_convolutions((16, 32), 56, num_classes)
  return _build('cnn', input_shape, layers, seed)


def fedavg_cnn(input_shape, num_classes, seed=0) -> keras.Model:
  """The CNN of McMahan et al. 2017, section 3: 1,663,370 parameters on MNIST."""
  layers = _two_convolutions((32, 64), 512, num_classes)
  return _build('fedavg_cnn', input_shape, layers, seed)


def cnn_dropout(input_shape, num_classes, seed=0) -> keras.Model:
  """The CNN of EMNIST (Reddi et al. 2020): 1,206,590 parameters with 62 classes.

  As TFF's baseline, with dropout after the convolutions and the hidden layer.
  """
  layers = [
    keras.layers.Conv2D(32, 3, activation='relu'),
    keras.layers.Conv2D(64, 3, activation='relu'),
    keras.layers.MaxPool2D(),
    keras.layers.Dropout(0.25),
    keras.layers.Flatten(),
    keras.layers.Dense(128, 'relu'),
    keras.layers.Dropout(0.5),
    keras.layers.Dense(num_classes),
  ]
  return _build('cnn_dropout', input_shape, layers, seed)


def _language_model(layers, vocabulary_size, embedding_size, seed, name):
  """A model of an embedding and layers, drawn from the seed alone."""
  model = keras.Sequential(
    [
      keras.Input([None], dtype=tf.int64),
      keras.layers.Embedding(vocabulary_size, embedding_size, mask_zero=True),
      *layers,
      keras.layers.Dense(vocabulary_size),
    ],
    name=name,
  )
  initializers = keras.initializers
  for i, weight in enumerate(model.weights):
    own = 1000 * seed + i
    if 'embeddings' in weight.name:
      weight.assign(initializers.RandomUniform(seed=own)(weight.shape))
    elif 'recurrent_kernel' in weight.name:
      weight.assign(initializers.Orthogonal(seed=own)(weight.shape))
    elif 'kernel' in weight.name:
      weight.assign(initializers.GlorotUniform(seed=own)(weight.shape))
  return model


def character_lstm(
  vocabulary_size: int,
  units: int = 256,
  num_layers: int = 2,
  embedding_size: int = 8,
  seed: int = 0,
) -> keras.Model:
  """Of Shakespeare (McMahan et al. 2017, section 3).

  820,522 weights with 90 tokens, as in TFF.
  """
  layers = [LSTM(units) for _ in range(num_layers)]
  return _language_model(
    layers, vocabulary_size, embedding_size, seed, 'character_lstm'
  )


def word_lstm(
  vocabulary_size: int,
  units: int = 670,
  embedding_size: int = 96,
  seed: int = 0,
) -> keras.Model:
  """Of Stack Overflow (Reddi et al. 2020, table 9).

  4,050,748 weights with 10,004 tokens, as in TFF.
  """
  layers = [LSTM(units), keras.layers.Dense(embedding_size)]
  return _language_model(
    layers, vocabulary_size, embedding_size, seed, 'word_lstm'
  )


MODELS = {
  'mlp': mlp,
  'wide_mlp': wide_mlp,
  'cnn': cnn,
  'fedavg_cnn': fedavg_cnn,
  'cnn_dropout': cnn_dropout,
}
# The least side of an image that convolutions and pooling leave something of.
_LEAST_SIDES = {'cnn': 4, 'fedavg_cnn': 4, 'cnn_dropout': 6}


def _fits(name: str, input_shape: tuple[int, ...]) -> bool:
  least = _LEAST_SIDES.get(name)
  return least is None or (
    len(input_shape) == 3 and min(input_shape[:2]) >= least
  )


def models(
  input_shape: tuple[int, ...], num_classes: int
) -> dict[str, Callable[[int], keras.Model]]:
  """Those of `MODELS` that fit: from a name to a function of a seed.

  Args:
    input_shape: Of one example: (height, width, channels), or any other, for
      which there are no convolutions.
    num_classes: Of the labels, which count from 0.
  """
  return {
    name: functools.partial(make, input_shape, num_classes)
    for name, make in MODELS.items()
    if _fits(name, input_shape)
  }
