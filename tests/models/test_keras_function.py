"""Keras models as functions: random, recurrent and shared layers."""

import dataclasses

import keras_models
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import build_fedsynth
from tff_fedsynth import build_spec
from tff_fedsynth import from_keras
from tff_fedsynth import SynthesisConfig
from tff_fedsynth.models.keras_model import seeded

pytestmark = pytest.mark.usefixtures('same_initial_weights')

keras = tf.keras
L = keras.layers
SGD = tff.learning.optimizers.build_sgdm


def _random_layers():
  return keras_models.sequential(
    L.RandomFlip('horizontal'),
    L.RandomTranslation(0.1, 0.1),
    L.Conv2D(4, 3, activation='relu'),
    L.SpatialDropout2D(0.2),
    L.Flatten(),
    L.Dense(12, 'relu'),
    L.Dropout(0.5),
    L.GaussianNoise(0.1),
    L.GaussianDropout(0.1),
    L.AlphaDropout(0.1),
    L.Dense(3),
    shape=(8, 8, 1),
  )


def test_random_layers_draw_in_training_alone_and_from_the_seed():
  keras_model = _random_layers()
  model = from_keras(keras_model)
  x, _ = keras_models.data((8, 8, 1), 6)
  weights = model.initial_weights

  def predict(training, seed):
    def run(x, seed):
      view = seeded(model, seed)
      return view.predict_on_batch(weights, x, training=training)

    return keras_models.in_graph(run, x, np.array([seed, 0], np.int32))

  plain = keras_model(x, training=False).numpy()
  np.testing.assert_allclose(predict(False, 0), plain, atol=1e-5)
  trained = predict(True, 0)
  assert np.abs(trained - plain).max() > 0.1
  np.testing.assert_array_equal(trained, predict(True, 0))
  assert np.abs(trained - predict(True, 1)).max() > 0.1
  # Another batch, or other weights, as in the next step: other numbers.
  dropped = keras_models.sequential(L.Dropout(0.5), L.Dense(2))
  model = from_keras(dropped)
  ones = np.ones([1, 4], np.float32)
  kept = set()
  for shift in range(20):
    weights = (tuple(w + shift for w in model.initial_weights[0]), ())
    outputs = keras_models.in_graph(
      lambda x, w=weights: model.predict_on_batch(w, x, training=True), ones
    )
    all_kept = keras_models.in_graph(
      lambda x, w=weights: model.predict_on_batch(w, x, training=False), ones
    )
    kept.add(bool(np.abs(outputs - all_kept).max() < 1e-6))
    kept.add(tuple(np.round(outputs[0] / all_kept[0], 2)))
  assert len(kept) > 5


def test_dropout_keeps_its_share():
  model = from_keras(
    keras_models.sequential(L.Dropout(0.25), L.Dense(1000), shape=(1000,))
  )
  weights = ((np.eye(1000, dtype=np.float32), np.zeros(1000, np.float32)), ())
  ones = np.ones([4, 1000], np.float32)
  outputs = keras_models.in_graph(
    lambda x: model.predict_on_batch(weights, x, training=True), ones
  )
  # Of 4000, 1000 with a standard deviation of 27.
  assert abs((outputs == 0).sum() - 1000) < 5 * 27
  np.testing.assert_allclose(outputs[outputs != 0], 4 / 3, rtol=1e-5)
  # Examples of a batch are not dropped alike.
  assert (outputs[0] != outputs[1]).any()


def test_a_round_with_dropout_repeats_with_its_seed_and_follows_it():
  model = from_keras(
    keras_models.sequential(L.Dense(20, 'relu'), L.Dropout(0.5), L.Dense(3))
  )
  x, y = keras_models.data((4,))
  config = SynthesisConfig(
    build_spec(model, batch_size=2, bits=4), iterations=5
  )

  def weights(seed):
    seeded_config = dataclasses.replace(config, seed=seed)
    process = build_fedsynth(model, SGD(0.1), config=seeded_config)
    output = process.next(process.initialize(), [keras_models.dataset(x, y, 8)])
    train = output.metrics['client_work']['train']
    return process.get_model_weights(output.state).trainable, train['loss']

  first, again, other = weights(0), weights(0), weights(1)
  for a, b in zip(first[0], again[0]):
    np.testing.assert_array_equal(a, b)
  # The loss of local training, on the same data: dropout alone differs.
  assert first[1] == again[1] != other[1]
  fed_avg = tff.learning.algorithms.build_weighted_fed_avg(model, SGD(0.1))
  output = fed_avg.next(fed_avg.initialize(), [keras_models.dataset(x, y, 8)])
  assert np.isfinite(output.metrics['client_work']['train']['loss'])


