import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import from_keras
from tff_fedsynth import UnsupportedModelError
from tff_fedsynth.models import weights as weights_lib
from tff_fedsynth.models.architectures import image_classifiers

keras = tf.keras
SHAPE = (28, 28, 1)


def _sequential(*layers, shape=(4,), dtype=None):
  return keras.Sequential([keras.Input(shape, dtype=dtype), *layers])


@pytest.mark.parametrize(
  'name, parameters',
  [
    ('mlp', 159_010),
    ('wide_mlp', 1_590_010),
    ('cnn', 101_682),
    ('fedavg_cnn', 1_663_370),
  ],
)
def test_parameter_counts(name, parameters):
  model = image_classifiers.MODELS[name](SHAPE, 10)
  assert model.count_params() == parameters
  assert model.output_shape == (None, 10)
  assert weights_lib.model_parameters(from_keras(model)) == parameters


def test_initial_weights_depend_on_the_seed_alone():
  a, b, c = (
    image_classifiers.mlp(SHAPE, 10, seed).get_weights() for seed in (1, 1, 2)
  )
  for x, y in zip(a, b, strict=True):
    np.testing.assert_array_equal(x, y)
  assert np.abs(a[0] - c[0]).max() > 0
  # Glorot uniform: the limit is sqrt(6 / (in + out)).
  limit = np.sqrt(6 / (784 + 200))
  assert 0.99 * limit < np.abs(a[0]).max() <= limit
  assert np.abs(a[1]).max() == 0


def test_converted_model_predicts_as_keras_does():
  model = image_classifiers.cnn(SHAPE, 10)
  x = np.random.RandomState(0).uniform(size=(3, *SHAPE)).astype(np.float32)
  # TFF's conversion leaves the Keras model unusable outside of its graph.
  expected = model(x).numpy()
  functional = from_keras(model)

  @tff.tensorflow.computation
  def predict():
    return functional.predict_on_batch(functional.initial_weights, x, False)

  np.testing.assert_allclose(predict(), expected, atol=1e-5)


def test_metrics_are_loss_and_accuracy():
  model = _sequential(keras.layers.Dense(3))
  x = np.random.RandomState(0).normal(size=(10, 4)).astype(np.float32)
  logits = model(x).numpy()
  y = np.argmax(logits, axis=1).astype(np.int32)
  y[:2] = (y[:2] + 1) % 3
  expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(
    y, logits
  ).numpy()
  evaluate = tff.learning.algorithms.build_fed_eval(from_keras(model))
  data = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
  metrics = evaluate.next(evaluate.initialize(), [data]).metrics
  measured = metrics['client_work']['eval']['current_round_metrics']
  np.testing.assert_allclose(measured['accuracy'], 0.8)
  np.testing.assert_allclose(measured['loss'], expected, rtol=1e-5)


def test_regression_has_float_labels():
  functional = from_keras(
    _sequential(keras.layers.Dense(2)),
    loss=keras.losses.MeanSquaredError(),
    label_spec=tf.TensorSpec([None, 2], tf.float32),
  )
  assert functional.input_spec[1].dtype == tf.float32


@pytest.mark.parametrize(
  'make, message',
  [
    (
      lambda: _sequential(
        keras.layers.Dense(3), keras.layers.BatchNormalization()
      ),
      'batch normalisation.*GroupNormalization',
    ),
    (
      lambda: _sequential(
        keras.layers.Embedding(5, 2),
        keras.layers.Flatten(),
        keras.layers.Dense(3),
      ),
      'logits for every position',
    ),
    (
      lambda: _sequential(
        keras.layers.CategoryEncoding(5), keras.layers.Dense(3), dtype='int32'
      ),
      'int32, which have no gradient.*Cast',
    ),
    (
      lambda: _sequential(keras.layers.Dense(3, 'softmax')),
      'applies a softmax. Return logits',
    ),
    (
      lambda: _sequential(keras.layers.Dense(3), keras.layers.Softmax()),
      'applies a softmax. Return logits',
    ),
    (
      lambda: _sequential(keras.layers.Dense(3, trainable=False)),
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
