"""Seeds of what clients draw: other ones for each round and each client."""

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import options


def build_state(seed: int) -> tuple[tff.Computation, tff.Computation]:
  """Builds how the seed of a round begins and goes on, int32 [2].

  The second number counts the rounds.

  Raises:
    OptionError: If the seed is no 32-bit integer.
  """
  options.check_seed(seed)

  @tff.tensorflow.computation
  def initial_state():
    return tf.constant([seed, 0], tf.int32)

  @tff.tensorflow.computation(initial_state.type_signature.result)
  def next_state(state):
    return state + [0, 1]

  return initial_state, next_state


def fold_in_data(seed: tf.Tensor, data: Sequence[tf.Tensor]) -> tf.Tensor:
  """Folds a fingerprint of tensors into a seed, int32 [2].

  All clients of a round receive one seed. With the same draws, their errors
  would add up in the mean instead of cancelling.
  """
  total = tf.add_n([tf.reduce_sum(tf.cast(t, tf.float32)) for t in data])
  return tf.random.experimental.stateless_fold_in(
    seed, tf.bitcast(total, tf.int32)
  )


def draw_seed(seed: tf.Tensor) -> tf.Tensor:
  """Draws an int32 [] seed, as codecs take it, from an int32 [2] one."""
  return tf.random.stateless_uniform(
    [], seed, minval=None, maxval=None, dtype=tf.int32
  )
