"""Codecs of all kinds, updates for them, and their way there and back."""

import numpy as np
import tensorflow as tf

from baselines.cross_polytope import CrossPolytope
from baselines.drive import Drive
from baselines.low_rank import LowRank
from baselines.qsgd import Qsgd
from baselines.random_mask import RandomMask
from baselines.sign import Sign
from baselines.top_k import TopK

SHAPES = [(12, 9), (9,), (3, 2, 9, 4), ()]
SIZE = 12 * 9 + 9 + 3 * 2 * 9 * 4 + 1
FEW = [(7, 5), (7,)]  # 42 values.
MLP = [(784, 200), (200,), (200, 10), (10,)]

CODECS = [
  RandomMask(30, unbiased=False),
  RandomMask(30, bits=8),
  TopK(30),
  TopK(30, bits=8),
  Drive(100),
  Drive(336, scale='mse'),
  CrossPolytope(20, 3),
  CrossPolytope(336, 0),
  LowRank((2, 0, 1, 0)),
  LowRank((9, 0, 4, 0), bits=8),
  Qsgd(bits=2, bucket_size=7),
  Sign(),
]
UNBIASED = [
  RandomMask(60),
  RandomMask(60, bits=8),
  Drive(200),
  Drive(336),
  CrossPolytope(20, 4),
  Qsgd(bits=4, bucket_size=64),
]
KINDS = [
  (RandomMask, {}),
  (RandomMask, {'bits': 8}),
  (TopK, {}),
  (TopK, {'bits': 8}),
  (Drive, {}),
  (CrossPolytope, {}),
  (LowRank, {}),
  (LowRank, {'bits': 8}),
  (Qsgd, {}),
  (Qsgd, {'bits': 2, 'bucket_size': 2}),
  (Sign, {}),
]


def values(seed=0, shapes=tuple(SHAPES)):
  random = np.random.RandomState(seed)
  return [random.normal(size=s).astype(np.float32) for s in shapes]


def flat(tensors):
  return np.concatenate([np.ravel(t) for t in tensors])


def round_trip(codec, tensors, seed=0):
  message = codec.encode([tf.constant(t) for t in tensors], tf.constant(seed))
  return codec.decode(message, [t.shape for t in tensors])


def round_trips(codec, tensors, count):
  """float [count, n]: the decoded update with as many seeds."""

  @tf.function
  def draw(seeds):
    def once(seed):
      message = codec.encode([tf.constant(t) for t in tensors], seed)
      decoded = codec.decode(message, [t.shape for t in tensors])
      return tf.concat([tf.reshape(d, [-1]) for d in decoded], axis=0)

    return tf.map_fn(once, seeds, fn_output_signature=tf.float32)

  return draw(tf.range(count)).numpy().astype(np.float64)
