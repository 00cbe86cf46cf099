"""Whole runs, on few clients and rounds."""

import dataclasses
import json

from absl import flags
import fault_injection
import matplotlib.image
import numpy as np
import pytest
import small_runs

from tff_fedsynth.experiments.basics import training
from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.experiments.pictures import showing
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import rounds
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.settings.settings import SettingsError


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A run that was never stopped, and its summary."""
  directory = tmp_path_factory.mktemp('runs') / 'fedsynth'
  run = building.build(small_runs.settings(directory))
  return run, showing.execute(run)


def test_a_run_writes_all_its_results(finished):
  run, summary = finished
  directory = small_runs.directory(run)
  assert {p.name for p in directory.iterdir()} == {
    'checkpoints',
    'flags.txt',
    'metrics.csv',
    'provenance.json',
    'summary.json',
    'synthetic.png',
    'tensorboard',
  }
  assert json.loads((directory / 'summary.json').read_text()) == summary
  assert list((directory / 'tensorboard').glob('events*'))
  flags_text = (directory / 'flags.txt').read_text().splitlines()
  assert '--method=fedsynth' in flags_text and '--seed=0' in flags_text
  assert not any(line.endswith('=') for line in flags_text)
  # They are a file for --flagfile.
  own, values = registry.own_options(), flags.FlagValues()
  settings_lib.define_flags(own, values)
  given = [f'--flagfile={directory}/flags.txt', '--output_dir=new']
  command_flags.parse(['train', *given], values)
  again = settings_lib.from_flags(own, values)
  assert again == dataclasses.replace(run.settings, output_dir='new')
  picture = matplotlib.image.imread(directory / 'synthetic.png')
  assert picture.std() > 0.05  # Not a blank page.


def test_summary(finished):
  run, summary = finished
  assert summary['parameters'] == 159_010
  assert summary['model_bytes'] == 636_040
  assert summary['uplink_bytes'] <= 636_040 / 2000
  assert summary['compression_ratio'] == pytest.approx(
    636_040 / summary['uplink_bytes']
  )
  rows = fault_injection.metrics(small_runs.directory(run))
  assert [int(r['round']) for r in rows] == [0, 1, 2, 3]
  accuracies = [float(r[rounds.ACCURACY]) for r in rows]
  # Those of the second half.
  assert summary['final_accuracy'] == pytest.approx(np.mean(accuracies[2:]))
  assert summary['final_evaluations'] == 2
  assert summary['last_accuracy'] == accuracies[-1]
  assert summary['best_accuracy'] == max(accuracies[1:])
  assert {n: summary[n] for n in provenance.COLUMNS} == provenance.of_process()
  assert summary['command'].startswith('fedsynth-train --task=mnist_digits ')
  assert summary['flags']['synthesis_iterations'] == 5
  assert summary['rounds'] == 3
  assert summary['seconds_per_round'] > 0
  for name in ('task', 'method', 'model', 'seed', 'downlink_bytes'):
    assert name in summary
  assert float(rows[-1]['finalizer/rejected_clients']) == 0
  assert float(rows[-1]['client_work/synthesis/cosine']) > 0


@pytest.mark.parametrize(
  'evaluated, final',
  [
    ([], []),
    ([1], [1]),
    ([10, 20, 30, 40], [30, 40]),
    ([40, 10, 35, 30, 25, 20], [25, 30, 35, 40]),
    (range(1, 41), [36, 37, 38, 39, 40]),
    ([1, 2, 3, 100], [100]),
  ],
)
def test_final_evaluations_are_late_ones(evaluated, final):
  assert runner.final_rounds(evaluated) == final


def test_a_run_that_is_never_evaluated_says_so(tmp_path):
  summary = small_runs.train(
    tmp_path,
    method='fedavg',
    compression_ratio=None,
    total_rounds=1,
    rounds_per_evaluation=2,
  )
  assert summary['uplink_bytes'] == 636_044
  assert not (tmp_path / 'synthetic.png').exists()
  for name in ('final_accuracy', 'last_accuracy', 'best_accuracy'):
    assert summary[name] is None
  assert json.loads((tmp_path / 'summary.json').read_text()) == summary
  line = training.result(summary)
  assert 'was not evaluated after round 0' in line
  assert 'rounds_per_evaluation' in line


def test_the_result_line(finished):
  summary = dict(finished[1], last_accuracy=0.5, final_accuracy=0.25)
  assert training.result(summary) == (
    'Accuracy 0.5000 in the last evaluation, 0.2500 in the mean of the last 2, '
    'after 3 rounds at 1/2092 of the model.'
  )


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
  finished, tmp_path, monkeypatch
):
  """Stops before the second checkpoint, with metrics of round 2 written.

  What goes on is built again: the same seed gives the same metrics.
  """
  whole, expected = finished
  directory = tmp_path / 'stopped'
  run = small_runs.changed(whole, output_dir=str(directory))
  small_runs.stop(run, before=2)
  assert not (directory / 'summary.json').exists()
  assert [int(r['round']) for r in fault_injection.metrics(directory)] == [
    0,
    1,
    2,
  ]
  here = provenance.of_process()
  other = {**here, 'commit': 'e' * 40}
  monkeypatch.setattr(provenance, 'of_process', lambda: other)
  summary = runner.execute(building.build(run.settings))
  assert fault_injection.metrics(directory) == fault_injection.metrics(
    small_runs.directory(whole)
  )
  # The first round is of the one, the others are of the other.
  assert summary['commit'] == f'{here["commit"]}+{"e" * 40}'
  assert summary['final_accuracy'] == expected['final_accuracy']


def test_running_a_finished_run_again_changes_nothing(finished):
  run, summary = finished
  path = small_runs.directory(run) / 'metrics.csv'
  before = path.read_bytes()
  assert runner.execute(run) == summary
  assert path.read_bytes() == before


def test_other_flags_in_the_same_directory_are_refused(finished):
  directory = small_runs.directory(finished[0])
  before = (directory / 'metrics.csv').read_bytes()
  with pytest.raises(SettingsError, match="--seed: '0' there, '7' now"):
    building.build(small_runs.settings(directory, seed=7))
  assert (directory / 'metrics.csv').read_bytes() == before


def test_a_directory_of_something_else_is_refused(tmp_path):
  (tmp_path / 'thesis.tex').write_text('years of work')
  with pytest.raises(SettingsError, match='is not empty and holds no run'):
    building.build(small_runs.settings(tmp_path))


def test_a_run_with_a_defense(tmp_path):
  small_runs.train(
    tmp_path,
    total_rounds=1,
    update_clip_norm=1e-6,
    aggregation='trimmed_mean',
    max_client_weight=1.0,
  )
  before, after = (
    float(r['evaluation/loss']) for r in fault_injection.metrics(tmp_path)
  )
  # Clipped to next to nothing.
  assert after == pytest.approx(before, abs=1e-4)
