"""Keras models that cannot be trained or replayed are refused."""

import keras_models
import pytest
import tensorflow as tf

from tff_fedsynth import from_keras
from tff_fedsynth import UnsupportedModelError

pytestmark = pytest.mark.usefixtures('same_initial_weights')
keras = tf.keras
L = keras.layers


# Made in the test: what other tests make in graphs spoils older layers.
@pytest.mark.parametrize(
  'layers, message',
  [
    (
      lambda: [
        L.Lambda(lambda x: x + tf.random.normal(tf.shape(x))),
        L.Dense(3),
      ],
      'draws from a state of its own',
    ),
    (lambda: [L.LSTM(3, stateful=True), L.Dense(3)], 'stateful=False'),
    (
      lambda: [L.Flatten(), L.Dense(3), L.BatchNormalization()],
      'batch normalization',
    ),
    (lambda: [L.Lambda(lambda x: 0.0 * x)], 'no weights to train'),
    (
      lambda: [L.Dense(4, dtype='float64'), L.Flatten(), L.Dense(3)],
      'computes in float64',
    ),
    (
      lambda: [L.Dense(4, dtype='mixed_float16'), L.Flatten(), L.Dense(3)],
      'computes in float16',
    ),
  ],
)
def test_layers_that_cannot_be_trained_are_refused(layers, message):
  model = keras.Sequential([keras.Input((5, 4), batch_size=2), *layers()])
  with pytest.raises(UnsupportedModelError, match=message):
    from_keras(model)


def test_inputs_of_unknown_size_are_refused():
  model = keras_models.sequential(
    L.Conv1D(3, 2), L.GlobalMaxPool1D(), L.Dense(3), shape=(None, 4)
  )
  with pytest.raises(UnsupportedModelError, match='Give tf.keras.Input every'):
    from_keras(model)


@pytest.mark.parametrize(
  'make, message',
  [
    (
      lambda: keras_models.sequential(
        keras.layers.Dense(3), keras.layers.BatchNormalization()
      ),
      'batch normalization.*GroupNormalization',
    ),
    (
      lambda: keras_models.sequential(
        keras.layers.Embedding(5, 2),
        keras.layers.Flatten(),
        keras.layers.Dense(3),
      ),
      'logits for every position',
    ),
    (
      lambda: keras_models.sequential(
        keras.layers.CategoryEncoding(5), keras.layers.Dense(3), dtype='int32'
      ),
      'int32, which have no gradient.*Cast',
    ),
    (
      lambda: keras_models.sequential(keras.layers.Dense(3, 'softmax')),
      'applies a softmax. Return logits',
    ),
    (
      lambda: keras_models.sequential(
        keras.layers.Dense(3), keras.layers.Softmax()
      ),
      'applies a softmax. Return logits',
    ),
    (
      lambda: keras_models.sequential(keras.layers.Dense(3, trainable=False)),
      'not trainable',
    ),
    (
      lambda: keras.Sequential([keras.layers.Dense(3)]),
      'does not know its input shape',
    ),
    (
      lambda: keras.Model(
        inputs := [keras.Input((2,)), keras.Input((2,))],
        keras.layers.Dense(3)(keras.layers.Add()(inputs)),
      ),
      '2 inputs and 1 outputs',
    ),
  ],
)
def test_models_that_cannot_be_replayed_are_refused(make, message):
  with pytest.raises(UnsupportedModelError, match=message):
    from_keras(make())


def _two_embeddings():
  x = keras.Input([None])
  y = keras.layers.Embedding(9, 4)(x) + keras.layers.Embedding(9, 4)(x)
  return keras.Model(x, keras.layers.Dense(9)(y))


def _skips():
  x = keras.Input([None])
  y = keras.layers.Embedding(9, 4)(x)
  z = keras.layers.Dense(4)(y)
  return keras.Model(x, keras.layers.Dense(9)(keras.layers.Add()([y, z])))


def _late():
  x = keras.Input([None])
  y = keras.layers.Embedding(9, 4)(keras.layers.Activation('relu')(x))
  return keras.Model(x, keras.layers.Dense(9)(y))