@pytest.mark.parametrize(
  'layer',
  [
    lambda: L.LSTM(6),
    lambda: L.GRU(6, recurrent_dropout=0.1),
    lambda: L.Bidirectional(L.SimpleRNN(4)),
  ],
)
def test_recurrent_layers_on_float_inputs_train(layer):
  keras_model = keras_models.sequential(layer(), L.Dense(3), shape=(5, 4))
  x, y = keras_models.data((5, 4))
  before = keras_model(x).numpy()
  model = from_keras(keras_model)
  found = keras_models.in_graph(
    lambda x: model.predict_on_batch(model.initial_weights, x, training=False),
    x,
  )
  np.testing.assert_allclose(found, before, atol=1e-5)
  metrics, _ = keras_models.train(model, [keras_models.dataset(x, y, 8)])
  assert metrics['synthesis']['cosine'] > 0.6


def test_the_keras_model_stays_as_it_was_and_gets_the_trained_weights():
  keras_model = keras_models.sequential(
    keras_models.sequential(L.Dense(8, 'relu')), L.Dropout(0.2), L.Dense(3)
  )
  keras_model.compile('sgd', keras_models.SPARSE, ['accuracy'])
  x, y = keras_models.data((4,))
  before = keras_model(x).numpy()
  model = from_keras(keras_model)
  _, weights = keras_models.train(
    model, [keras_models.dataset(x, y, 8)], rounds=2
  )
  np.testing.assert_array_equal(keras_model(x), before)
  assert keras_model.predict(x, verbose=0).shape == (33, 3)
  assert len(tff.learning.models.ModelWeights.from_model(keras_model)[0]) == 4
  weights.assign_weights_to(keras_model)
  for w, trained in zip(keras_model.trainable_weights, weights.trainable):
    np.testing.assert_array_equal(w, trained)
  loss, accuracy = keras_model.evaluate(x, y, verbose=0)
  trained = from_keras(keras_model)
  metrics = keras_models.evaluate(trained, keras_models.dataset(x, y))
  assert metrics['loss'] == pytest.approx(loss, rel=1e-4)
  assert metrics['accuracy'] == pytest.approx(accuracy, rel=1e-4)


def test_what_others_make_in_graphs_does_not_break_a_model():
  keras_model = keras_models.sequential(L.Dense(3))
  model = from_keras(keras_model)
  with tf.Graph().as_default():
    keras_models.sequential(L.Dense(3))  # As any model_fn of TFF's does.
  x, _ = keras_models.data((4,))
  keras_models.in_graph(
    lambda x: model.predict_on_batch(model.initial_weights, x, training=False),
    x,
  )
  assert keras_model(x).shape == (33, 3)


def test_layers_may_be_shared_and_hold_weights_in_any_way():
  class Own(L.Layer):
    def __init__(self):
      super().__init__()
      self.parts = [L.Dense(4), L.Dense(4)]
      self.by_name = {'scale': tf.Variable(2.0)}

    def build(self, shape):
      self.offset = self.add_weight('offset', (4,), initializer='ones')
      super().build(shape)

    def call(self, inputs):
      for part in self.parts:
        inputs = part(inputs) * self.by_name['scale'] + self.offset
      return inputs

  own = Own()
  inputs = keras.Input((4,))
  keras_model = keras.Model(inputs, L.Dense(3)(own(own(inputs))))
  x, _ = keras_models.data((4,), 3)
  expected = keras_model(x).numpy()
  model = from_keras(keras_model)
  assert len(model.initial_weights[0]) == len(keras_model.trainable_weights)
  found = keras_models.in_graph(
    lambda x: model.predict_on_batch(model.initial_weights, x, training=False),
    x,
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)
