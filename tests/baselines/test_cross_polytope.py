import codec_cases
import numpy as np
import pytest
import tensorflow as tf

from baselines.cross_polytope import CrossPolytope
from baselines.cross_polytope import mean_largest
from baselines.drive import Drive
from tff_fedsynth.compression import rotation


def test_mean_largest_magnitude():
  # By hand: sqrt(2 / pi), and E max(|a|, |b|) = 2 / sqrt(pi).
  assert mean_largest(1) == pytest.approx(np.sqrt(2 / np.pi), abs=1e-5)
  assert mean_largest(2) == pytest.approx(2 / np.sqrt(np.pi), abs=1e-5)
  drawn = np.random.RandomState(0).normal(size=(20_000, 128))
  largest = np.abs(drawn).max(axis=1)
  error = largest.std() / np.sqrt(len(drawn))
  assert mean_largest(128) == pytest.approx(largest.mean(), abs=4 * error)


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
    codec_cases.flat(
      codec_cases.round_trip(CrossPolytope(100, 0), codec_cases.values())
    ),
    codec_cases.flat(codec_cases.round_trip(Drive(100), codec_cases.values())),
    rtol=1e-6,
  )


@pytest.mark.parametrize('blocks, place_bits', [(84, 2), (40, 3), (5, 5)])
def test_cross_polytope_error(blocks, place_bits):
  tensors = codec_cases.values()
  x = codec_cases.flat(tensors)
  norm = (x**2).sum()
  codec = CrossPolytope(blocks, place_bits)
  draws = codec_cases.round_trips(codec, tensors, 200)
  np.testing.assert_allclose(draws @ x, norm, rtol=1e-4)
  error = ((draws - x) ** 2).sum(axis=1).mean() / norm
  # As for DRIVE. The largest of 4 has a relative deviation of 40%, of 32 one of
  # 18%; over 5 or more blocks it enters squared, and only its square's mean is
  # off: by 3 * .18^2 / 5 = 2%.
  expected = (
    codec.relative_error(codec_cases.SHAPES) * (codec_cases.SIZE - 1) / 335
  )
  assert error == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
  'ratio, place_bits, factor', [(100, 4, 1.3), (500, 7, 1.5), (10_000, 12, 1.6)]
)
def test_cross_polytope_is_worth_more_bytes_of_drive(ratio, place_bits, factor):
  budget = 636_040 // ratio - 4
  codec = CrossPolytope.for_budget(budget, codec_cases.MLP)
  assert abs(codec.place_bits - place_bits) <= 1
  richer = Drive.for_budget(factor * budget, codec_cases.MLP)
  assert codec.relative_error(codec_cases.MLP) < richer.relative_error(
    codec_cases.MLP
  )
