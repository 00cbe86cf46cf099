"""Comparisons: what is run, what is not run again, and what is reported."""

import errno
import json
import pathlib
import shlex

from absl import flags
import conftest
import fake_comparison
import matplotlib.image
import pandas as pd
import pytest

from tff_fedsynth.errors import OptionError
from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments.comparing import compare_command
from tff_fedsynth.experiments.comparing import comparison as comparison_lib
from tff_fedsynth.experiments.comparing.comparison import Comparison
from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.experiments.records import grid as grid_lib
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError

pytestmark = pytest.mark.usefixtures('fixed_code')


def _settings_of(commands, directory):
  """What `fedsynth-train` makes of command lines."""
  for command in commands:
    program, *arguments = shlex.split(command)
    assert program == 'fedsynth-train'
    assert arguments.pop() == '--output_dir=DIR'
    values = flags.FlagValues()
    settings_lib.define_flags(registry.own_options(), values)
    values(['program', *arguments, f'--output_dir={directory}'])
    yield settings_lib.from_flags(registry.own_options(), values)


def test_a_real_comparison(tmp_path):
  comparison = fake_comparison.comparison(tmp_path, methods=('drive', 'qsgd'))
  comparison_lib.compare(comparison)
  frame = fake_comparison.results(tmp_path)
  assert list(frame.method) == ['fedavg', 'drive', 'qsgd']
  assert list(frame.status) == ['finished', 'finished', 'too large']
  assert list(frame.uplink_bytes[:2]) == [636_044, 1272]
  assert 'at least 40997 bytes' in frame.error[2]
  assert (frame.commit == conftest.CODE['commit']).all()
  assert (frame.tree == 'clean').all()
  # One that did not fit can be tried again just so.
  for row, settings in zip(
    frame.itertuples(), _settings_of(frame.command, tmp_path)
  ):
    assert settings.method == row.method and settings.total_rounds == 2
    assert settings.options == {'num_clients': 40}
    assert json.loads(row.flags)['seed'] == row.seed
  table = (tmp_path / 'table.md').read_text()
  assert '[1]' not in table
  assert r'\toprule' in (tmp_path / 'table.tex').read_text()
  assert f'FedAvg: {frame.final_accuracy[0]:.3f} with 636,044 bytes' in table
  assert f'| drive | **{frame.final_accuracy[1]:.3f}** |' in table
  assert '| qsgd | too large |' in table
  for name in ('accuracy_over_uplink.png', 'accuracy_over_rounds.png'):
    assert matplotlib.image.imread(tmp_path / name).std() > 0.05
  assert 'qsgd</td>' in (tmp_path / 'report.html').read_text()


def test_finished_cells_are_not_run_again(tmp_path, monkeypatch):
  fake = fake_comparison.FakeRunner(monkeypatch)
  comparison_lib.compare(fake_comparison.comparison(tmp_path))
  assert len(fake.executed) == 2
  before = fake_comparison.results(tmp_path)
  comparison_lib.compare(fake_comparison.comparison(tmp_path))
  assert len(fake.executed) == 2
  pd.testing.assert_frame_equal(fake_comparison.results(tmp_path), before)
  comparison_lib.compare(fake_comparison.comparison(tmp_path, seeds=(0, 1)))
  assert [s.seed for s in fake.executed[2:]] == [1, 1]


def test_a_failed_cell_is_reported_and_tried_again(tmp_path, monkeypatch):
  broken = [('drive', 0)]
  fake = fake_comparison.FakeRunner(
    monkeypatch,
    lambda s: (
      RuntimeError('out of luck') if (s.method, s.seed) in broken else None
    ),
  )
  comparison = fake_comparison.comparison(
    tmp_path, methods=('drive', 'top_k'), seeds=(0, 1)
  )
  with pytest.raises(
    grid_lib.FailedCellsError,
    match=r'^1 of 6 cells failed: runs/drive/ratio_500/seed_0 \(RuntimeError: out '
    r'of luck\)\. The same command tries them again, and leaves the others alone\.$',
  ):
    comparison_lib.compare(comparison)
  frame = fake_comparison.results(tmp_path).set_index(['method', 'seed'])
  assert frame.status['drive', 0] == 'failed'
  assert (frame.status.drop(('drive', 0)) == 'finished').all()
  table = (tmp_path / 'table.md').read_text()
  assert 'Failed: drive 1/500, seed 0: RuntimeError: out of luck' in table
  assert '(1 failed)' in table
  broken.clear()
  executed = len(fake.executed)
  comparison_lib.compare(comparison)
  assert [(s.method, s.seed) for s in fake.executed[executed:]] == [
    ('drive', 0)
  ]
  assert (fake_comparison.results(tmp_path).status == 'finished').all()


