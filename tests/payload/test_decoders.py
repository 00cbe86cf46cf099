import numpy as np
import pytest
import tensorflow as tf

from tff_fedsynth import SyntheticSpec
from tff_fedsynth import SyntheticSpecError
from tff_fedsynth.payload import decoders

VALUES = np.random.RandomState(0).normal(size=(2, 3, 3, 2)).astype(np.float32)


@pytest.mark.parametrize('name', decoders.DECODERS)
def test_decoders_are_linear(name):
  decode = lambda v: decoders.DECODERS[name](tf.constant(v), (8, 7)).numpy()
  assert decode(VALUES).shape == (2, 8, 7, 2)
  np.testing.assert_allclose(
    decode(2 * VALUES - VALUES[::-1]),
    2 * decode(VALUES) - decode(VALUES[::-1]),
    atol=1e-5,
  )


def test_nearest_by_hand():
  image = tf.constant([[1.0, 2.0], [3.0, 4.0]])[tf.newaxis, :, :, tf.newaxis]
  np.testing.assert_array_equal(
    decoders.DECODERS['nearest'](image, (4, 4))[0, :, :, 0],
    [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]],
  )


def test_cosine_by_hand():
  # A constant, and one half period down the rows.
  values = np.zeros((1, 2, 2, 1), np.float32)
  values[0, 0, 0], values[0, 1, 0] = 3.0, 1.0
  image = decoders.cosine(tf.constant(values), (4, 5))[0, :, :, 0]
  wave = np.sqrt(2) * np.cos(np.pi * (2 * np.arange(4) + 1) / 8)
  expected = (3 + wave) / 2
  np.testing.assert_allclose(image, np.tile(expected, (5, 1)).T, rtol=1e-5)


def test_cosine_keeps_the_mean_square():
  # Orthogonal rows: sum of squares times h * w / r^2.
  image = decoders.cosine(tf.constant(VALUES), (8, 7)).numpy()
  np.testing.assert_allclose((image**2).mean(), (VALUES**2).mean(), rtol=1e-5)


def test_own_decoders(monkeypatch):
  with pytest.raises(SyntheticSpecError, match="Unknown decoder 'mine'"):
    SyntheticSpec((4, 4, 1), (3,), resolution=2, decoder='mine')
  mine = lambda values, shape: tf.image.resize_with_pad(values, *shape)
  monkeypatch.setitem(decoders.DECODERS, 'mine', mine)
  assert SyntheticSpec((4, 4, 1), (3,), resolution=2, decoder='mine')
