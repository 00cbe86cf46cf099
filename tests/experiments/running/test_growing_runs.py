"""Runs that are finished, go on, or are loaded; and what TensorBoard gets."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import types

import fault_injection
import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing import event_accumulator
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import experiments
from tff_fedsynth.experiments.comparing import comparison
from tff_fedsynth.experiments.pictures import showing
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import rounds
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.experiments.workers import anywhere
from tff_fedsynth.payload.spec import SyntheticData
from tff_fedsynth.server.central_privacy import CentralPrivacy

# Not a divisor of the numbers of rounds here.
EVERY = 2


def _settings(directory, total_rounds, **options):
  return Settings(
    output_dir=str(directory),
    method='fedsynth',
    compression_ratio=2000.0,
    clients_per_round=2,
    local_epochs=1,
    batch_size=25,
    total_rounds=total_rounds,
    rounds_per_checkpoint=EVERY,
    client_weighting='uniform',
    options={'num_clients': 40, 'synthesis_iterations': 5, **options},
  )


def _with(run, **fields):
  """The same run with other settings, without building it again."""
  settings = dataclasses.replace(run.settings, **fields)
  return dataclasses.replace(
    run, setup=dataclasses.replace(run.setup, settings=settings)
  )


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run of five rounds, never stopped."""
  directory = tmp_path_factory.mktemp('runs') / 'whole'
  run = building.build(_settings(directory, 5))
  runner.execute(run)
  return run


@pytest.fixture(scope='module')
def grown(whole, tmp_path_factory):
  """The same run, which was finished after three rounds before."""
  directory = tmp_path_factory.mktemp('runs') / 'grown'
  short = _with(whole, output_dir=str(directory), total_rounds=3)
  assert runner.execute(short)['rounds'] == 3
  assert _rounds_saved(directory) == [3, 2, 0]
  run = _with(short, total_rounds=5)
  assert runner.execute(run)['rounds'] == 5
  return run


def _directory(run):
  return pathlib.Path(run.settings.output_dir)


def _rounds_saved(directory):
  return [round_num for round_num, _ in rounds.checkpoints(directory)]


def _summary(run):
  summary = json.loads((_directory(run) / 'summary.json').read_text())
  del summary['seconds_per_round']
  return summary


def _snapshot(directory):
  return {
    path: (path.stat().st_mtime_ns, path.is_dir() or path.read_bytes())
    for path in directory.rglob('*')
  }


def test_the_last_round_is_saved(whole):
  assert _rounds_saved(_directory(whole)) == [5, 4, 2, 0]


def test_a_run_that_grew_is_the_longer_run(whole, grown):
  metrics = fault_injection.metrics(_directory(whole))
  assert len(metrics) == 6
  assert fault_injection.metrics(_directory(grown)) == metrics
  assert _summary(grown) == _summary(whole)
  pictures = [(_directory(r) / 'synthetic.png') for r in (whole, grown)]
  assert pictures[0].read_bytes() == pictures[1].read_bytes()
  assert '--total_rounds=5' in (_directory(grown) / 'flags.txt').read_text()


def test_a_run_may_not_shrink_nor_change_as_it_grows(grown):
  before = _snapshot(_directory(grown))
  with pytest.raises(
    SettingsError, match="--total_rounds: '5' there, '4' now. .* may grow"
  ):
    runner.read_summary(_settings(_directory(grown), 4))
  changed = dataclasses.replace(grown.settings, total_rounds=6, seed=1)
  with pytest.raises(
    SettingsError, match="other flags: --seed: '0' there, '1' now. "
  ):
    runner.execute(_with(grown, total_rounds=6, seed=1))
  with pytest.raises(SettingsError, match='holds a run with other flags'):
    building.build(changed)
  assert _snapshot(_directory(grown)) == before


class _StoppedError(Exception):
  pass


def test_a_run_that_is_stopped_as_it_grows_is_not_finished(
  whole, tmp_path, monkeypatch
):
  short = _with(whole, output_dir=str(tmp_path / 'run'), total_rounds=3)
  runner.execute(short)
  run = _with(short, total_rounds=5)
  save = tff.program.FileProgramStateManager.save

  async def save_or_stop(self, state, version):
    if version == 4:
      raise _StoppedError()
    await save(self, state, version)

  with monkeypatch.context() as patch:
    patch.setattr(tff.program.FileProgramStateManager, 'save', save_or_stop)
    with pytest.raises(_StoppedError):
      runner.execute(run)
  # What the shorter run reached is still there, but it is no end.
  assert (tmp_path / 'run' / 'summary.json').exists()
  assert runner.read_summary(run.settings) is None
  with pytest.raises(SettingsError, match="'5' there, '3' now"):
    runner.read_summary(short.settings)
  runner.execute(run)
  metrics = fault_injection.metrics(tmp_path / 'run')
  assert metrics == fault_injection.metrics(_directory(whole))


