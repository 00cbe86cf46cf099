"""The gradient of `replay` is what everything stands on."""

import conftest
import numpy as np
import pytest
import tensorflow as tf

from tff_fedsynth.payload import replay as replay_lib
from tff_fedsynth.payload.spec import SyntheticData

STEPS = [1, 2, 7]


def _variables(model, steps, seed=3):
  """float64 inputs, label logits and step sizes."""
  random = np.random.RandomState(seed)
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


def _objective(update, seed=4):
  """Some smooth scalar of the update that weighs all coordinates differently."""
  random = np.random.RandomState(seed)
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


def _value_and_gradients(replay_fn, model, variables):
  @tf.function
  def run(*variables):
    with tf.GradientTape() as tape:
      tape.watch(variables)
      value = _objective(replay_fn(model, _weights(model), _data(*variables)))
    return value, tape.gradient(value, variables)

  return run(*variables)


@pytest.mark.parametrize('steps', STEPS)
def test_agrees_with_a_plainly_unrolled_nested_tape(steps):
  model = conftest.make_classifier(np.float64)
  variables = _variables(model, steps)
  value, gradients = _value_and_gradients(replay_lib.replay, model, variables)
  expected, expected_gradients = _value_and_gradients(
    _unrolled, model, variables
  )
  np.testing.assert_allclose(value, expected, rtol=1e-12)
  for g, e in zip(gradients, expected_gradients, strict=True):
    np.testing.assert_allclose(g, e, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('steps', STEPS)
@pytest.mark.parametrize('position', [0, 1, 2], ids=['inputs', 'labels', 'eta'])
def test_agrees_with_central_differences(steps, position):
  model = conftest.make_classifier(np.float64)
  variables = _variables(model, steps)
  _, gradients = _value_and_gradients(replay_lib.replay, model, variables)

  @tf.function
  def value(*variables):
    return _objective(
      replay_lib.replay(model, _weights(model), _data(*variables))
    )

  gradient = gradients[position].numpy().ravel()
  epsilon = 1e-5
  for i in np.linspace(0, gradient.size - 1, min(gradient.size, 8), dtype=int):
    values = []
    for sign in (1, -1):
      moved = [v.numpy() for v in variables]
      moved[position].ravel()[i] += sign * epsilon
      values.append(float(value(*map(tf.constant, moved))))
    difference = (values[0] - values[1]) / (2 * epsilon)
    # The error of central differences is O(epsilon^2) in float64.
    np.testing.assert_allclose(gradient[i], difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize('steps', STEPS)
def test_label_gradient_is_not_zero(steps):
  # TF's own cross-entropy gives zero here, silently (tensorflow issue 26495).
  model = conftest.make_classifier(np.float64)
  _, gradients = _value_and_gradients(
    replay_lib.replay, model, _variables(model, steps)
  )
  per_step = np.abs(gradients[1]).max(axis=(1, 2))
  assert (per_step > 1e-6).all()


def test_graph_does_not_grow_with_the_number_of_steps():
  model = conftest.make_classifier(np.float64)

  def operations(steps):
    @tf.function
    def run(*variables):
      with tf.GradientTape() as tape:
        tape.watch(variables)
        update = replay_lib.replay(model, _weights(model), _data(*variables))
        value = _objective(update)
      return tape.gradient(value, variables)

    graph = run.get_concrete_function(*_variables(model, steps)).graph
    definition = graph.as_graph_def()
    return len(definition.node) + sum(
      len(f.node_def) for f in definition.library.function
    )

  assert operations(40) == operations(3)


def test_closed_form_of_one_step_on_a_linear_model():
  # L = |x w - y|^2 / (2 n), so the update is scale * eta * x^T (x w - y) / n.
  model = conftest.make_linear_regression()
  random = np.random.RandomState(0)
  x = random.normal(size=(1, 4, 3)).astype(np.float32)
  y = random.normal(size=(1, 4, 2)).astype(np.float32)
  data = SyntheticData(
    tf.constant(x), tf.constant(y), tf.constant([0.3]), tf.constant(1.5)
  )
  (update,) = tf.function(
    lambda: replay_lib.replay(model, _weights(model), data)
  )()
  w = model.initial_weights[0][0]
  np.testing.assert_allclose(
    update, 1.5 * 0.3 * x[0].T @ (x[0] @ w - y[0]) / 4, rtol=1e-5, atol=1e-6
  )


def test_closed_form_of_the_gradient_on_a_linear_model():
  # J = <v, update> has dJ/dy = -scale * eta * x v / n.
  model = conftest.make_linear_regression()
  random = np.random.RandomState(0)
  x, v = random.normal(size=(1, 4, 3)), random.normal(size=(3, 2))
  y = tf.constant(random.normal(size=(1, 4, 2)), tf.float32)
  with tf.GradientTape() as tape:
    tape.watch(y)
    data = SyntheticData(
      tf.constant(x, tf.float32), y, tf.constant([0.3]), tf.constant(1.5)
    )
    (update,) = replay_lib.replay(model, _weights(model), data)
    value = tf.reduce_sum(update * tf.constant(v, tf.float32))
  np.testing.assert_allclose(
    tape.gradient(value, y)[0], -1.5 * 0.3 * x[0] @ v / 4, rtol=1e-5, atol=1e-6
  )


def test_dense_gradient_of_an_embedding_lookup():
  # The gradient of tf.gather is tf.IndexedSlices; replay must densify it.
  import tensorflow_federated as tff

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
  update = replay_lib.replay(model, _weights(model), data)
  assert update[0].shape == (4, 3)
  np.testing.assert_array_equal(update[0][1:], np.zeros((3, 3)))
