"""The gradient of `replay` is what everything stands on."""

import conftest
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.payload import forms
from tff_fedsynth.payload.replay import replay
from tff_fedsynth.payload.spec import SyntheticData

STEPS = [1, 2, 7]
SOFT_LABELS = forms.loss_of('values', 'distributions')
TARGETS = forms.loss_of('values', 'targets')


@pytest.fixture(scope='module')
def model():
  return conftest.make_classifier(np.float64)


def _variables(model, steps):
  """float64 inputs, label logits and step sizes."""
  random = np.random.RandomState(3)
  size, classes = model.input_spec[0].shape[1], 3
  return (
    tf.constant(random.normal(size=(steps, 2, size))),
    tf.constant(random.normal(size=(steps, 2, classes))),
    tf.constant(random.uniform(0.1, 0.5, size=steps)),
  )


def _data(inputs, logits, step_sizes):
  scale = tf.constant(1.3, inputs.dtype)
  return SyntheticData(inputs, tf.nn.softmax(logits), step_sizes, scale)


def _weights(model):
  return tuple(map(tf.constant, model.initial_weights[0])), ()


def _replay(model, weights, data):
  return replay(model, weights, data, SOFT_LABELS)


def _objective(update):
  """Some smooth scalar of the update that weighs all coordinates differently."""
  random = np.random.RandomState(4)
  return tf.add_n(
    [
      tf.reduce_sum(u * random.normal(size=u.shape) + tf.square(u))
      for u in update
    ]
  )


def _unrolled(model, weights, data):
  """The obvious implementation: a Python loop under the tape."""
  w = list(weights[0])
  for s in range(data.inputs.shape[0]):
    with tf.GradientTape() as tape:
      tape.watch(w)
      logits = model.predict_on_batch(
        (tuple(w), ()), data.inputs[s], training=False
      )
      loss = -tf.reduce_mean(
        tf.reduce_sum(data.labels[s] * tf.nn.log_softmax(logits), axis=-1)
      )
    gradients = tape.gradient(loss, w)
    w = [v - data.step_sizes[s] * g for v, g in zip(w, gradients, strict=True)]
  return tuple(data.scale * (a - b) for a, b in zip(weights[0], w, strict=True))


def _with_gradients(replay_fn, model):
  """A traced function from variables to the objective and its gradients."""

  @tf.function
  def run(*variables):
    with tf.GradientTape() as tape:
      tape.watch(variables)
      value = _objective(replay_fn(model, _weights(model), _data(*variables)))
    return value, tape.gradient(value, variables)

  return run


@pytest.mark.parametrize('steps', STEPS)
def test_gradients_are_those_of_a_nested_tape_and_of_differences(model, steps):
  variables = _variables(model, steps)
  run = _with_gradients(_replay, model)
  value, gradients = run(*variables)
  expected, expected_gradients = _with_gradients(_unrolled, model)(*variables)
  np.testing.assert_allclose(value, expected, rtol=1e-12)
  for g, e in zip(gradients, expected_gradients, strict=True):
    np.testing.assert_allclose(g, e, rtol=1e-9, atol=1e-12)
  # TF's own cross-entropy gives zero here, silently (tensorflow issue 26495).
  assert (np.abs(gradients[1]).max(axis=(1, 2)) > 1e-6).all()

  epsilon = 1e-5
  for position, gradient in enumerate(gradients):
    gradient = gradient.numpy().ravel()
    some = np.linspace(0, gradient.size - 1, min(gradient.size, 8), dtype=int)
    for i in some:
      values = []
      for sign in (1, -1):
        moved = [v.numpy() for v in variables]
        moved[position].ravel()[i] += sign * epsilon
        values.append(float(run(*map(tf.constant, moved))[0]))
      difference = (values[0] - values[1]) / (2 * epsilon)
      # The error of central differences is O(epsilon^2) in float64.
      np.testing.assert_allclose(gradient[i], difference, rtol=1e-6, atol=1e-8)


def test_graph_does_not_grow_with_the_number_of_steps(model):
  def operations(steps):
    run = _with_gradients(_replay, model)
    graph = run.get_concrete_function(*_variables(model, steps)).graph
    definition = graph.as_graph_def()
    return len(definition.node) + sum(
      len(f.node_def) for f in definition.library.function
    )

  assert operations(40) == operations(3)


def test_closed_form_of_one_step_on_a_linear_model():
  # L = |x w - y|^2 / (2 n), so the update is u = scale * eta * x^T (x w - y) / n,
  # and J = <v, u> has dJ/dy = -scale * eta * x v / n.
  model = conftest.make_linear_regression()
  random = np.random.RandomState(0)
  x, y, v = (
    random.normal(size=size).astype(np.float32)
    for size in ((1, 4, 3), (1, 4, 2), (3, 2))
  )
  labels = tf.constant(y)
  with tf.GradientTape() as tape:
    tape.watch(labels)
    data = SyntheticData(
      tf.constant(x), labels, tf.constant([0.3]), tf.constant(1.5)
    )
    (update,) = replay(model, _weights(model), data, TARGETS)
    value = tf.reduce_sum(update * v)
  w = model.initial_weights[0][0]
  np.testing.assert_allclose(
    update, 1.5 * 0.3 * x[0].T @ (x[0] @ w - y[0]) / 4, rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(
    tape.gradient(value, labels)[0],
    -1.5 * 0.3 * x[0] @ v / 4,
    rtol=1e-5,
    atol=1e-6,
  )


def test_dense_gradient_of_an_embedding_lookup():
  # The gradient of tf.gather is tf.IndexedSlices; replay must densify it.
  @tf.function
  def predict(model_weights, x, training):
    del training
    table, w = model_weights[0]
    return (x + tf.gather(table, [0, 0])) @ w

  model = tff.learning.models.FunctionalModel(
    initial_weights=(
      (np.ones((4, 3), np.float32), np.ones((3, 3), np.float32)),
      (),
    ),
    predict_on_batch_fn=predict,
    loss_fn=lambda output, label, sample_weight=None: 0.0,
    input_spec=(
      tf.TensorSpec([None, 3], tf.float32),
      tf.TensorSpec([None], tf.int32),
    ),
  )
  data = SyntheticData(
    tf.random.stateless_normal([2, 2, 3], [0, 0]),
    tf.nn.softmax(tf.random.stateless_normal([2, 2, 3], [0, 1])),
    tf.constant([0.1, 0.1]),
    tf.constant(1.0),
  )
  update = _replay(model, _weights(model), data)
  assert update[0].shape == (4, 3)
  np.testing.assert_array_equal(update[0][1:], np.zeros((3, 3)))
