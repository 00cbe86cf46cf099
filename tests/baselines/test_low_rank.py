import codec_cases
import numpy as np
import pytest

from baselines.low_rank import LowRank


def test_low_rank_by_hand():
  # One column of equal numbers, exactly one level; the other has levels 0..15.
  matrix = np.outer(np.ones(5), np.arange(16)).astype(np.float32)
  vector = np.array([-1, 0.5, 14], np.float32)
  decoded = codec_cases.round_trip(LowRank((1, 0)), [matrix, vector])
  np.testing.assert_allclose(decoded[0], matrix, atol=1e-3)
  # 16 levels, one apart, from -1: 0.5 lies between two.
  np.testing.assert_allclose(decoded[1][::2], vector[::2])
  assert abs(float(decoded[1][1]) - 0.5) <= 0.5


def test_low_rank_is_near_the_best_of_its_rank():
  # Singular codec_cases.values 1, 1/2, 1/4, ...: the best approximation of rank 3 loses the
  # squares of the rest. Two power iterations leave mixtures of (1/2)^5 at most;
  # 8 bits add errors of 1/512 of the range.
  random = np.random.RandomState(0)
  left, _ = np.linalg.qr(random.normal(size=(30, 20)))
  right, _ = np.linalg.qr(random.normal(size=(20, 20)))
  singular = 0.5 ** np.arange(20)
  matrix = (left * singular @ right.T).astype(np.float32)
  (decoded,) = codec_cases.round_trips(LowRank((3,), bits=8), [matrix], 1)
  best = (singular[3:] ** 2).sum()
  error = ((decoded - matrix.ravel()) ** 2).sum()
  assert best <= error <= 1.05 * best


def test_low_rank_shares_a_budget_by_size():
  # Rank 1 takes 984 / 2 + 210 / 2 bytes of numbers, 105 of biases and 6 ranges;
  # of what is left the larger matrix gets its share first.
  codec = LowRank.for_budget(1268, codec_cases.MLP)
  assert codec.ranks == (2, 0, 1, 0)


@pytest.mark.parametrize('shape', [(1, 5), (5, 1), (1, 1), (2, 2)], ids=str)
def test_low_rank_of_full_rank_is_off_by_rounding_only(shape):
  (x,) = tensors = codec_cases.values(shapes=[shape])
  (decoded,) = codec_cases.round_trips(
    LowRank((min(shape),), bits=8), tensors, 1
  )
  assert np.linalg.norm(decoded - x.ravel()) < 0.01 * np.linalg.norm(x)
