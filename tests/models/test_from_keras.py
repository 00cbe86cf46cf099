"""What users give to `from_keras`: layouts, labels, metrics and specs."""

import collections

import keras_models
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import build_spec
from tff_fedsynth import from_keras
from tff_fedsynth import Payload
from tff_fedsynth import spec_for_budget
from tff_fedsynth import UnsupportedModelError
from tff_fedsynth.models import architectures

pytestmark = pytest.mark.usefixtures('same_initial_weights')
keras = tf.keras
L = keras.layers
SHAPE = (28, 28, 1)


@pytest.mark.parametrize(
  'label_spec, batch_size',
  [(None, 1), (tf.TensorSpec([None, 8], tf.int64), 8)],
)
def test_labels_for_each_position(label_spec, batch_size):
  keras_model = keras_models.sequential(
    L.Conv1D(24, 3, padding='same', activation='relu'),
    L.Dense(24, 'relu'),
    L.Dense(3),
    shape=(8, 4),
  )
  model = from_keras(keras_model, label_spec=label_spec)
  x, y = keras_models.data((8, 4))
  labels = (y[:, np.newaxis] + np.arange(8)) % 3
  labels = labels.astype(np.int64 if label_spec else np.int32)
  spec = build_spec(model, batch_size=batch_size, bits=4)
  assert spec.label_shape == (8, 3)
  metrics, _ = keras_models.train(
    model, [keras_models.dataset(x, labels, 8)], spec=spec
  )
  # As many examples as positions would pair label i with position i.
  assert metrics['synthesis']['cosine'] > 0.5


