import numpy as np
import pytest
import tensorflow as tf

from tff_fedsynth.compression import quantization
from tff_fedsynth.compression import rotation


def test_hand_computed_bits():
  # 5 = 101, 3 = 011, 6 = 110, lowest bits first: 101 110 01 | 1, padded.
  packed = quantization.pack(tf.constant([5, 3, 6]), 3)
  assert packed.dtype == tf.uint8
  np.testing.assert_array_equal(packed, [0b10_011_101, 0b1])
  np.testing.assert_array_equal(quantization.unpack(packed, 3, 3), [5, 3, 6])


@pytest.mark.parametrize('bits', [1, 3, 8, 17, 24])
def test_packed_levels_come_back(bits):
  levels = np.random.RandomState(bits).randint(0, 2**bits, (2, 3, 11))
  packed = quantization.pack(tf.constant(levels), bits)
  assert packed.shape == (2, 3, quantization.packed_bytes(11, bits))
  assert packed.shape[-1] == -(-11 * bits // 8)
  np.testing.assert_array_equal(quantization.unpack(packed, 11, bits), levels)


def test_nearest_level_and_range():
  levels, value_range = quantization.quantize(
    tf.constant([[-1.0, 0.4, 2.0], [3.0, 3.0, 3.0]]), 2
  )
  # Levels are one apart in the first row; the second has only one value.
  np.testing.assert_array_equal(levels, [[0, 1, 3], [0, 0, 0]])
  np.testing.assert_array_equal(value_range, [[-1, 2], [3, 3]])
  np.testing.assert_allclose(
    quantization.dequantize(levels, value_range, 2), [[-1, 0, 2], [3, 3, 3]]
  )


def test_stochastic_rounding_is_unbiased():
  # A value at a share p between two levels a distance of 1 apart has variance
  # p (1 - p) <= 1/4: the mean of n = 2,000 draws has a standard deviation of at
  # most 0.0112. 5 of them fail with a chance below 6e-7 a value.
  values = tf.constant([0.0, 0.1, 0.5, 1.75, 2.9, 3.0])

  @tf.function
  def draw(i):
    levels, value_range = quantization.quantize(values, 2, tf.stack([i, 0]))
    return quantization.dequantize(levels, value_range, 2)

  draws = np.array([draw(tf.constant(i)) for i in range(2000)])
  assert np.abs(draws.mean(axis=0) - values).max() < 5 * 0.0112
  assert set(np.unique(draws)) <= {0, 1, 2, 3}
  # The ends are exact.
  np.testing.assert_array_equal(draws[:, 0], 0)
  np.testing.assert_array_equal(draws[:, -1], 3)


def test_hadamard_is_that_of_sylvester():
  matrix = np.ones((1, 1))
  for _ in range(4):
    matrix = np.block([[matrix, matrix], [matrix, -matrix]])
  x = np.random.RandomState(0).normal(size=(3, 16)).astype(np.float32)
  np.testing.assert_allclose(
    rotation.hadamard(tf.constant(x)), x @ matrix / 4, rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize('size', [5, 200])
def test_a_rotation_keeps_lengths_and_can_be_undone(size):
  x = np.random.RandomState(0).normal(size=size).astype(np.float32)
  rotate = rotation.random_rotation(tf.constant(3), [(size,)])
  rotated = rotate.apply(tf.constant(x))
  assert rotated.shape == [rotation.padded_size([(size,)])]
  assert np.linalg.norm(rotated) == pytest.approx(np.linalg.norm(x), rel=1e-5)
  np.testing.assert_allclose(rotate.undo(rotated)[:size], x, atol=1e-5)
