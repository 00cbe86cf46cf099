import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.client.training import clipping


def test_clipped_optimizer_by_hand():
  optimizer = clipping.ClippedOptimizer(
    tff.learning.optimizers.build_sgdm(0.5), norm=1.0
  )
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