def test_a_finished_run_says_so_and_is_left_alone(whole):
  before = _snapshot(_directory(whole))
  flags = [f'--{k}={v}' for k, v in whole.settings.as_flags().items() if v]
  result = subprocess.run(
    [
      *(sys.executable, '-m', 'tff_fedsynth.experiments.train'),
      *(*flags, f'--output_dir={_directory(whole)}'),
    ],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert result.returncode == 0, result.stderr
  summary = _summary(whole)
  assert result.stdout == (
    f'{_directory(whole)} is finished: accuracy {summary["last_accuracy"]:.4f} '
    f'in the last evaluation, {summary["final_accuracy"]:.4f} in the mean of '
    'the last ones, after 5 rounds; nothing to do.\n'
  )
  assert _snapshot(_directory(whole)) == before


def test_metrics_without_the_newest_column_go_on(whole, tmp_path):
  # As a run that was begun before there was that column.
  run = _with(whole, output_dir=str(tmp_path / 'run'), total_rounds=2)
  runner.execute(run)
  path = tmp_path / 'run' / 'metrics.csv'
  pd.read_csv(path, dtype=str).drop(columns=rounds.UPLINK).to_csv(
    path, index=False
  )
  runner.execute(_with(run, total_rounds=5))
  expected = fault_injection.metrics(_directory(whole))
  found = fault_injection.metrics(tmp_path / 'run')
  bytes_up = [row.pop(rounds.UPLINK) for row in found]
  assert [row.pop(rounds.UPLINK) for row in expected][3:] == bytes_up[3:]
  assert bytes_up[:3] == [''] * 3 and found == expected


def test_epsilon_follows_the_rounds(tmp_path):
  run = building.build(
    _settings(tmp_path, 1, dp_clip_norm=0.1, dp_noise_multiplier=2.0)
  )
  privacy = CentralPrivacy(0.1, 2.0, 2, 1e-5)
  for total in (1, 2):
    summary = runner.execute(_with(run, total_rounds=total))
    assert summary['epsilon'] == privacy.epsilon(40, total)


def test_cells_of_a_comparison_grow(tmp_path):
  for total in (1, 2):
    base = Settings(
      output_dir=str(tmp_path),
      total_rounds=total,
      clients_per_round=2,
      local_epochs=1,
      batch_size=50,
      options={'num_clients': 40},
    )
    comparison.compare(
      comparison.Comparison(base, ('fedavg',), (500.0,), seeds=(0,))
    )
    (metrics,) = (tmp_path / 'runs').rglob('metrics.csv')
    assert len(fault_injection.metrics(metrics.parent)) == total + 1
    assert f' {total} rounds' in (tmp_path / 'table.md').read_text()
    (cell,) = pd.read_csv(tmp_path / 'results.csv').itertuples()
    assert cell.status == 'finished'
    summary = json.loads((metrics.parent / 'summary.json').read_text())
    assert cell.final_accuracy == pytest.approx(summary['final_accuracy'])
    assert summary['rounds'] == total


def _events(directory):
  events = event_accumulator.EventAccumulator(str(directory / 'tensorboard'))
  return events.Reload()


def test_tensorboard_gets_bytes_and_pictures(whole):
  events = _events(_directory(whole))
  a_round = 2 * whole.communication.uplink_bytes
  bytes_up = [
    (e.step, tf.make_ndarray(e.tensor_proto).item())
    for e in events.Tensors(rounds.UPLINK)
  ]
  assert bytes_up == [(i, i * a_round) for i in range(6)]
  column = [
    row[rounds.UPLINK] for row in fault_injection.metrics(_directory(whole))
  ]
  assert column == [str(i * a_round) for i in range(6)]
  pictures = events.Tensors('synthetic')
  assert [p.step for p in pictures] == [0, 2, 4, 5]
  # Width, height, and a PNG that differs from round to round.
  pngs = [p.tensor_proto.string_val[2] for p in pictures]
  assert all(p.startswith(b'\x89PNG') for p in pngs) and len(set(pngs)) == 4


def test_tensorboard_gets_synthetic_text(tmp_path, monkeypatch):
  names = ['<pad>', 'to', 'be', '<eos>']
  inputs = np.array([[[[0.0, 0.9, 0.1, 0.0]]]], np.float32)
  labels = np.array([[[[0.0, 0.0, 1.0, 0.0]]]], np.float32)
  data = SyntheticData(inputs, labels, np.ones([1], np.float32), 1.0)
  monkeypatch.setattr(
    showing.Uploads, '_upload', lambda self, state, round_num: (data, 0.5)
  )
  run = types.SimpleNamespace(
    settings=Settings(output_dir=str(tmp_path)),
    built=types.SimpleNamespace(config='there are synthetic data'),
    task=types.SimpleNamespace(token_names=names),
  )
  weights = tff.learning.models.ModelWeights([np.eye(4)], [])
  state = types.SimpleNamespace(global_model_weights=weights)
  uploads = showing.Uploads(run)
  uploads.write(state)
  uploads.release(state, 7)
  (event,) = _events(tmp_path).Tensors('synthetic')
  text = event.tensor_proto.string_val[0].decode()
  assert event.step == 7 and "'to' 0.90" in text
  assert text == f'```\n{(tmp_path / "synthetic.txt").read_text()}```'


def _predictions(model, task):
  """Labels and logits of a Keras model on the test data."""
  inputs, labels = zip(*task.test_data.as_numpy_iterator())
  logits = [model(x).numpy() for x in inputs]
  return np.concatenate(labels), np.concatenate(logits)


def test_the_model_of_a_run_is_loaded(whole):
  weights = experiments.load_model(whole.settings.output_dir)
  model = experiments.load_keras_model(whole.settings.output_dir)
  for keras, loaded in zip(model.trainable_weights, weights.trainable):
    np.testing.assert_array_equal(keras, loaded)
  labels, logits = _predictions(model, whole.task)
  last = fault_injection.metrics(_directory(whole))[-1]
  assert np.mean(logits.argmax(-1) == labels) == pytest.approx(
    float(last[rounds.ACCURACY])
  )


def test_a_language_model_is_loaded(tmp_path):
  run = building.build(
    Settings(
      output_dir=str(tmp_path),
      task='plays_character',
      model='small_character_lstm',
      method='fedavg',
      total_rounds=1,
      options={'test_examples': 20},
    )
  )
  process = run.built.process
  random = np.random.RandomState(0)
  weights = tff.learning.models.ModelWeights(
    [
      w + random.normal(0, 0.1, w.shape).astype(w.dtype)
      for w in run.model.initial_weights[0]
    ],
    [],
  )
  state = process.set_model_weights(process.initialize(), weights)
  expected = rounds._evaluation(run)(state, [run.task.test_data])
  lines = [f'--{k}={v}\n' for k, v in run.settings.as_flags().items()]
  (tmp_path / 'flags.txt').write_text(''.join(lines))
  with anywhere.event_loop() as loop:
    manager = tff.program.FileProgramStateManager(tmp_path / 'checkpoints')
    loop.run_until_complete(manager.save(state, 1))
  model = experiments.load_keras_model(tmp_path)
  labels, logits = _predictions(model, run.task)
  counts = ~np.isin(labels, run.task.ignored_labels)
  hits = (logits.argmax(-1) == labels)[counts]
  assert 0 < np.mean(hits) == pytest.approx(expected['accuracy'])


def test_what_cannot_be_loaded_whole_is_told(whole, tmp_path, caplog):
  with pytest.raises(
    SettingsError, match='holds no run: there is no flags.txt'
  ):
    experiments.load_model(tmp_path)
  run = _with(whole, output_dir=str(tmp_path / 'run'), total_rounds=3)
  runner.execute(run)
  saved = tmp_path / 'run' / 'checkpoints'
  expected = experiments.load_model(tmp_path / 'run').trainable[0]
  assert not caplog.records
  (saved / 'program_state_3' / 'saved_model.pb').write_bytes(b'cut')
  older = experiments.load_model(tmp_path / 'run').trainable[0]
  assert 'Checkpoint 3 is broken' in caplog.text
  assert 'after 2 of 3 rounds' in caplog.text
  assert np.abs(older - expected).max() > 0
  for path in saved.iterdir():
    (path / 'saved_model.pb').write_bytes(b'cut')
  with pytest.raises(SettingsError, match='no checkpoint that can be read'):
    experiments.load_model(tmp_path / 'run')