@pytest.mark.parametrize(
  'make, message',
  [
    (_two_embeddings, '2 embeddings'),
    (_skips, 'does not simply follow'),
    (_late, 'not the first layer'),
  ],
)
def test_models_that_cannot_be_split(make, message):
  with pytest.raises(UnsupportedModelError, match=message):
    from_keras(make())


def test_labels_that_do_not_belong_to_the_outputs_are_refused():
  for label_spec in (
    tf.TensorSpec([None, 8], tf.int32),
    tf.TensorSpec([None, 3], tf.int32),
  ):
    with pytest.raises(UnsupportedModelError, match='labels of shape'):
      from_keras(keras_models.sequential(L.Dense(3)), label_spec=label_spec)
  with pytest.raises(UnsupportedModelError, match='needs labels of shape'):
    from_keras(
      keras_models.sequential(L.Dense(3)),
      loss='mse',
      label_spec=tf.TensorSpec([None, 1]),
    )


# Made in the test: what other tests make in graphs spoils older layers.
@pytest.mark.parametrize(
  'layers, loss, message',
  [
    (lambda: [L.Dense(3, activation=tf.nn.softmax)], None, 'applies a softmax'),
    (lambda: [L.Dense(3), L.Lambda(tf.nn.softmax)], None, 'applies a softmax'),
    (
      lambda: [keras_models.sequential(L.Dense(3, 'softmax'))],
      None,
      'applies a softmax',
    ),
    (
      lambda: [L.Dense(3), L.Activation('softmax')],
      'sparse_categorical_crossentropy',
      'Return logits',
    ),
    (lambda: [L.Dense(3)], 'sparse_categorical_crossentropy', 'outputs logits'),
    (
      lambda: [L.Dense(3)],
      keras.losses.SparseCategoricalCrossentropy,
      'outputs logits.*from_logits=True',
    ),
    (
      lambda: [L.Dense(1, 'sigmoid')],
      keras.losses.BinaryCrossentropy(True),
      'applies a sigmoid',
    ),
    (lambda: [L.Dense(1)], 'binary_crossentropy', 'outputs logits'),
    # No class at all, or one that is always right.
    (lambda: [L.Dense(1)], None, 'always 0'),
  ],
)
def test_what_a_model_outputs_must_be_what_the_loss_takes(
  layers, loss, message
):
  with pytest.raises(UnsupportedModelError, match=message):
    from_keras(keras_models.sequential(*layers()), loss=loss)


def test_logits_that_start_alike_are_no_probabilities():
  last = L.Dense(2, kernel_initializer='zeros', bias_initializer='ones')
  halves = L.Lambda(lambda x: x / 2)  # One half each, at first.
  from_keras(keras_models.sequential(last, halves))


class _Adds(L.Layer):
  def call(self, inputs):
    self.add_loss(tf.reduce_mean(inputs**2))
    return inputs


@pytest.mark.parametrize(
  'layer',
  [
    lambda: L.Dense(4, kernel_regularizer=keras.regularizers.L2(10.0)),
    lambda: L.Dense(4, bias_regularizer='l1'),
    lambda: L.Dense(4, activity_regularizer='l2'),
    lambda: L.ActivityRegularization(0.1),
    _Adds,
    lambda: keras_models.sequential(L.Dense(4, kernel_regularizer='l2')),
  ],
)
def test_terms_that_layers_add_to_the_loss_are_refused(layer):
  with pytest.raises(UnsupportedModelError, match='add to the loss'):
    from_keras(keras_models.sequential(layer(), L.Dense(3)))


def test_terms_of_recurrent_layers_and_models_are_refused_too():
  layer = L.LSTM(3, recurrent_regularizer='l2')
  with pytest.raises(UnsupportedModelError, match='add to the loss'):
    from_keras(keras_models.sequential(layer, L.Dense(3), shape=(3, 4)))
  model = keras_models.sequential(L.Dense(3))
  model.add_loss(lambda: tf.reduce_sum(model.layers[0].kernel))
  with pytest.raises(UnsupportedModelError, match='add to the loss'):
    from_keras(model)
