import numpy as np
import pytest
import tensorflow as tf

from tff_fedsynth import updates
from tff_fedsynth.payload import scaling

A = (tf.constant([3.0, 0.0]), tf.constant([[4.0]]))
B = (tf.constant([0.0, 5.0]), tf.constant([[5.0]]))
ZERO = (tf.zeros([2]), tf.zeros([1, 1]))


def test_scales_by_hand():
  # <A, B> = 20, |A|^2 = 25, |B|^2 = 50, so cos^2 = .32, under the guard.
  np.testing.assert_allclose(scaling.fit(A, B, by_layer=False), 20 / 25)
  np.testing.assert_allclose(scaling.unbiased(A, B), 20 / 25 / 0.64, rtol=1e-6)
  # Over it: <C, B> = 35, |C|^2 = 26, and the product with B becomes |B|^2.
  c = (tf.constant([1.0, 3.0]), tf.constant([[4.0]]))
  scale = scaling.unbiased(c, B)
  np.testing.assert_allclose(scale, 50 / 35, rtol=1e-6)
  np.testing.assert_allclose(
    updates.inner_product(scaling.apply(scale, c), B), 50, rtol=1e-6
  )
  by_layer = scaling.fit(A, B, by_layer=True)
  np.testing.assert_allclose(by_layer, [0.0, 5 / 4])
  scaled = scaling.apply(by_layer, A)
  np.testing.assert_allclose(scaled[0], [0, 0])
  np.testing.assert_allclose(scaled[1], [[5]])


@pytest.mark.parametrize('rule', scaling.SCALINGS.values())
def test_zero_updates_do_not_make_nan(rule):
  for update, target in ((ZERO, B), (A, ZERO), (ZERO, ZERO)):
    np.testing.assert_array_equal(
      scaling.fit(update, target, True, rule), [0, 0]
    )
    assert float(scaling.fit(update, target, False, rule)) == 0.0


@pytest.mark.parametrize('by_layer', [False, True])
def test_least_squares_is_a_minimum(by_layer):
  best = scaling.fit(A, B, by_layer).numpy()

  def error(scale):
    scaled = scaling.apply(tf.constant(scale, tf.float32), A)
    return float(updates.relative_squared_error(scaled, B))

  assert error(best) < min(error(best - 0.01), error(best + 0.01))
