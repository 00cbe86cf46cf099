"""Each codec against values by hand, and bounds of its paper."""

import codec_cases
import numpy as np
import pytest
import tensorflow as tf

from baselines.cross_polytope import CrossPolytope
from baselines.cross_polytope import mean_largest
from baselines.drive import Drive
from baselines.low_rank import LowRank
from baselines.qsgd import Qsgd
from baselines.random_mask import RandomMask
from baselines.sign import Sign
from baselines.top_k import TopK
from tff_fedsynth.compression import rotation

VALUES = codec_cases.values()
X = codec_cases.flat(VALUES)
SIZE = codec_cases.SIZE


def test_a_random_mask_sends_some_values_as_they_are_or_scaled():
  for unbiased, factor in ((True, SIZE / 30), (False, 1)):
    mask = RandomMask(30, unbiased=unbiased)
    (draw,) = codec_cases.round_trips(mask, VALUES, 1)
    kept = np.flatnonzero(draw)
    assert len(kept) == 30
    np.testing.assert_allclose(draw[kept], factor * X[kept], rtol=1e-6)


def test_random_masks_are_uniform():
  # Hits of a coordinate are binomial(n, p) with p = 60 / 334: a standard
  # deviation of sqrt(n p (1 - p)); 5 of them fail once in a million.
  draws = codec_cases.round_trips(RandomMask(60), VALUES, 400)
  p = 60 / SIZE
  hits = (draws != 0).sum(axis=0)
  assert np.abs(hits - 400 * p).max() <= 5 * np.sqrt(400 * p * (1 - p))


def test_values_in_eight_bits_are_off_by_at_most_a_level():
  # Of random rounding in a mask, and half a level of the nearest in top-k.
  for exact, rounded, levels in (
    (RandomMask(30), RandomMask(30, bits=8), 1),
    (TopK(30), TopK(30, bits=8), 0.5),
  ):
    (exact,) = codec_cases.round_trips(exact, VALUES, 1)
    (rounded,) = codec_cases.round_trips(rounded, VALUES, 1)
    kept = exact[exact != 0]
    level = (kept.max() - kept.min()) / 255
    assert 0 < np.abs(rounded - exact).max() <= 1.001 * levels * level


def test_top_k_by_hand():
  message = TopK(2).encode(
    [tf.constant([1.0, -5.0]), tf.constant([[3.0], [0.5]])], tf.constant(0)
  )
  order = np.argsort(message['values'])
  np.testing.assert_array_equal(np.array(message['values'])[order], [-5, 3])
  # Indices 1 and 2, in two bits each, in either order.
  assert message['indices'].numpy() == ([0b1001] if order[0] == 0 else [0b0110])
  decoded = TopK(2).decode(message, [(2,), (2, 1)])
  np.testing.assert_array_equal(codec_cases.flat(decoded), [0, -5, 3, 0])


def test_top_k_loses_exactly_the_smallest_values():
  (decoded,) = codec_cases.round_trips(TopK(30), VALUES, 1)
  lost = np.sort(np.abs(X))[:-30]
  assert ((decoded - X) ** 2).sum() == pytest.approx((lost**2).sum(), rel=1e-5)


def test_sign_by_hand():
  tensors = [tf.constant([1.0, -3.0, 0.0]), tf.constant([[-2.0]])]
  message = Sign().encode(tensors, tf.constant(0))
  np.testing.assert_array_equal(message['signs'], [0b0101])
  np.testing.assert_allclose(message['scales'], [4 / 3, 2])
  a, b = Sign().decode(message, [(3,), (1, 1)])
  np.testing.assert_allclose(a, [4 / 3, -4 / 3, 4 / 3])
  np.testing.assert_allclose(b, [[-2]])


def test_qsgd_by_hand():
  # |v| = 7 and s = 7, so that every level is hit exactly; then |v| = 14.
  tensors = [np.array([2, -3, 6, -14, 0], np.float32)]
  codec = Qsgd(bits=4, bucket_size=3)
  message = codec.encode([tf.constant(tensors[0])], tf.constant(1))
  np.testing.assert_array_equal(
    message['levels'], [2 + ((8 + 3) << 4), 6 + ((8 + 7) << 4), 0]
  )
  np.testing.assert_array_equal(message['norms'], [7, 14])
  np.testing.assert_array_equal(codec.decode(message, [(5,)]), tensors)


@pytest.mark.parametrize('bits', [2, 4])
def test_qsgd_error_is_within_the_papers_bound(bits):
  # Lemma 3.1: E |Q(v) - v|^2 <= min(d / s^2, sqrt(d) / s) |v|^2, here with one
  # bucket. The mean of 100 draws of a sum over 334 coordinates is within 10%.
  s = 2 ** (bits - 1) - 1
  codec = Qsgd(bits=bits, bucket_size=SIZE)
  draws = codec_cases.round_trips(codec, VALUES, 100)
  error = ((draws - X) ** 2).sum(axis=1).mean() / (X**2).sum()
  assert error <= 1.1 * min(SIZE / s**2, np.sqrt(SIZE) / s)


def test_drive_sends_one_hot_updates_exactly():
  # All rotated coordinates have magnitude 1 / sqrt(n): one bit says it all.
  one_hot = [np.zeros(128, np.float32)]
  one_hot[0][2] = -3
  for scale in ('unbiased', 'mse'):
    decoded = codec_cases.round_trip(Drive(128, scale=scale), one_hot)
    np.testing.assert_allclose(decoded, one_hot, atol=1e-6)


