"""Every codec, by the same contract."""

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
from tff_fedsynth.errors import OptionError


@pytest.mark.parametrize('codec', codec_cases.CODECS, ids=str)
def test_counted_bytes_are_those_of_the_message(codec):
  tensors = [tf.constant(v) for v in codec_cases.values()]
  message = codec.encode(tensors, tf.constant(3))
  sent = sum(len(v.numpy().tobytes()) for v in message.values())
  assert codec.message_bytes(codec_cases.SHAPES) == sent
  decoded = codec.decode(message, codec_cases.SHAPES)
  assert [d.shape for d in decoded] == codec_cases.SHAPES
  assert codec.describe(codec_cases.SHAPES)


@pytest.mark.parametrize('codec', codec_cases.CODECS, ids=str)
def test_zeros_stay_zeros(codec):
  zeros = [np.zeros(s, np.float32) for s in codec_cases.SHAPES]
  np.testing.assert_array_equal(
    codec_cases.flat(codec_cases.round_trip(codec, zeros)), 0
  )


@pytest.mark.parametrize(
  'codec',
  [c for c in codec_cases.CODECS if not isinstance(c, LowRank)],
  ids=str,
)
def test_decoding_scales_with_the_update(codec):
  # TFF multiplies an update by its client's weight before it is encoded.
  once = codec_cases.flat(codec_cases.round_trip(codec, codec_cases.values()))
  twice = codec_cases.flat(
    codec_cases.round_trip(codec, [v + v for v in codec_cases.values()])
  )
  np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)


@pytest.mark.parametrize('codec', codec_cases.UNBIASED, ids=str)
def test_unbiased(codec):
  # With independent draws of mean x and squared error v (measured here), the
  # mean of n draws has an expected squared error of v / n. A sum of many such
  # coordinates stays within 1.5 of its expectation; a bias b would add |b|^2.
  tensors = codec_cases.values(1)
  x = codec_cases.flat(tensors)
  draws = codec_cases.round_trips(codec, tensors, 600)
  error = ((draws - x) ** 2).sum(axis=1).mean()
  bias = ((draws.mean(axis=0) - x) ** 2).sum()
  assert error > 0
  assert bias < 1.5 * error / 600


@pytest.mark.parametrize('ratio', [20, 100, 500])
@pytest.mark.parametrize(
  'cls, fields',
  [
    (RandomMask, {}),
    (RandomMask, {'bits': 8}),
    (TopK, {}),
    (TopK, {'bits': 8}),
    (Drive, {}),
    (CrossPolytope, {}),
    (LowRank, {'bits': 4}),
    (LowRank, {'bits': 8}),
  ],
  ids=str,
)
def test_budgets_are_filled_and_never_exceeded(cls, fields, ratio):
  budget = 636_040 // ratio - 4
  if (cls, fields, ratio) == (LowRank, {'bits': 8}, 500):
    # Two columns of 984 and 210 bytes, 210 bytes of biases and their ranges.
    with pytest.raises(BudgetTooSmallError, match='at least 1452 bytes'):
      cls.for_budget(budget, codec_cases.MLP, **fields)
    return
  codec = cls.for_budget(budget, codec_cases.MLP, **fields)
  used = codec.message_bytes(codec_cases.MLP)
  assert used <= budget
  # Nothing to add to a bit for every coordinate.
  is_whole = codec in (Drive(39 * 4096), CrossPolytope(39 * 4096, 0))
  assert used >= 0.9 * budget or is_whole
  assert is_whole == (cls in (Drive, CrossPolytope) and ratio == 20)


def test_codecs_of_fixed_size_say_what_they_need():
  size = 159_010
  assert (
    Sign.for_budget(19_893, codec_cases.MLP).message_bytes(codec_cases.MLP)
    == -(-size // 8) + 16
  )
  with pytest.raises(BudgetTooSmallError, match='at least 19893 bytes'):
    Sign.for_budget(19_892, codec_cases.MLP)
  # 2 bits a value and 311 norms.
  smallest = -(-size * 2 // 8) + 311 * 4
  assert Qsgd.for_budget(smallest, codec_cases.MLP).bits == 2
  assert Qsgd.for_budget(float('inf'), codec_cases.MLP).bits == 8
  assert Qsgd.for_budget(float('inf'), codec_cases.MLP, bits=3).bits == 3
  with pytest.raises(BudgetTooSmallError, match=f'at least {smallest} bytes'):
    Qsgd.for_budget(smallest - 1, codec_cases.MLP)
  with pytest.raises(
    BudgetTooSmallError, match='RandomMask uploads at least 8'
  ):
    RandomMask.for_budget(7, codec_cases.MLP)


def test_no_budget_keeps_everything():
  unlimited = float('inf')
  assert (
    RandomMask.for_budget(unlimited, codec_cases.MLP).kept_values == 159_010
  )
  # 39 rows of 4,096 columns: fewer, longer rows need padding of over 1/64.
  assert Drive.for_budget(unlimited, codec_cases.MLP).kept_signs == 39 * 4096
  assert LowRank.for_budget(unlimited, codec_cases.MLP).ranks == (200, 0, 10, 0)


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: RandomMask(0), 'kept_values must be at least 1'),
    (lambda: TopK(5, bits=4), 'bits must be one of 32, 8'),
    (lambda: Drive(1, scale='big'), "Unknown scale 'big'"),
    (lambda: LowRank((1,), bits=3), 'bits must be one of'),
    (lambda: Qsgd(bits=9), 'bits must be one of'),
  ],
)
def test_refusals(make, message):
  with pytest.raises(OptionError, match=message):
    make()
