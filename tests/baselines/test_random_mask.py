import codec_cases
import numpy as np

from baselines.random_mask import RandomMask


def test_random_mask_by_hand():
  tensors = codec_cases.values()
  for unbiased, factor in ((True, codec_cases.SIZE / 30), (False, 1)):
    (draw,) = codec_cases.round_trips(
      RandomMask(30, unbiased=unbiased), tensors, 1
    )
    kept = np.flatnonzero(draw)
    assert len(kept) == 30
    np.testing.assert_allclose(
      draw[kept], factor * codec_cases.flat(tensors)[kept], rtol=1e-6
    )


def test_random_masks_are_uniform():
  # Hits of a coordinate are binomial(n, p) with p = 60 / 343: a standard
  # deviation of sqrt(n p (1 - p)); 5 of them fail once in a million.
  draws = codec_cases.round_trips(RandomMask(60), codec_cases.values(), 400)
  p = 60 / codec_cases.SIZE
  hits = (draws != 0).sum(axis=0)
  assert np.abs(hits - 400 * p).max() <= 5 * np.sqrt(400 * p * (1 - p))


def test_an_eight_bit_mask_is_off_by_at_most_a_level():
  tensors = codec_cases.values()
  (exact,) = codec_cases.round_trips(RandomMask(30), tensors, 1)
  (rounded,) = codec_cases.round_trips(RandomMask(30, bits=8), tensors, 1)
  kept = exact[exact != 0]
  level = (kept.max() - kept.min()) / 255
  assert 0 < np.abs(rounded - exact).max() <= 1.001 * level
