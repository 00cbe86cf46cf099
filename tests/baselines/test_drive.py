import codec_cases
import numpy as np
import pytest

from baselines.drive import Drive


def test_drive_sends_one_hot_updates_exactly():
  # All rotated coordinates have magnitude 1 / sqrt(n): one bit says it all.
  one_hot = [np.zeros(128, np.float32)]
  one_hot[0][2] = -3
  for scale in ('unbiased', 'mse'):
    decoded = codec_cases.round_trip(Drive(128, scale=scale), one_hot)
    np.testing.assert_allclose(decoded, one_hot, atol=1e-6)


@pytest.mark.parametrize('kept', [100, 336])
def test_drive_scales(kept):
  tensors = codec_cases.values()
  x = codec_cases.flat(tensors)
  norm = (x**2).sum()
  unbiased = codec_cases.round_trips(Drive(kept), tensors, 50)
  # Theorem 3: the part along the update is exact in every draw. The padding
  # takes no part in it.
  np.testing.assert_allclose(unbiased @ x, norm, rtol=1e-4)
  # The error is all across: pi n / 2 m - 1, of which the share of the update's
  # own coordinates in the padded ones is seen. Its mean over 50 draws is within
  # 15%: |y| summed over 100 coordinates has a relative deviation of
  # sqrt((pi / 2 - 1) / 100) = 7.6%, and the scale enters squared.
  error = ((unbiased - x) ** 2).sum(axis=1).mean() / norm
  expected = (np.pi * 336 / (2 * kept) - 1) * (codec_cases.SIZE - 1) / 335
  assert error == pytest.approx(expected, rel=0.15)
  # The same signs, with the scale that has the least error before the padding
  # is cut off: shorter by a factor that makes it the better one here too.
  mse = codec_cases.round_trips(Drive(kept, scale='mse'), tensors, 50)
  cosine = (unbiased @ mse.T).diagonal() / (
    np.linalg.norm(unbiased, axis=1) * np.linalg.norm(mse, axis=1)
  )
  np.testing.assert_allclose(cosine, 1, rtol=1e-5)
  assert ((mse - x) ** 2).sum() < ((unbiased - x) ** 2).sum()
