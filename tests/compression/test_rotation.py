import numpy as np
import tensorflow as tf

from tff_fedsynth.compression import rotation


def test_hadamard_is_that_of_sylvester():
  matrix = np.ones((1, 1))
  for _ in range(4):
    matrix = np.block([[matrix, matrix], [matrix, -matrix]])
  x = np.random.RandomState(0).normal(size=(3, 16)).astype(np.float32)
  np.testing.assert_allclose(
    rotation.hadamard(tf.constant(x)), x @ matrix / 4, rtol=1e-5, atol=1e-6
  )
