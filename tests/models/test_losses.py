"""Losses over batches of any size, and their labels, weighed as they should."""

import conftest
import keras_models
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import build_fedsynth
from tff_fedsynth import build_spec
from tff_fedsynth import from_keras
from tff_fedsynth import SynthesisConfig
from tff_fedsynth.client import local_training
from tff_fedsynth.client import synthesis
from tff_fedsynth.models import losses
from tff_fedsynth.payload import forms
from tff_fedsynth.payload import replay
from tff_fedsynth.payload.spec import SyntheticData

pytestmark = pytest.mark.usefixtures('same_initial_weights')

keras = tf.keras
L = keras.layers
SGD = tff.learning.optimizers.build_sgdm


def test_the_loss_of_batches_of_32_and_1_is_that_of_the_33_examples():
  keras_model = keras_models.sequential(L.Dense(3))
  x, y = keras_models.data((4,))
  x[-1] *= 30  # One example that is very wrong weighs one in 33.
  expected = keras_models.loss_of_examples(keras_model, x, y)
  model = from_keras(keras_model)
  assert keras_models.evaluate(model, keras_models.dataset(x, y))[
    'loss'
  ] == pytest.approx(expected, rel=1e-5)
  # Nothing moves at rate 0, so that training sees the same loss.
  for process in (
    build_fedsynth(
      model,
      SGD(0.0),
      config=SynthesisConfig(
        build_spec(model, bits=4), iterations=1, diagnostics=True
      ),
    ),
    tff.learning.algorithms.build_weighted_fed_avg(model, SGD(0.0)),
  ):
    output = process.next(process.initialize(), [keras_models.dataset(x, y)])
    metrics = output.metrics['client_work']
    assert metrics['train']['loss'] == pytest.approx(expected, rel=1e-5)
    if 'synthesis' in metrics:
      measured = metrics['synthesis']['local_loss_before']
      assert measured == pytest.approx(expected, rel=1e-5)


def test_a_mean_over_tokens_is_over_tokens_in_the_diagnostics_too():
  keras_model = keras.Sequential(
    [
      keras.Input([None], dtype=tf.int64),
      L.Embedding(5, 4, mask_zero=True),
      L.Dense(5),
    ]
  )
  x = np.array([[1, 2, 3], [4, 0, 0], [2, 1, 0]])
  y = np.array([[2, 3, 4], [1, 0, 0], [1, 0, 0]])
  losses_of_tokens = tf.nn.sparse_softmax_cross_entropy_with_logits(
    y, keras_model(x)
  ).numpy()
  expected = losses_of_tokens[y > 0].mean()
  model = from_keras(keras_model)

  @tff.tensorflow.computation
  def mean_loss():
    weights = tf.nest.map_structure(tf.constant, model.initial_weights)
    return local_training.mean_loss(
      model, *weights, keras_models.dataset(x, y, 2)
    )

  assert mean_loss() == pytest.approx(expected, rel=1e-5)
  assert keras_models.evaluate(model, keras_models.dataset(x, y, 2))[
    'loss'
  ] == pytest.approx(expected, rel=1e-5)


def test_labels_that_a_loss_ignores_do_not_count():
  keras_model = keras_models.sequential(L.Dense(3), shape=(2, 4))
  x, _ = keras_models.data((2, 4), 3)
  y = np.array([[0, 1], [-1, 2], [-1, -1]], np.int32)
  loss = keras.losses.SparseCategoricalCrossentropy(True, ignore_class=-1)
  expected = float(loss(y, keras_model(x)))
  model = from_keras(keras_model, loss=loss)
  assert keras_models.evaluate(model, keras_models.dataset(x, y, 2))[
    'loss'
  ] == pytest.approx(expected, rel=1e-5)


def test_an_example_of_a_smaller_batch_weighs_as_much_for_data_loss():
  # With SGD on the synthetic data a step is as long as the loss is large: one of
  # four examples has a quarter of the gradient.
  model = conftest.make_classifier()
  spec = build_spec(model, label_form='distributions')
  x, y = keras_models.data((6,), 5)
  x[4], y[4] = x[0], y[0]
  weights = model.initial_weights

  def moved(rows, batch_size):
    config = SynthesisConfig(
      spec,
      objective='data_loss',
      optimizer=SGD(1.0),
      initial_stddev=0.1,
      proximal=0.0,
      passes=1,
    )
    dataset = keras_models.dataset(x[rows], y[rows], batch_size)

    @tf.function
    def learn():
      return synthesis.learn(
        model,
        tf.nest.map_structure(tf.constant, weights),
        dataset,
        None,
        config,
        None,
        tf.constant([0, 0]),
      )['inputs']

    return learn().numpy()

  start = moved([], 4)
  full = [0, 0, 0, 0]
  # A second batch of one example, against a second one of four like it.
  one = moved([*full, 4], 4) - moved(full, 4)
  four = moved([*full, *full], 4) - moved(full, 4)
  assert np.abs(start - moved(full, 4)).max() > 0
  np.testing.assert_allclose(one, four / 4, rtol=1e-3, atol=1e-7)


