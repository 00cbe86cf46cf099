"""An optimizer that clips gradients, which TFF's own do not."""

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import options


class ClippedOptimizer(tff.learning.optimizers.Optimizer):
  """Clips gradients to a global norm (Pascanu et al. 2013), then optimizes."""

  def __init__(self, optimizer: tff.learning.optimizers.Optimizer, norm: float):
    """Wraps an optimizer.

    Args:
      optimizer: Gets the clipped gradients.
      norm: Largest norm over all tensors together.

    Raises:
      OptionError: If the norm is not above 0, or not finite.
    """
    options.check_number('norm', norm, above=0)
    self._optimizer = optimizer
    self._norm = norm

  def initialize(self, specs):
    return self._optimizer.initialize(specs)

  def next(self, state, weights, gradients):
    flat = tf.nest.flatten(
      tff.learning.optimizers.handle_indexed_slices_gradients(gradients)
    )
    clipped, _ = tf.clip_by_global_norm(flat, self._norm)
    gradients = tf.nest.pack_sequence_as(weights, clipped)
    return self._optimizer.next(state, weights, gradients)

  def get_hparams(self, state):
    return self._optimizer.get_hparams(state)

  def set_hparams(self, state, hparams):
    return self._optimizer.set_hparams(state, hparams)