@pytest.mark.parametrize('kept', [100, 336])
def test_drive_scales(kept):
  norm = (X**2).sum()
  unbiased = codec_cases.round_trips(Drive(kept), VALUES, 50)
  # Theorem 3: the part along the update is exact in every draw. The padding
  # takes no part in it.
  np.testing.assert_allclose(unbiased @ X, norm, rtol=1e-4)
  # The error is all across: pi n / 2 m - 1, of which the share of the update's
  # own coordinates in the padded ones is seen. Its mean over 50 draws is within
  # 15%: |y| summed over 100 coordinates has a relative deviation of
  # sqrt((pi / 2 - 1) / 100) = 7.6%, and the scale enters squared.
  error = ((unbiased - X) ** 2).sum(axis=1).mean() / norm
  expected = (np.pi * 336 / (2 * kept) - 1) * (SIZE - 1) / 335
  assert error == pytest.approx(expected, rel=0.15)
  # The same signs, with the scale that has the least error before the padding
  # is cut off: shorter by a factor that makes it the better one here too.
  mse = codec_cases.round_trips(Drive(kept, scale='mse'), VALUES, 50)
  cosine = (unbiased @ mse.T).diagonal() / (
    np.linalg.norm(unbiased, axis=1) * np.linalg.norm(mse, axis=1)
  )
  np.testing.assert_allclose(cosine, 1, rtol=1e-5)
  assert ((mse - X) ** 2).sum() < ((unbiased - X) ** 2).sum()


def test_mean_largest_magnitude():
  # By hand: sqrt(2 / pi), and E max(|a|, |b|) = 2 / sqrt(pi).
  assert mean_largest(1) == pytest.approx(np.sqrt(2 / np.pi), abs=1e-5)
  assert mean_largest(2) == pytest.approx(2 / np.sqrt(np.pi), abs=1e-5)


def test_cross_polytope_by_hand():
  shapes, (x,) = [(8,)], codec_cases.values(shapes=((8,),))
  one_block = CrossPolytope(1, 3)
  message = one_block.encode([tf.constant(x)], tf.constant(70_000))
  # What crosses: 4 bits, a scale and the seed modulo 2^16.
  assert message['vertices'].shape == (1,)
  assert message['seed'].numpy() == 70_000 - 65_536
  (decoded,) = one_block.decode(message, shapes)
  rotate = rotation.random_rotation(tf.constant(70_000 - 65_536), shapes)
  rotated = rotate.apply(tf.constant(x)).numpy()
  expected = np.zeros(8)
  place = np.abs(rotated).argmax()
  expected[place] = (x**2).sum() / rotated[place]
  np.testing.assert_allclose(
    rotate.apply(decoded), expected, rtol=1e-5, atol=1e-5
  )
  # A block of one coordinate has a sign only: DRIVE.
  np.testing.assert_allclose(
    codec_cases.flat(codec_cases.round_trip(CrossPolytope(100, 0), VALUES)),
    codec_cases.flat(codec_cases.round_trip(Drive(100), VALUES)),
    rtol=1e-6,
  )


@pytest.mark.parametrize('blocks, place_bits', [(84, 2), (5, 5)])
def test_cross_polytope_error(blocks, place_bits):
  norm = (X**2).sum()
  codec = CrossPolytope(blocks, place_bits)
  draws = codec_cases.round_trips(codec, VALUES, 200)
  np.testing.assert_allclose(draws @ X, norm, rtol=1e-4)
  error = ((draws - X) ** 2).sum(axis=1).mean() / norm
  # As for DRIVE. The largest of 4 has a relative deviation of 40%, of 32 one of
  # 18%; over 5 or more blocks it enters squared, and only its square's mean is
  # off: by 3 * .18^2 / 5 = 2%.
  expected = codec.relative_error(codec_cases.SHAPES) * (SIZE - 1) / 335
  assert error == pytest.approx(expected, rel=0.1)


def test_the_relative_error_is_right_where_much_is_kept():
  x = np.random.RandomState(0).normal(size=64).astype(np.float32)
  for codec in (Drive(40), CrossPolytope(5, 3)):
    draws = codec_cases.round_trips(codec, [x], 2000)
    error = ((draws - x) ** 2).sum(axis=1).mean() / (x**2).sum()
    assert error == pytest.approx(codec.relative_error([x.shape]), rel=0.1)
  # One or two of many coordinates may be next to nothing, and are divided by.
  for codec in (Drive(2), CrossPolytope(1, 1)):
    assert codec.relative_error([(64,)]) == np.inf
  assert CrossPolytope(1, 2).relative_error([(64,)]) < np.inf


@pytest.mark.parametrize(
  'ratio, place_bits, factor', [(100, 4, 1.3), (10_000, 12, 1.6)]
)
def test_cross_polytope_is_worth_more_bytes_of_drive(ratio, place_bits, factor):
  budget = 636_040 // ratio - 4
  codec = CrossPolytope.for_budget(budget, codec_cases.MLP)
  assert abs(codec.place_bits - place_bits) <= 1
  richer = Drive.for_budget(factor * budget, codec_cases.MLP)
  assert codec.relative_error(codec_cases.MLP) < richer.relative_error(
    codec_cases.MLP
  )


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
  # Singular values 1, 1/2, 1/4, ...: the best approximation of rank 3 loses the
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


@pytest.mark.parametrize('shape', [(1, 5), (2, 2)], ids=str)
def test_low_rank_of_full_rank_is_off_by_rounding_only(shape):
  (x,) = codec_cases.values(shapes=[shape])
  codec = LowRank((min(shape),), bits=8)
  (decoded,) = codec_cases.round_trips(codec, [x], 1)
  assert np.linalg.norm(decoded - x.ravel()) < 0.01 * np.linalg.norm(x)