def test_an_interrupted_comparison_reports_what_it_has_and_goes_on(
  tmp_path, monkeypatch
):
  stop = [True]
  fake = fake_comparison.FakeRunner(
    monkeypatch,
    lambda s: KeyboardInterrupt() if s.method == 'top_k' and stop else None,
  )
  comparison = fake_comparison.comparison(tmp_path, methods=('drive', 'top_k'))
  with pytest.raises(KeyboardInterrupt):
    comparison_lib.compare(comparison)
  assert list(fake_comparison.results(tmp_path).method) == ['fedavg', 'drive']
  stop.clear()
  comparison_lib.compare(comparison)
  assert list(fake_comparison.results(tmp_path).method) == [
    'fedavg',
    'drive',
    'top_k',
  ]
  assert [s.method for s in fake.executed] == [
    'fedavg',
    'drive',
    'top_k',
    'top_k',
  ]


def test_a_tuning_run_that_failed_is_told(tmp_path, monkeypatch):
  fake_comparison.FakeRunner(
    monkeypatch,
    lambda s: (
      RuntimeError('out of luck')
      if (s.method, s.server_learning_rate, s.seed) == ('drive', 0.3, 100)
      else None
    ),
  )
  comparison = fake_comparison.comparison(tmp_path, **fake_comparison.TUNED)
  with pytest.raises(
    grid_lib.FailedCellsError,
    match='^1 of 6 cells failed: tuning/server_learning_rate_0.3/drive/',
  ):
    comparison_lib.compare(comparison)
  # The other rate was used.
  frame = fake_comparison.results(tmp_path).set_index('method')
  assert frame.server_learning_rate['drive'] == 0.1
  assert frame.status['drive'] == 'finished'


def test_a_full_disk_stops_at_once(tmp_path, monkeypatch):
  fake = fake_comparison.FakeRunner(
    monkeypatch,
    lambda s: OSError(errno.ENOSPC, 'x') if s.method == 'drive' else None,
  )
  comparison = fake_comparison.comparison(tmp_path, methods=('drive', 'top_k'))
  with pytest.raises(OSError) as error:
    comparison_lib.compare(comparison)
  assert cli.is_disk_full(error.value)
  assert [s.method for s in fake.executed] == ['fedavg', 'drive']
  assert list(fake_comparison.results(tmp_path).method) == ['fedavg']


def test_a_table_is_whole_on_a_full_disk(tmp_path, monkeypatch):
  fake_comparison.FakeRunner(monkeypatch)
  comparison_lib.compare(fake_comparison.comparison(tmp_path))
  names = ('results.csv', 'table.md', 'report.html', 'curves.csv', 'flags.json')
  before = {name: (tmp_path / name).read_bytes() for name in names}

  def write(path, text, **_):
    path.write_bytes(text[:20].encode())
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(pathlib.Path, 'write_text', write)
  with pytest.raises(OSError, match='No space left'):
    comparison_lib.compare(
      fake_comparison.comparison(tmp_path, methods=('top_k',))
    )
  assert before == {name: (tmp_path / name).read_bytes() for name in names}
  assert not list(tmp_path.glob('*.part'))


def test_all_is_written_after_each_cell(tmp_path, monkeypatch):
  found = []

  def look(settings):
    path = tmp_path / 'results.csv'
    rows = list(pd.read_csv(path).method) if path.exists() else []
    for name in ('table.md', 'report.html'):
      text = (tmp_path / name).read_text() if rows else ''
      assert all(method in text.lower() for method in rows)
    found.append((settings.method, rows))

  fake_comparison.FakeRunner(monkeypatch, look)
  comparison_lib.compare(
    fake_comparison.comparison(tmp_path, methods=('drive', 'top_k'))
  )
  assert found == [
    ('fedavg', []),
    ('drive', ['fedavg']),
    ('top_k', ['fedavg', 'drive']),
  ]


