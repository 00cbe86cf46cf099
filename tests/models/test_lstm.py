import numpy as np
import pytest
import tensorflow as tf

from tff_fedsynth.models import architectures
from tff_fedsynth.models import lstm

keras = tf.keras
TOKENS = np.array([[1, 2, 3, 4, 0, 0], [3, 0, 4, 5, 6, 7]])


def test_lstm_is_that_of_keras_with_a_mask_too():
  own = architectures.word_lstm(9, units=5, embedding_size=4)
  theirs = keras.Sequential(
    [
      keras.Input([None]),
      keras.layers.Embedding(9, 4, mask_zero=True),
      keras.layers.LSTM(5, return_sequences=True),
      keras.layers.Dense(4),
      keras.layers.Dense(9),
    ]
  )
  # Gates in Keras' order: a bias of one for the forget gate.
  np.testing.assert_array_equal(own.get_weights()[3], theirs.get_weights()[3])
  theirs.set_weights(own.get_weights())
  np.testing.assert_allclose(own(TOKENS), theirs(TOKENS), atol=1e-6)


@pytest.mark.parametrize('length', [7, 45])  # Unrolled, and not.
def test_derivatives_of_the_lstm_are_those_of_tf(length):
  """The gradient by hand, and the one of it, against TF's own in float64."""
  random = np.random.RandomState(0)
  shapes = [(3, length, 2), (2, 20), (5, 20), (20,)]
  values = [random.normal(size=shape) for shape in shapes]
  directions = [random.normal(size=shape) for shape in shapes]
  upstream = random.normal(size=(3, length, 5))
  mask = tf.constant(random.uniform(size=(3, length)) < 0.7)

  def derivatives(dtype):
    cast = lambda arrays: [tf.constant(a, dtype) for a in arrays]

    @tf.function
    def outputs(inputs, *weights):
      layer = lstm.LSTM(5)
      layer.kernel, layer.recurrent_kernel, layer.bias = weights
      return layer.call(inputs, mask)

    @tf.function
    def twice(*sources):
      with tf.GradientTape() as outer:
        outer.watch(sources)
        with tf.GradientTape() as inner:
          inner.watch(sources)
          value = tf.reduce_sum(outputs(*sources) * cast([upstream])[0])
        first = inner.gradient(value, sources)
        product = sum(
          tf.reduce_sum(g * d) for g, d in zip(first, cast(directions))
        )
      return first, outer.gradient(product, sources)

    # In a loop, as the meta-steps are.
    sources = cast(values)
    zeros = tf.nest.map_structure(tf.zeros_like, (sources, sources))
    return tf.function(
      lambda: tf.while_loop(
        lambda i, _: i < 1, lambda i, _: (i + 1, twice(*sources)), (0, zeros)
      )[1]
    )()

  for own, theirs in zip(
    tf.nest.flatten(derivatives(tf.float32)),
    tf.nest.flatten(derivatives(tf.float64)),
  ):
    np.testing.assert_allclose(own, theirs, atol=1e-5 * np.abs(theirs).max())