def _label_gradient(model, x, y, direction, adjoint):
  """Of <replay, adjoint> along a direction of the labels, and by difference."""

  def product(labels):
    data = SyntheticData(
      tf.constant(x)[tf.newaxis],
      labels[tf.newaxis],
      tf.ones([1]),
      tf.constant(1.0),
    )
    weights = tf.nest.map_structure(tf.constant, model.initial_weights)
    loss_fn = forms.loss_of('values', 'targets')
    update = replay.replay(model, weights, data, loss_fn)
    return sum(tf.reduce_sum(u * a) for u, a in zip(update, adjoint))

  def run(labels):
    with tf.GradientTape() as tape:
      tape.watch(labels)
      value = product(labels)
    return value, tape.gradient(value, labels)

  _, gradient = keras_models.in_graph(run, y)
  step = 1e-2
  values = [
    keras_models.in_graph(run, y + s * step * direction)[0] for s in (1, -1)
  ]
  return np.sum(gradient * direction), (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize('from_logits', [True, False])
def test_float_one_hot_labels_have_a_right_gradient(from_logits):
  activation = None if from_logits else 'softmax'
  keras_model = keras_models.sequential(
    L.Dense(5, 'tanh'), L.Dense(3, activation)
  )
  loss = keras.losses.CategoricalCrossentropy(from_logits, label_smoothing=0.1)
  model = from_keras(
    keras_model, loss=loss, label_spec=tf.TensorSpec([None, 3])
  )
  random = np.random.RandomState(0)
  x, y = keras_models.data((4,), 6)
  one_hot = np.eye(3, dtype=np.float32)[y]
  # The replaced loss has the values of Keras' own.
  found = keras_models.in_graph(model.loss, keras_model(x), one_hot)
  assert found == pytest.approx(float(loss(one_hot, keras_model(x))), rel=1e-5)
  adjoint = [
    random.normal(size=w.shape).astype(np.float32)
    for w in model.initial_weights[0]
  ]
  direction = random.normal(size=one_hot.shape).astype(np.float32)
  gradient, difference = _label_gradient(model, x, one_hot, direction, adjoint)
  assert abs(difference) > 0.01
  assert gradient == pytest.approx(difference, rel=1e-2)
  # The labels learn.
  metrics, _ = keras_models.train(
    model,
    [keras_models.dataset(x, one_hot, 3)],
    spec=build_spec(model, batch_size=1, bits=8),
    iterations=100,
  )
  assert metrics['synthesis']['cosine'] > 0.75


@pytest.mark.parametrize(
  'outputs, loss, label_spec, labels, metrics',
  [
    (3, None, tf.TensorSpec([None], tf.int64), lambda y: y.astype(np.int64), 1),
    (
      3,
      None,
      tf.TensorSpec([None, 1], tf.int32),
      lambda y: y[:, np.newaxis],
      1,
    ),
    (
      3,
      keras.losses.CategoricalCrossentropy(True),
      tf.TensorSpec([None, 3], tf.int32),
      lambda y: np.eye(3, dtype=np.int32)[y],
      1,
    ),
    (
      3,
      keras_models.SPARSE,
      tf.TensorSpec([None]),
      lambda y: y.astype(np.float32),
      1,
    ),
    (1, 'mse', tf.TensorSpec([None], tf.int32), lambda y: y, 0),
    (
      1,
      keras.losses.BinaryCrossentropy(True),
      tf.TensorSpec([None], tf.int32),
      keras_models.binary,
      1,
    ),
    (
      2,
      lambda y, p: tf.reduce_mean((y - p) ** 2),
      tf.TensorSpec([None, 2]),
      lambda y: np.stack([y, -y], 1).astype(np.float32),
      0,
    ),
  ],
)
def test_labels_and_losses_that_fed_avg_takes(
  outputs, loss, label_spec, labels, metrics
):
  keras_model = keras_models.sequential(L.Dense(20, 'relu'), L.Dense(outputs))
  x, y = keras_models.data((4,))
  y = labels(y)
  model = from_keras(keras_model, loss=loss, label_spec=label_spec)
  measured = keras_models.evaluate(model, keras_models.dataset(x, y))
  assert len(measured) == 1 + metrics
  resolved = losses.resolve(loss or keras_models.SPARSE)
  expected = float(resolved(tf.constant(y), keras_model(x)))
  assert measured['loss'] == pytest.approx(expected, rel=1e-4)
  trained, weights = keras_models.train(model, [keras_models.dataset(x, y, 8)])
  assert trained['synthesis']['cosine'] > 0.3
  after = (weights.trainable, ())
  loss_after = keras_models.in_graph(
    lambda x, y: model.loss(model.predict_on_batch(after, x, False), y), x, y
  )
  assert loss_after < expected
