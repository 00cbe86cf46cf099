"""What clients upload, drawn; real examples are shown as means alone."""

import io

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
