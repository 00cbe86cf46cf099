"""Image classifiers, by name. All output logits."""

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


MODELS = {
  'mlp': mlp,
  'wide_mlp': wide_mlp,
  'cnn': cnn,
  'fedavg_cnn': fedavg_cnn,
}


def models(
  input_shape: tuple[int, int, int], num_classes: int
) -> dict[str, Callable[[int], keras.Model]]:
  """`MODELS` for inputs and classes: from a name to a function of a seed."""
  return {
    name: functools.partial(make, input_shape, num_classes)
    for name, make in MODELS.items()
  }
