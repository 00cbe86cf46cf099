"""The model of a run, on other examples than its own."""

import numpy as np
import pytest
import small_runs

from tff_fedsynth.experiments.basics import evaluation
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings.settings import SettingsError


@pytest.fixture(scope='module')
def examples(whole, tmp_path_factory):
  """The test data of a run as a file of pixels."""
  x, y = zip(*whole.task.test_data.as_numpy_iterator())
  pixels = np.round(np.concatenate(x)[..., 0] * 255).astype(np.uint8)
  path = tmp_path_factory.mktemp('examples') / 'digits.npz'
  np.savez(path, x=pixels, y=np.concatenate(y).astype(np.int16))
  return path


def test_on_its_own_test_data_it_is_as_right_as_in_training(
  whole, examples, capsys
):
  directory = small_runs.directory(whole)
  x, y = evaluation.read_examples(examples)
  found = evaluation.accuracy(directory, x, y)
  summary = runner.read_summary(whole.settings)
  assert found == pytest.approx(summary['last_accuracy'])
  # Floats are taken as they are, with a channel or without.
  assert evaluation.accuracy(directory, x[..., np.newaxis], y) == found
  assert evaluation.accuracy(directory, 1 - x, y) != found


def test_what_cannot_be_evaluated_is_told(whole, tmp_path):
  directory = small_runs.directory(whole)
  x, y = np.zeros((3, 28, 28), np.float32), np.array([0, 1, 2])
  for wrong, message in (
    ((x[:, 1:], y), r'takes inputs of shape \[28, 28, 1\], .* have \[27, 28\]'),
    ((x, y + 8), 'has classes from 0 to 9, but .* from 8 to 10'),
  ):
    with pytest.raises(SettingsError, match=message):
      evaluation.accuracy(directory, *wrong)
  with pytest.raises(SettingsError, match='holds no run'):
    evaluation.accuracy(tmp_path, x, y)


@pytest.mark.parametrize(
  'arrays, message',
  [
    (None, 'No such file'),
    (dict(x=np.zeros((2, 3))), 'arrays x and y'),
    (dict(x=np.zeros((2, 3)), y=np.zeros(2)), 'one integer y for each'),
    (dict(x=np.zeros((2, 3)), y=np.zeros(3, int)), r'\[2, 3\] and int64 \[3\]'),
    (dict(x=np.zeros((0, 3)), y=np.zeros(0, int)), r'found float64 \[0, 3\]'),
    (dict(x=np.array(['a']), y=np.zeros(1, int)), 'must hold numbers x'),
  ],
)
def test_files_that_are_refused(arrays, message, tmp_path):
  path = tmp_path / 'wrong.npz'
  if arrays is not None:
    np.savez(path, **arrays)
  with pytest.raises(SettingsError, match=message) as caught:
    evaluation.read_examples(path)
  assert '\n' not in str(caught.value)


def test_a_file_that_is_none(tmp_path):
  path = tmp_path / 'text.npz'
  path.write_text('x,y\n')
  with pytest.raises(SettingsError, match='cannot be read'):
    evaluation.read_examples(path)


@pytest.mark.parametrize('background', [0.0, 1.0])
def test_ink_is_enlarged_and_centered(background):
  x = np.full((2, 28, 28), background, np.float32)
  x[0, 3:7, 20:22] = 1 - background  # The other one is empty.
  enlarged = evaluation.enlarge_ink(x, 20)
  rows, columns = np.nonzero(np.abs(enlarged[0] - background) > 0.5)
  assert (rows.min(), rows.max() + 1) == (4, 24)
  assert (columns.min(), columns.max() + 1) == (9, 19)
  np.testing.assert_array_equal(enlarged[1], x[1])
  for wrong in (x[..., np.newaxis], x[:, :19]):
    with pytest.raises(
      SettingsError, match='ink_side=20 goes only with images'
    ):
      evaluation.enlarge_ink(wrong, 20)


def test_both_flags_are_required():
  for given in (dict(run_dir=('a',)), dict(examples='a.npz')):
    with pytest.raises(SettingsError, match='is required'):
      evaluation.Options(**given)