@pytest.mark.parametrize(
  'shape, resolution',
  [((1, 12, 12), 6), ((3, 10, 10), 5), ((1, 40, 2), None), ((12, 12, 1), 6)],
)
def test_images_of_any_layout_fill_a_budget(shape, resolution):
  keras_model = keras_models.sequential(
    L.Flatten(), L.Dense(9, 'relu'), L.Dense(3), shape=shape
  )
  model = from_keras(keras_model)
  sides = resolution or 1
  learned = (
    int(np.prod(shape))
    if resolution is None
    else sides * sides * int(np.prod(shape)) // (shape[1] * shape[1])
  )
  budget = 4 + 4 + 2 * (-(-learned // 2) + 2 + 8)
  spec = spec_for_budget(model, budget, batch_size=2)
  assert spec.resolution == resolution
  assert Payload(spec).data_bytes + 4 == budget


@pytest.mark.parametrize(
  'shape, resolution', [((3, 10, 10), 5), ((12, 12, 1), 6)]
)
def test_images_of_any_layout_are_learned(shape, resolution):
  keras_model = keras_models.sequential(
    L.Flatten(), L.Dense(9, 'relu'), L.Dense(3), shape=shape
  )
  model = from_keras(keras_model)
  spec = build_spec(model, batch_size=2, bits=4, resolution=resolution)
  x, y = keras_models.data(shape)
  metrics, _ = keras_models.train(
    model, [keras_models.dataset(x, y, 8)], spec=spec
  )
  assert metrics['synthesis']['cosine'] > 0.3


def test_accuracies_that_go_with_a_loss_are_right():
  x, y = keras_models.data((4,))
  binary = keras_models.sequential(L.Dense(1))
  right = (binary(x).numpy()[:, 0] > 0) == (y > 0)
  measured = keras_models.evaluate(
    from_keras(
      binary,
      loss=keras.losses.BinaryCrossentropy(True),
      label_spec=tf.TensorSpec([None], tf.int32),
    ),
    keras_models.dataset(x, keras_models.binary(y)),
  )
  assert measured['accuracy'] == pytest.approx(right.mean())
  classes = keras_models.sequential(L.Dense(3))
  right = classes(x).numpy().argmax(axis=1) == y
  measured = keras_models.evaluate(
    from_keras(
      classes,
      loss=keras.losses.CategoricalCrossentropy(True),
      label_spec=tf.TensorSpec([None, 3], tf.int32),
    ),
    keras_models.dataset(x, np.eye(3, dtype=np.int32)[y]),
  )
  assert measured['accuracy'] == pytest.approx(right.mean())


def test_batches_as_mappings():
  spec = collections.OrderedDict(
    x=tf.TensorSpec([None, 4]), y=tf.TensorSpec([None], tf.int32)
  )
  x, y = keras_models.data((4,))
  keras_model = keras_models.sequential(L.Dense(20, 'relu'), L.Dense(3))
  model = from_keras(keras_model, input_spec=spec)
  data = tf.data.Dataset.from_tensor_slices(dict(x=x, y=y)).batch(8)
  expected = keras_models.loss_of_examples(keras_model, x, y)
  assert keras_models.evaluate(model, data)['loss'] == pytest.approx(
    expected, rel=1e-5
  )
  metrics, _ = keras_models.train(model, [data])
  assert metrics['synthesis']['cosine'] > 0.5
  for wrong in (
    (tf.TensorSpec([None, 5]), spec['y']),
    (tf.TensorSpec([None, 4], tf.int32), spec['y']),
  ):
    with pytest.raises(UnsupportedModelError, match='but the model takes'):
      from_keras(keras_model, input_spec=wrong)


@pytest.mark.parametrize('dtype', [tf.int32, tf.int64])
def test_tokens_are_of_the_type_of_the_input(dtype):
  keras_model = keras_models.sequential(
    L.Embedding(12, 8), L.Dense(12), shape=(5,), dtype=dtype
  )
  model = from_keras(keras_model)
  assert [s.dtype for s in model.input_spec] == [dtype, dtype]
  tokens = np.random.RandomState(0).randint(0, 12, (16, 6))
  tokens = tokens.astype(dtype.as_numpy_dtype)
  data = [keras_models.dataset(tokens[:, :-1], tokens[:, 1:], 8)]
  spec = build_spec(model, length=2, bits=4)
  metrics, _ = keras_models.train(model, data, spec=spec)
  assert metrics['synthesis']['cosine'] > 0.2


def test_metrics_may_be_instances_names_and_constructors():
  x, y = keras_models.data((4,))
  model = from_keras(
    keras_models.sequential(L.Dense(3)),
    metrics=[
      keras.metrics.SparseTopKCategoricalAccuracy(2, name='top_2'),
      'sparse_categorical_accuracy',
      lambda: keras.metrics.SparseCategoricalCrossentropy(
        'crossentropy', from_logits=True
      ),
    ],
  )
  measured = keras_models.evaluate(model, keras_models.dataset(x, y))
  assert list(measured) == [
    'loss',
    'top_2',
    'sparse_categorical_accuracy',
    'crossentropy',
  ]
  assert measured['crossentropy'] == pytest.approx(measured['loss'], rel=1e-5)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(loss='l7'), 'knows no loss'),
    (dict(loss=7), 'a name or a function'),
    (
      dict(
        loss=keras.losses.SparseCategoricalCrossentropy(True, reduction='none')
      ),
      'reduction NONE',
    ),
    (
      dict(metrics=[keras.metrics.Accuracy('a'), keras.metrics.Mean('a')]),
      "named 'a'",
    ),
    (dict(metrics=[lambda: keras.metrics.Mean('loss')]), "named 'loss'"),
    (dict(ignored_labels=(0,)), 'ignored_labels are tokens'),
    (
      dict(
        input_spec=(tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int32)),
        label_spec=tf.TensorSpec([None], tf.int32),
      ),
      'Leave out label_spec',
    ),
    (
      dict(loss=lambda y, p: tf.stack([1.0, 2.0]) * tf.reduce_mean(p)),
      'cannot be computed',
    ),
  ],
)
def test_arguments_that_do_not_go_together(arguments, message):
  with pytest.raises(UnsupportedModelError, match=message):
    from_keras(keras_models.sequential(L.Dense(3)), **arguments)


def test_converted_model_predicts_as_keras_does():
  model = architectures.cnn(SHAPE, 10)
  x = np.random.RandomState(0).uniform(size=(3, *SHAPE)).astype(np.float32)
  # TFF's conversion leaves the Keras model unusable outside of its graph.
  expected = model(x).numpy()
  functional = from_keras(model)

  @tff.tensorflow.computation
  def predict():
    return functional.predict_on_batch(functional.initial_weights, x, False)

  np.testing.assert_allclose(predict(), expected, atol=1e-5)


def test_metrics_are_loss_and_accuracy():
  model = keras_models.sequential(keras.layers.Dense(3))
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
    keras_models.sequential(keras.layers.Dense(2)),
    loss=keras.losses.MeanSquaredError(),
    label_spec=tf.TensorSpec([None, 2], tf.float32),
  )
  assert functional.input_spec[1].dtype == tf.float32
