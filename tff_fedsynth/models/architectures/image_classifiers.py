"""Image classifiers, by name. All output logits.

Those without convolutions take vectors and other shapes, too.
"""

from collections.abc import Callable
import functools

import tensorflow as tf

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
