import codec_cases
import numpy as np
import pytest
import tensorflow as tf

from baselines.top_k import TopK


def test_top_k_by_hand():
  message = TopK(2).encode(
    [tf.constant([1.0, -5.0]), tf.constant([[3.0], [0.5]])], tf.constant(0)
  )
  order = np.argsort(message['values'])
  np.testing.assert_array_equal(np.array(message['values'])[order], [-5, 3])
  # Indices 1 and 2, in two bits each, in either order.
  assert message['indices'].numpy() == ([0b1001] if order[0] == 0 else [0b0110])
  decoded = TopK(2).decode(message, [(2,), (2, 1)])
  np.testing.assert_array_equal(codec_cases.flat(decoded), [0, -5, 3, 0])


def test_top_k_is_the_best_of_its_size():
  # What is lost is exactly the smallest codec_cases.values.
  x = np.sort(np.abs(codec_cases.flat(codec_cases.values())))
  (decoded,) = codec_cases.round_trips(TopK(30), codec_cases.values(), 1)
  lost = ((decoded - codec_cases.flat(codec_cases.values())) ** 2).sum()
  assert lost == pytest.approx((x[:-30] ** 2).sum(), rel=1e-5)
