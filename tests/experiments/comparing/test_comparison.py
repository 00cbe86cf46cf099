"""Comparisons: what is run, what is not run again, and what is reported."""

import json
import shlex

from absl import flags
import conftest
import fake_comparison
import matplotlib.image
import pandas as pd
import pytest

from tff_fedsynth.errors import OptionError
from tff_fedsynth.experiments.comparing import compare_command
from tff_fedsynth.experiments.comparing import comparison as comparison_lib
from tff_fedsynth.experiments.comparing.comparison import Comparison
from tff_fedsynth.experiments.methods import registry
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
  comparison_lib.compare(comparison)
  frame = fake_comparison.results(tmp_path).set_index(['method', 'seed'])
  assert frame.status['drive', 0] == 'failed'
  assert (frame.status.drop(('drive', 0)) == 'finished').all()
  table = (tmp_path / 'table.md').read_text()
  assert 'Failed: drive, 1/500, seed 0: RuntimeError: out of luck' in table
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
