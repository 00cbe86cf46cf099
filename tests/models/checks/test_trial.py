"""Models and losses that do not go together are refused when tried."""

import keras_models
import pytest
import tensorflow as tf

from tff_fedsynth import from_keras
from tff_fedsynth import UnsupportedModelError

pytestmark = pytest.mark.usefixtures('same_initial_weights')

keras = tf.keras
L = keras.layers


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
