"""How the learning rate of synthetic data falls while they are learned, by name.

Payloads are small, and what counts is where the last step ends: large steps at
first find the direction, small ones at last refine it.
"""

from collections.abc import Callable
import math

import tensorflow as tf

# From progress, float32 [] in [0, 1), to a factor of the learning rate.
SCHEDULES: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
  'constant': tf.ones_like,
  'linear': lambda progress: 1 - progress,
  # Loshchilov & Hutter 2017, equation 5, without restarts.
  'cosine': lambda progress: (1 + tf.cos(math.pi * progress)) / 2,
}
