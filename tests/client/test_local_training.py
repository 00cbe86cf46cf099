"""Training on real data, and the algebra of its updates."""

import conftest
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import updates
from tff_fedsynth.client import local_training

A = (tf.constant([3.0, 0.0]), tf.constant([[4.0]]))
B = (tf.constant([0.0, 5.0]), tf.constant([[5.0]]))
ZERO = (tf.zeros([2]), tf.zeros([1, 1]))
SGD = tff.learning.optimizers.build_sgdm


def test_local_training_is_sgd(classifier):
  dataset = conftest.make_dataset(classifier, examples=10, batch_size=4)
  weights = tf.nest.map_structure(tf.constant, classifier.initial_weights)
  training = tf.function(
    lambda: local_training.local_training(
      classifier, weights, dataset, SGD(0.1)
    )
  )()
  w = [tf.Variable(v) for v in classifier.initial_weights[0]]
  for x, y in dataset:
    with tf.GradientTape() as tape:
      loss = classifier.loss(
        classifier.predict_on_batch((tuple(w), ()), x, training=True), y
      )
    for v, g in zip(w, tape.gradient(loss, w), strict=True):
      v.assign_sub(0.1 * g)
  assert int(training.num_examples) == 10
  for u, v0, v in zip(training.update, weights[0], w, strict=True):
    np.testing.assert_allclose(u, v0 - v, atol=1e-6)


def test_clipped_optimizer_by_hand():
  optimizer = local_training.ClippedOptimizer(SGD(0.5), norm=1.0)
  weights = (tf.constant([1.0, 1.0]), tf.constant([1.0]))
  state = optimizer.initialize(
    tf.nest.map_structure(lambda w: tf.TensorSpec(w.shape), weights)
  )
  # A norm of 5 becomes 1; one of 0.5 stays.
  gradients = (tf.constant([3.0, 0.0]), tf.constant([4.0]))
  _, moved = optimizer.next(state, weights, gradients)
  np.testing.assert_allclose(moved[0], [0.7, 1.0], rtol=1e-6)
  np.testing.assert_allclose(moved[1], [0.6], rtol=1e-6)
  gradients = (tf.constant([0.5, 0.0]), tf.constant([0.0]))
  _, moved = optimizer.next(state, weights, gradients)
  np.testing.assert_allclose(moved[0], [0.75, 1.0], rtol=1e-6)


def test_updates_by_hand():
  # <A, B> = 20, |A|^2 = 25, |B|^2 = 50.
  assert float(updates.inner_product(A, B)) == 20.0
  assert float(updates.norm(A)) == 5.0
  # |A - B|^2 = 9 + 25 + 1.
  np.testing.assert_allclose(updates.relative_squared_error(A, B), 35 / 50)
  np.testing.assert_allclose(updates.cosine(A, B), 20 / np.sqrt(25 * 50))
  np.testing.assert_allclose(updates.best_scale(A, B), 20 / 25)
  scaled = updates.scaled(2.0, A)
  np.testing.assert_allclose(scaled[0], [6, 0])
  np.testing.assert_allclose(scaled[1], [[8]])


@pytest.mark.parametrize('update, target', [(ZERO, B), (A, ZERO), (ZERO, ZERO)])
def test_zero_updates_do_not_make_nan(update, target):
  assert float(updates.best_scale(update, target)) == 0.0
  assert float(updates.cosine(update, target)) == 0.0
  if target is ZERO:
    assert float(updates.relative_squared_error(update, target)) == 0.0


def test_the_best_scale_is_a_minimum():
  best = updates.best_scale(A, B).numpy()

  def error(scale):
    scaled = updates.scaled(tf.constant(scale, tf.float32), A)
    return float(updates.relative_squared_error(scaled, B))

  assert error(best) < min(error(best - 0.01), error(best + 0.01))


def test_clipping_shortens_what_is_too_long():
  for part, whole in zip(updates.clip(A, 10.0), A):
    np.testing.assert_array_equal(part, whole)
  np.testing.assert_allclose(updates.norm(updates.clip(A, 2.0)), 2.0)
  assert float(updates.norm(updates.clip(ZERO, 2.0))) == 0.0


def test_what_is_not_finite_is_found():
  assert updates.all_finite([*A, tf.constant([1])])
  for bad in (np.nan, np.inf):
    assert not updates.all_finite([*A, tf.constant([0.0, bad])])
