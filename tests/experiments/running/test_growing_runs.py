"""Runs that are finished, or go on with more rounds."""

import dataclasses
import json
import subprocess
import sys

import fault_injection
import pandas as pd
import pytest
import small_runs

from tff_fedsynth.experiments.comparing import comparison
from tff_fedsynth.experiments.pictures import showing
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import rounds
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.server.config import CentralPrivacy


@pytest.fixture(scope='module')
def grown(whole, tmp_path_factory):
  """The same run, which was finished after three rounds before."""
  directory = tmp_path_factory.mktemp('runs') / 'grown'
  short = small_runs.changed(whole, output_dir=str(directory), total_rounds=3)
  assert showing.execute(short)['rounds'] == 3
  assert _rounds_saved(directory) == [3, 2, 0]
  run = small_runs.changed(short, total_rounds=5)
  assert showing.execute(run)['rounds'] == 5
  return run


def _rounds_saved(directory):
  return [round_num for round_num, _ in rounds.checkpoints(directory)]


def _summary(run):
  summary = json.loads((small_runs.directory(run) / 'summary.json').read_text())
  del summary['seconds_per_round'], summary['seconds_per_evaluation']
  return summary


def _snapshot(directory):
  return {
    path: (path.stat().st_mtime_ns, path.is_dir() or path.read_bytes())
    for path in directory.rglob('*')
  }


def test_the_last_round_is_saved(whole):
  assert _rounds_saved(small_runs.directory(whole)) == [5, 4, 2, 0]


def test_a_run_that_grew_is_the_longer_run(whole, grown):
  metrics = fault_injection.metrics(small_runs.directory(whole))
  assert len(metrics) == 6
  assert fault_injection.metrics(small_runs.directory(grown)) == metrics
  assert _summary(grown) == _summary(whole)
  pictures = [
    (small_runs.directory(r) / 'synthetic.png') for r in (whole, grown)
  ]
  assert pictures[0].read_bytes() == pictures[1].read_bytes()
  assert (
    '--total_rounds=5'
    in (small_runs.directory(grown) / 'flags.txt').read_text()
  )


def test_a_run_may_not_shrink_nor_change_as_it_grows(grown):
  before = _snapshot(small_runs.directory(grown))
  with pytest.raises(
    SettingsError, match="--total_rounds: '5' there, '4' now. .* may grow"
  ):
    runner.read_summary(small_runs.growing(small_runs.directory(grown), 4))
  changed = dataclasses.replace(grown.settings, total_rounds=6, seed=1)
  with pytest.raises(
    SettingsError, match="other flags: --seed: '0' there, '1' now. "
  ):
    runner.execute(small_runs.changed(grown, total_rounds=6, seed=1))
  with pytest.raises(SettingsError, match='holds a run with other flags'):
    building.build(changed)
  assert _snapshot(small_runs.directory(grown)) == before


def test_a_run_that_is_stopped_as_it_grows_is_not_finished(whole, tmp_path):
  short = small_runs.changed(
    whole, output_dir=str(tmp_path / 'run'), total_rounds=3
  )
  runner.execute(short)
  run = small_runs.changed(short, total_rounds=5)
  small_runs.stop(run, before=4)
  # What the shorter run reached is still there, but it is no end.
  assert (tmp_path / 'run' / 'summary.json').exists()
  assert runner.read_summary(run.settings) is None
  with pytest.raises(SettingsError, match="'5' there, '3' now"):
    runner.read_summary(short.settings)
  runner.execute(run)
  metrics = fault_injection.metrics(tmp_path / 'run')
  assert metrics == fault_injection.metrics(small_runs.directory(whole))


def test_a_finished_run_says_so_and_is_left_alone(whole):
  before = _snapshot(small_runs.directory(whole))
  # The flags that a run has written are those of the command that made it.
  directory = small_runs.directory(whole)
  result = subprocess.run(
    [
      *(sys.executable, '-m', 'tff_fedsynth.experiments.train'),
      *(f'--flagfile={directory}/flags.txt', f'--output_dir={directory}'),
    ],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert result.returncode == 0, result.stderr
  summary = _summary(whole)
  assert result.stdout == (
    f'{small_runs.directory(whole)} is finished: accuracy {summary["last_accuracy"]:.4f} '
    f'in the last evaluation, {summary["final_accuracy"]:.4f} in the mean of '
    'the last ones, after 5 rounds; nothing to do.\n'
  )
  assert _snapshot(small_runs.directory(whole)) == before


def test_metrics_without_the_newest_column_go_on(whole, tmp_path):
  # As a run that was begun before there was that column.
  run = small_runs.changed(
    whole, output_dir=str(tmp_path / 'run'), total_rounds=2
  )
  runner.execute(run)
  path = tmp_path / 'run' / 'metrics.csv'
  pd.read_csv(path, dtype=str).drop(columns=rounds.UPLINK).to_csv(
    path, index=False
  )
  runner.execute(small_runs.changed(run, total_rounds=5))
  expected = fault_injection.metrics(small_runs.directory(whole))
  found = fault_injection.metrics(tmp_path / 'run')
  bytes_up = [row.pop(rounds.UPLINK) for row in found]
  assert [row.pop(rounds.UPLINK) for row in expected][3:] == bytes_up[3:]
  assert bytes_up[:3] == [''] * 3 and found == expected


def test_epsilon_follows_the_rounds(tmp_path):
  run = building.build(
    small_runs.growing(
      tmp_path,
      1,
      dp_clip_norm=0.1,
      dp_noise_multiplier=2.0,
      dp_delta=1e-4,
    )
  )
  # Two of 40 clients.
  privacy = CentralPrivacy(0.1, 2.0, 2, 1e-4)
  for total in (1, 2):
    summary = runner.execute(small_runs.changed(run, total_rounds=total))
    assert summary['epsilon'] == privacy.epsilon(40, total)
    assert summary['delta'] == 1e-4


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
