"""What clients upload, drawn; real examples are shown as means alone."""

import io

from matplotlib import axes
from matplotlib import figure as figure_lib
import numpy as np
import pytest
import tensorflow as tf

from tff_fedsynth.experiments.pictures import uploads
from tff_fedsynth.payload.spec import SyntheticData
from tff_fedsynth.tasks import TASKS

ONES = np.ones([1], np.float32)


def _data(labels):
  images = np.zeros([1, len(labels), 4, 4, 1], np.float32)
  return SyntheticData(images, np.array(labels, np.float32)[None], ONES, 1.0)


@pytest.fixture(name='texts')
def _texts(monkeypatch):
  """All texts of the figures that are written."""
  found = []

  def savefig(self, path, **kwargs):
    found.append(
      [t.get_text() for t in self.findobj(lambda o: hasattr(o, 'get_text'))]
    )

  monkeypatch.setattr(figure_lib.Figure, 'savefig', savefig)
  return found


def test_means_are_of_many_examples():
  x = np.arange(41, dtype=np.float32).reshape([41, 1])
  y = np.array([3] * 20 + [1] * 19 + [7] * 2, np.int32)
  data = tf.data.Dataset.from_tensor_slices((x, y)).batch(15)
  # The mean of 0 to 19; there are too few of the others.
  assert uploads.mean_examples(data) == {3: [9.5]}


def test_a_picture_says_what_its_bars_are(texts):
  means = {label: np.zeros([4, 4, 1]) for label in range(3)}
  uploads.plot_synthetic_data(
    _data([[0.1, -0.4, 0.2]]), 0.5, io.BytesIO(), means
  )
  uploads.plot_synthetic_data(_data([[0.1, 0.7, 0.2]]), 0.5, io.BytesIO())
  signed, soft = (' '.join(' '.join(found).split()) for found in texts)
  assert 'strongest: 1' in signed and 'minus the gradient' in signed
  assert 'mean of all real test examples of a label' in signed
  assert 'strongest: 1' in soft and 'gradient' not in soft
  assert 'real test' not in soft


def test_many_labels_are_shown_where_they_are_strong(texts):
  means = {label: np.zeros([4, 4, 1]) for label in range(62)}
  labels = np.eye(62)[[40, 7, 40]]
  uploads.plot_synthetic_data(_data(labels), 0.5, io.BytesIO(), means)
  assert {'7', '40'} <= set(texts[0]) and not {'8', '41'} & set(texts[0])


def test_only_public_test_data_are_shown():
  digits = TASKS['mnist_digits'].build(seed=0, num_clients=40)
  assert digits.is_public
  assert list(uploads.mean_examples(digits.test_data)) == list(range(10))


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('scale', [0.01, 1.0, 300.0, np.nan])
def test_colors_of_any_range_are_seen(scale, tmp_path, monkeypatch):
  shown = []
  monkeypatch.setattr(
    axes.Axes, 'imshow', lambda self, example, **_: shown.append(example)
  )
  # Red grows along a row, blue falls; green is the mean of both.
  ramp = np.linspace(-1, 1, 5, dtype=np.float32)
  image = np.stack([ramp, 0 * ramp, -ramp], axis=-1)[np.newaxis]
  images = scale * np.tile(image, [1, 1, 5, 1, 1])
  data = SyntheticData(images, np.ones([1, 1, 3], np.float32), ONES, 1.0)
  uploads.plot_synthetic_data(data, 0.5, tmp_path / 'a.png')
  expected = np.tile((image + 1) / 2, [5, 1, 1])
  if np.isnan(scale):
    expected = np.zeros([5, 5, 3])
  np.testing.assert_allclose(shown[0], expected, atol=1e-6)


@pytest.mark.filterwarnings('error')
def test_colors_are_drawn_without_a_warning(tmp_path, caplog, texts):
  del texts
  images = np.random.RandomState(0).normal(0, 9, (1, 2, 4, 4, 3))
  data = SyntheticData(images, np.ones([1, 2, 3], np.float32), ONES, 1.0)
  uploads.plot_synthetic_data(data, 0.5, tmp_path / 'a.png')
  uploads.plot_pairs(images[0], images[0], tmp_path / 'b.png')
  assert not caplog.records
