import numpy as np
import tensorflow as tf

from baselines.sign import Sign


def test_sign_by_hand():
  tensors = [tf.constant([1.0, -3.0, 0.0]), tf.constant([[-2.0]])]
  message = Sign().encode(tensors, tf.constant(0))
  np.testing.assert_array_equal(message['signs'], [0b0101])
  np.testing.assert_allclose(message['scales'], [4 / 3, 2])
  a, b = Sign().decode(message, [(3,), (1, 1)])
  np.testing.assert_allclose(a, [4 / 3, -4 / 3, 4 / 3])
  np.testing.assert_allclose(b, [[-2]])
