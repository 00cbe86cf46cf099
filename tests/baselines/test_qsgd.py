import codec_cases
import numpy as np
import pytest
import tensorflow as tf

from baselines.qsgd import Qsgd


def test_qsgd_by_hand():
  # |v| = 7 and s = 7, so that every level is hit exactly; then |v| = 14.
  tensors = [np.array([2, -3, 6, -14, 0], np.float32)]
  codec = Qsgd(bits=4, bucket_size=3)
  message = codec.encode([tf.constant(tensors[0])], tf.constant(1))
  np.testing.assert_array_equal(
    message['levels'], [2 + ((8 + 3) << 4), 6 + ((8 + 7) << 4), 0]
  )
  np.testing.assert_array_equal(message['norms'], [7, 14])
  np.testing.assert_array_equal(codec.decode(message, [(5,)]), tensors)


@pytest.mark.parametrize('bits', [2, 4])
def test_qsgd_error_is_within_the_papers_bound(bits):
  # Lemma 3.1: E |Q(v) - v|^2 <= min(d / s^2, sqrt(d) / s) |v|^2, here with one
  # bucket. The mean of 100 draws of a sum over 343 coordinates is within 10%.
  x = codec_cases.flat(codec_cases.values())
  s = 2 ** (bits - 1) - 1
  draws = codec_cases.round_trips(
    Qsgd(bits=bits, bucket_size=codec_cases.SIZE), codec_cases.values(), 100
  )
  error = ((draws - x) ** 2).sum(axis=1).mean() / (x**2).sum()
  assert error <= 1.1 * min(
    codec_cases.SIZE / s**2, np.sqrt(codec_cases.SIZE) / s
  )
