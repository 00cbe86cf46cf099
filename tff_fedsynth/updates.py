"""Algebra of model updates.

An update is a tuple of tensors shaped like the trainable weights. All follow
`tff.learning`: weights before minus weights after.
"""

import tensorflow as tf

Update = tuple[tf.Tensor, ...]


def inner_product(a: Update, b: Update) -> tf.Tensor:
  """The sum over all weights of a * b, a scalar."""
  return tf.add_n([tf.reduce_sum(x * y) for x, y in zip(a, b)])


def squared_norm(a: Update) -> tf.Tensor:
  """The sum over all weights of a * a, a scalar."""
  return inner_product(a, a)


def norm(a: Update) -> tf.Tensor:
  """The length over all weights, a scalar."""
  return tf.sqrt(squared_norm(a))


def cosine(a: Update, b: Update) -> tf.Tensor:
  """The cosine of the angle between two updates; 0 where one is zero."""
  return tf.math.divide_no_nan(inner_product(a, b), norm(a) * norm(b))


def relative_squared_error(update: Update, target: Update) -> tf.Tensor:
  """|update - target|^2 / |target|^2; 0 where the target is zero."""
  difference = tuple(u - t for u, t in zip(update, target))
  return tf.math.divide_no_nan(squared_norm(difference), squared_norm(target))


def best_scale(update: Update, target: Update) -> tf.Tensor:
  """The c that minimizes |c * update - target|; 0 for a zero update."""
  return tf.math.divide_no_nan(
    inner_product(update, target), squared_norm(update)
  )


def scaled(scale: tf.Tensor, update: Update) -> Update:
  """The update, times a number."""
  return tuple(scale * u for u in update)


def clip(update: Update, largest: tf.Tensor) -> Update:
  """The update, no longer than a norm."""
  factor = tf.minimum(1.0, tf.math.divide_no_nan(largest, norm(update)))
  # A zero update has no direction; dividing by its length gave 0.
  return scaled(factor, update)


def all_finite(tensors) -> tf.Tensor:
  """Whether no float tensor of a list holds a NaN or infinity; bool []."""
  return tf.reduce_all(
    [
      tf.reduce_all(tf.math.is_finite(t))
      for t in tensors
      if t.dtype.is_floating
    ]
  )
