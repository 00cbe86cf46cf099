"""The model of a run, on other examples than its own."""

from absl import flags
import federated_files
import numpy as np
import pytest
import small_runs

from tff_fedsynth import experiments
from tff_fedsynth.errors import OptionError
from tff_fedsynth.experiments.basics import evaluation
from tff_fedsynth.experiments.running import loading
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
  # Floats are pixels too, with a channel or without.
  floats = x / np.float32(255)
  assert evaluation.accuracy(directory, floats[..., np.newaxis], y) == found
  assert evaluation.accuracy(directory, 1 - floats, y) != found


@pytest.fixture(scope='module')
def digits_run(tmp_path_factory):
  """A run on digits of 0 to 16, a client a class; and all its examples."""
  directory = tmp_path_factory.mktemp('digits')
  y = np.arange(60) % 3
  x = np.random.RandomState(0).randint(0, 4, (60, 8, 8))
  x[np.arange(60), y] += 13  # A row of each image tells its class.
  rows = [np.arange(i, 60, 6) for i in range(6)]
  data = {f'c{i}': {'image': x[r], 'digit': y[r]} for i, r in enumerate(rows)}
  small_runs.train(
    directory / 'run',
    method='fedavg',
    num_clients=None,
    task='client_data',
    client_data=str(federated_files.save(directory / 'own.sqlite', data)),
    features='image',
    label='digit',
    feature_divisor=16.0,
    client_learning_rate=0.02,
  )
  return directory / 'run', x, y


@pytest.mark.parametrize('dtype', ['uint8', 'int64', 'float32', 'float64'])
@pytest.mark.parametrize('is_flat', [True, False])
def test_a_divisor_is_that_of_the_training(digits_run, dtype, is_flat):
  directory, x, y = digits_run
  w1, b1, w2, b2 = experiments.load_model(directory).trainable
  hidden = np.maximum(0, x.reshape(-1, 64) / 16 @ w1 + b1)
  expected = np.mean((hidden @ w2 + b2).argmax(axis=1) == y)
  # Not so much that any divisor would do.
  assert 0.3 < expected < 0.99
  inputs = x.reshape([60, -1] if is_flat else x.shape).astype(dtype)
  found = evaluation.accuracy(directory, inputs, y)
  assert found == pytest.approx(expected)


def test_a_model_that_diverged_is_told(whole, examples, monkeypatch, capsys):
  task, model = loading.load_task_and_model(small_runs.directory(whole))
  weights = model.get_weights()
  model.set_weights([np.full_like(w, np.nan) for w in weights])
  monkeypatch.setattr(loading, 'load_task_and_model', lambda _: (task, model))
  x, y = evaluation.read_examples(examples)
  assert np.isnan(evaluation.accuracy('run', x, y))
  values = flags.FlagValues()
  evaluation.define_flags(values)
  values(['evaluate', '--run_dir=run', f'--examples={examples}'])
  evaluation._evaluate([], values)
  assert capsys.readouterr().out.startswith('Accuracy NaN (')


def test_what_cannot_be_evaluated_is_told(whole, tmp_path):
  directory = small_runs.directory(whole)
  x, y = np.zeros((3, 28, 28), np.float32), np.array([0, 1, 2])
  for wrong, message in (
    ((x[:, 1:], y), r'have the shape \[28, 28, 1\], .* have \[27, 28\]'),
    ((x, y + 8), 'has classes from 0 to 9, but .* from 8 to 10'),
  ):
    with pytest.raises(OptionError, match=message):
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
    (dict(x=np.array(['a']), y=np.zeros(1, int)), 'must hold finite numbers x'),
    (dict(x=np.full((1, 3), np.nan), y=np.zeros(1, int)), 'finite numbers x'),
    (dict(x=np.ones((1, 3), complex), y=np.zeros(1, int)), 'complex128'),
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
  x = np.full((2, 28, 28, 1), background, np.float32)
  x[0, 3:7, 20:22] = 1 - background  # The other one is empty.
  enlarged = evaluation.enlarge_ink(x, 20)
  assert enlarged.shape == x.shape
  rows, columns = np.nonzero(np.abs(enlarged[0, ..., 0] - background) > 0.5)
  assert (rows.min(), rows.max() + 1) == (4, 24)
  assert (columns.min(), columns.max() + 1) == (9, 19)
  np.testing.assert_array_equal(enlarged[1], x[1])
  for wrong in (x[..., 0], x[:, :19], np.repeat(x, 3, axis=-1)):
    with pytest.raises(
      SettingsError, match='ink_side=20 goes only with images'
    ):
      evaluation.enlarge_ink(wrong, 20)


def test_both_flags_are_required():
  for given in (dict(run_dir=('a',)), dict(examples='a.npz')):
    with pytest.raises(SettingsError, match='is required'):
      evaluation.Options(**given)
