"""Codecs on updates of few values."""

import itertools
import math
import re

import codec_cases
import numpy as np
import pytest
import tensorflow as tf

from baselines.cross_polytope import CrossPolytope
from baselines.drive import Drive
from baselines.low_rank import LowRank
from baselines.qsgd import Qsgd
from baselines.random_mask import RandomMask
from baselines.sign import Sign
from baselines.top_k import TopK
from tff_fedsynth.compression.codec import BudgetTooSmallError

NAN, INF = math.nan, math.inf
TINY = [
  [()],
  [(1,)],
  [(1, 1)],
  [(2,)],
  [(0,), (1,)],
  [(0, 3), (2, 1), (3, 0), ()],
  [(1, 5)],
  [(5, 1), (1,)],
  [(2, 2)],
  [(1, 1, 1, 4)],
  [(7, 5), (7,)],
]


@pytest.mark.parametrize('shapes', TINY, ids=str)
@pytest.mark.parametrize('cls, fields', codec_cases.KINDS, ids=str)
def test_every_budget_is_kept_or_too_small(cls, fields, shapes):
  tensors = codec_cases.values(shapes=shapes)
  with pytest.raises(BudgetTooSmallError) as refused:
    cls.for_budget(0, shapes, **fields)
  smallest = int(re.search(r'at least (\d+) bytes', str(refused.value))[1])
  for budget in (-INF, -1, 0.5, smallest - 1, smallest - 0.5):
    with pytest.raises(BudgetTooSmallError, match='Raise the budget'):
      cls.for_budget(budget, shapes, **fields)
  codecs = {}
  for budget in (*np.arange(smallest, smallest + 40, 0.5), 1e9, INF):
    codec = cls.for_budget(budget, shapes, **fields)
    assert codec.message_bytes(shapes) <= budget
    codecs[codec] = None
  for codec in codecs:
    message = codec.encode([tf.constant(t) for t in tensors], tf.constant(3))
    sent = [v.numpy() for v in message.values()]
    assert sum(v.nbytes for v in sent) == codec.message_bytes(shapes)
    assert all(np.isfinite(v).all() for v in sent)
    decoded = codec.decode(message, shapes)
    assert [tuple(d.shape) for d in decoded] == shapes
    if isinstance(codec, (TopK, LowRank, Sign)):
      # These give nothing away for being unbiased.
      x = codec_cases.flat(tensors)
      assert ((codec_cases.flat(decoded) - x) ** 2).sum() <= (x**2).sum()
    assert codec.describe(shapes)
    error = codec.relative_error(shapes)
    assert error is None or error >= 0


@pytest.mark.parametrize('shapes', TINY, ids=str)
def test_where_everything_is_kept_nothing_is_lost(shapes):
  tensors = codec_cases.values(shapes=shapes)
  size = len(codec_cases.flat(tensors))
  for codec in (RandomMask(size), TopK(size)):
    (decoded,) = codec_cases.round_trips(codec, tensors, 1)
    np.testing.assert_array_equal(decoded, codec_cases.flat(tensors))
  assert RandomMask(size).relative_error(shapes) == 0
  # At most half of a level, and for random rounding a whole one.
  level = np.ptp(codec_cases.flat(tensors)) / 255
  for codec in (RandomMask(size, bits=8), TopK(size, bits=8)):
    (decoded,) = codec_cases.round_trips(codec, tensors, 1)
    np.testing.assert_allclose(
      decoded, codec_cases.flat(tensors), atol=1.01 * level
    )


@pytest.mark.parametrize('cls, fields', codec_cases.KINDS, ids=str)
def test_one_value_comes_back(cls, fields):
  for shape, value in itertools.product([(), (1,), (1, 1)], [-2.5, 0.0, 3.0]):
    codec = cls.for_budget(INF, [shape], **fields)
    assert codec.relative_error([shape]) in (0, None)
    for seed in (0, 1):
      message = codec.encode([tf.fill(shape, value)], tf.constant(seed))
      (decoded,) = codec.decode(message, [shape])
      np.testing.assert_allclose(decoded, value, rtol=1e-6)


@pytest.mark.parametrize(
  'codec, size',
  [
    (RandomMask(1), 2),
    (RandomMask(2), 3),
    (RandomMask(3, bits=8), 5),
    (Drive(2), 2),
    (Drive(3), 3),
    (Drive(8), 8),
    (Drive(5), 8),
    (CrossPolytope(2, 0), 2),
    (CrossPolytope(1, 2), 4),
    (CrossPolytope(2, 2), 9),
    (Qsgd(bits=2), 1),
    (Qsgd(bits=2, bucket_size=2), 3),
  ],
  ids=str,
)
@pytest.mark.parametrize('kind', ['normal', 'two'])
def test_a_few_values_are_unbiased(codec, size, kind):
  x = np.zeros(size, np.float32)
  if kind == 'two':
    # With signs and a Hadamard transform alone, the 1 is never seen.
    x[:2] = [3, 1][:size]
  else:
    x[:] = np.random.RandomState(size).normal(size=size)
  count = 4000
  draws = codec_cases.round_trips(codec, [x], count)
  # Five standard errors of each coordinate, which one in 10^6 exceeds.
  error = draws.std(axis=0) / math.sqrt(count)
  assert (np.abs(draws.mean(axis=0) - x) <= 5 * error + 1e-5).all()


def test_the_relative_error_is_right_where_much_is_kept():
  x = np.random.RandomState(0).normal(size=64).astype(np.float32)
  for codec in (
    Drive(40),
    Drive(64),
    CrossPolytope(10, 2),
    CrossPolytope(5, 3),
  ):
    error = (
      ((codec_cases.round_trips(codec, [x], 2000) - x) ** 2).sum(axis=1).mean()
    )
    claimed = codec.relative_error([x.shape])
    assert error / (x**2).sum() == pytest.approx(claimed, rel=0.1)
  # One or two of many coordinates may be next to nothing, and are divided by.
  for codec in (Drive(1), Drive(2), CrossPolytope(2, 0), CrossPolytope(1, 1)):
    assert codec.relative_error([(64,)]) == INF
  assert CrossPolytope(1, 2).relative_error([(64,)]) < INF
