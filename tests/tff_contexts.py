"""Contexts of TFF for a while, and work for their workers."""

import contextlib

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff


@contextlib.contextmanager
def default_context(context):
  stack = tff.framework.get_context_stack()
  previous = stack.current
  tff.framework.set_default_context(context)
  try:
    yield context
  finally:
    tff.framework.set_default_context(previous)


@tff.tensorflow.computation(np.int32)
def slow(steps):
  """Takes a second or more, and then says how often it stepped."""
  matrix = tf.random.stateless_normal([300, 300], [0, 0])

  def step(i, m):
    return i + 1, tf.linalg.l2_normalize(m @ matrix)

  i, m = tf.while_loop(lambda i, _: i < steps, step, (0, matrix))
  # Else the products would be pruned.
  return i + tf.cast(0.0 * m[0, 0], tf.int32)