def test_the_table_is_printed_and_the_failed_cells_end_the_command(
  tmp_path, monkeypatch, capsys
):
  fake_comparison.FakeRunner(
    monkeypatch,
    lambda s: RuntimeError('out of luck') if s.method == 'drive' else None,
  )
  comparison = fake_comparison.comparison(tmp_path)
  monkeypatch.setattr(compare_command, 'read', lambda: comparison)
  with pytest.raises(
    grid_lib.FailedCellsError,
    match='^1 of 2 cells failed: runs/drive/ratio_500/',
  ):
    compare_command._main([])
  assert 'FedAvg: 0.100' in capsys.readouterr().out


def test_the_reference_alone_can_be_reported(tmp_path, monkeypatch):
  fake_comparison.FakeRunner(monkeypatch)
  comparison_lib.compare(
    fake_comparison.comparison(tmp_path, methods=('fedavg',))
  )
  assert list(fake_comparison.results(tmp_path).method) == ['fedavg']
  assert (tmp_path / 'accuracy_over_rounds.png').exists()


def test_options_go_to_the_methods_that_have_them(tmp_path, monkeypatch):
  fake = fake_comparison.FakeRunner(monkeypatch)
  comparison_lib.compare(
    fake_comparison.comparison(tmp_path, options={'drive_scale': 'mse'})
  )
  assert [s.options for s in fake.executed] == [
    {'num_clients': 40},
    {'num_clients': 40, 'drive_scale': 'mse'},
  ]


def test_the_command_makes_the_same_comparison(tmp_path):
  first = fake_comparison.comparison(
    tmp_path,
    methods=('drive', 'fedsynth_drive'),
    ratios=(100.0, 500.0),
    seeds=(0, 1),
    options={'drive_scale': 'mse'},
    tuning_options={'fedsynth_drive': ('residual_fraction', (0.0, 0.5))},
    **fake_comparison.TUNED,
  )
  program, *arguments = shlex.split(first.command)
  assert program == 'fedsynth-compare'
  assert f'--output_dir={tmp_path}' not in arguments
  values = flags.FlagValues()
  compare_command.define_flags(values)
  command_flags.parse([program, *arguments], values)
  assert compare_command.read(values).command == first.command


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(methods=('drive', 'zip')), "Unknown method 'zip'"),
    (dict(methods=()), 'no methods were given'),
    (dict(seeds=()), 'no seeds were given'),
    (
      dict(tuning_options={'drive': ('drive_scale', ('mse',))}),
      'needs --tune, and drive',
    ),
    (
      dict(tuning_rates=(1.0,), tuning_seeds=(0, 5)),
      r'Seeds \[0\] are in --seeds and in --tuning_seeds',
    ),
    (dict(tuning_rates=(1.0,)), '--tune needs --tuning_seeds'),
    (dict(options={'low_rank_bits': 8}), '--low_rank_bits is a flag of none'),
    (dict(base=Settings()), '--output_dir is required'),
    (dict(base=Settings(output_dir='x', task='y')), "Unknown task 'y'"),
  ],
)
def test_refusals_come_before_training(arguments, message, tmp_path):
  directory = tmp_path / 'new'
  with pytest.raises(OptionError, match=message):
    comparison_lib.compare(fake_comparison.comparison(directory, **arguments))
  assert not directory.exists()


def test_wrong_options_of_a_method_show_before_training(tmp_path):
  comparison = fake_comparison.comparison(
    tmp_path / 'new', options={'drive_scale': 'big'}
  )
  with pytest.raises(ValueError, match="Unknown drive_scale 'big'"):
    comparison_lib.compare(comparison)
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(
  'evaluation, tuning, message',
  [
    (3, {}, 'rounds_per_evaluation=3 is more than the 2 rounds'),
    (
      2,
      fake_comparison.TUNED,
      'rounds_per_evaluation=2 is more than the 1 rounds',
    ),
  ],
)
def test_runs_without_an_accuracy_are_refused(evaluation, tuning, message):
  base = Settings(
    output_dir='x', total_rounds=2, rounds_per_evaluation=evaluation
  )
  with pytest.raises(SettingsError, match=message):
    Comparison(base, ('drive',), (500.0,), (0,), **tuning)
