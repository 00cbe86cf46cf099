"""Comparisons: what is run, what is not run again, and what is reported."""

import itertools
import json
import pathlib
import types

from absl import flags
import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from tff_fedsynth.communication import BudgetTooSmallError
from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments import comparison as comparison_lib
from tff_fedsynth.experiments import report
from tff_fedsynth.experiments import runner
from tff_fedsynth.experiments.comparison import Comparison
from tff_fedsynth.experiments.settings import Settings
from tff_fedsynth.experiments.settings import SettingsError

FLAGS = pathlib.Path(comparison_lib.__file__).parent.glob('*.flags')


def _comparison(output_dir, options=None, **kwargs):
  base = Settings(
    output_dir=str(output_dir),
    total_rounds=2,
    clients_per_round=2,
    local_epochs=1,
    batch_size=40,
    options={'num_clients': 40, **(options or {})},
  )
  return Comparison(
    **{'base': base, 'methods': ('drive',), 'ratios': (500.0,), 'seeds': (0,)}
    | kwargs
  )


class _FakeRunner:
  """Stands for training: accuracy depends on the settings by a formula."""

  def __init__(self, monkeypatch, fail=lambda settings: None):
    self.executed = []
    self._fail = fail
    monkeypatch.setattr(runner, 'build', self.build)
    monkeypatch.setattr(runner, 'execute', self.execute)

  def build(self, settings, measured=None):
    if settings.method == 'sign' and settings.compression_ratio == 500:
      raise BudgetTooSmallError('sign uploads at least 19893 bytes')
    return types.SimpleNamespace(
      settings=settings,
      communication='metered',
      built=types.SimpleNamespace(chosen={}),
    )

  def execute(self, run, bar):
    s = run.settings
    self.executed.append(s)
    error = self._fail(s)
    if error:
      raise error
    directory = pathlib.Path(s.output_dir)
    directory.mkdir(parents=True)
    lines = [f'--{k}={v}' for k, v in s.as_flags().items()]
    (directory / 'flags.txt').write_text('\n'.join(lines))
    # Best at a server learning rate of 0.3.
    final = 0.8 + 0.01 * s.seed - abs(s.server_learning_rate - 0.3)
    # And at a share of 0.5.
    final -= abs(float(s.options.get('residual_fraction', 0.5)) - 0.5) / 10
    rounds = range(s.total_rounds + 1)
    frame = pd.DataFrame(
      {'round': rounds, runner.ACCURACY: final, runner.LOSS: 1 - final}
    )
    frame.to_csv(directory / 'metrics.csv', index=False)
    summary = dict(
      final_accuracy=final,
      best_accuracy=final,
      uplink_bytes=1000,
      downlink_bytes=5000,
      compression_ratio=636.0,
      model_bytes=636_040,
      seconds_per_round=1.0,
      description='',
    )
    (directory / 'summary.json').write_text(json.dumps(summary))
    if s.method == 'fedsynth_drive' and 'residual_fraction' not in s.options:
      chosen = json.dumps(dict(residual_fraction='0.4', client_time_ratio=None))
      (directory / 'chosen.json').write_text(chosen)
    bar.update(s.total_rounds)
    return summary


def _results(directory):
  return pd.read_csv(pathlib.Path(directory) / 'results.csv')


def test_a_real_comparison(tmp_path):
  comparison = _comparison(tmp_path, methods=('drive', 'qsgd'))
  comparison_lib.compare(comparison)
  frame = _results(tmp_path)
  assert list(frame.method) == ['fedavg', 'drive', 'qsgd']
  assert list(frame.status) == ['finished', 'finished', 'too large']
  assert list(frame.uplink_bytes[:2]) == [636_044, 1272]
  assert 'at least 40997 bytes' in frame.error[2]
  table = (tmp_path / 'table.md').read_text()
  assert f'FedAvg: {frame.final_accuracy[0]:.3f} with 636,044 bytes' in table
  assert f'| drive | **{frame.final_accuracy[1]:.3f}** |' in table
  assert '| qsgd | too large |' in table
  for name in ('accuracy_over_uplink.png', 'accuracy_over_rounds.png'):
    assert matplotlib.image.imread(tmp_path / name).std() > 0.05


def test_finished_cells_are_not_run_again(tmp_path, monkeypatch):
  fake = _FakeRunner(monkeypatch)
  comparison_lib.compare(_comparison(tmp_path))
  assert len(fake.executed) == 2
  before = _results(tmp_path)
  comparison_lib.compare(_comparison(tmp_path))
  assert len(fake.executed) == 2
  pd.testing.assert_frame_equal(_results(tmp_path), before)
  comparison_lib.compare(_comparison(tmp_path, seeds=(0, 1)))
  assert [s.seed for s in fake.executed[2:]] == [1, 1]


def test_a_failed_cell_is_reported_and_tried_again(tmp_path, monkeypatch):
  broken = [('drive', 0)]
  fake = _FakeRunner(
    monkeypatch,
    lambda s: (
      RuntimeError('out of luck') if (s.method, s.seed) in broken else None
    ),
  )
  comparison = _comparison(tmp_path, methods=('drive', 'top_k'), seeds=(0, 1))
  comparison_lib.compare(comparison)
  frame = _results(tmp_path).set_index(['method', 'seed'])
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
  assert (_results(tmp_path).status == 'finished').all()


def test_an_interrupted_comparison_reports_what_it_has_and_goes_on(
  tmp_path, monkeypatch
):
  stop = [True]
  fake = _FakeRunner(
    monkeypatch,
    lambda s: KeyboardInterrupt() if s.method == 'top_k' and stop else None,
  )
  comparison = _comparison(tmp_path, methods=('drive', 'top_k'))
  with pytest.raises(KeyboardInterrupt):
    comparison_lib.compare(comparison)
  assert list(_results(tmp_path).method) == ['fedavg', 'drive']
  stop.clear()
  comparison_lib.compare(comparison)
  assert list(_results(tmp_path).method) == ['fedavg', 'drive', 'top_k']
  assert [s.method for s in fake.executed] == [
    'fedavg',
    'drive',
    'top_k',
    'top_k',
  ]


def test_the_reference_alone_can_be_reported(tmp_path, monkeypatch):
  _FakeRunner(monkeypatch)
  comparison_lib.compare(_comparison(tmp_path, methods=('fedavg',)))
  assert list(_results(tmp_path).method) == ['fedavg']
  assert (tmp_path / 'accuracy_over_rounds.png').exists()


def test_tuning_takes_the_best_rate_on_other_seeds(tmp_path, monkeypatch):
  fake = _FakeRunner(monkeypatch)
  comparison = _comparison(
    tmp_path,
    methods=('drive', 'sign'),
    tuning_rates=(0.1, 0.3, 1.0),
    tuning_seeds=(100, 101),
    tuning_rounds=1,
  )
  comparison_lib.compare(comparison)
  # The same effort for each: 3 rates on 2 seeds. sign does not fit.
  tuned = [s for s in fake.executed if s.seed >= 100]
  assert len(tuned) == 2 * 6 and {s.total_rounds for s in tuned} == {1}
  frame = _results(tmp_path)
  finished = frame[frame.status == 'finished']
  assert list(finished.method) == ['fedavg', 'drive']
  assert (finished.server_learning_rate == 0.3).all()
  chosen = json.loads((tmp_path / 'tuning.json').read_text())
  assert chosen['drive, ratio 500.0'] == {
    'server_learning_rate': 0.3,
    'accuracies': pytest.approx({'0.1': 1.605, '0.3': 1.805, '1.0': 1.105}),
    'option_accuracies': {},
    'options': {},
  }
  assert chosen['sign, ratio 500.0']['accuracies'] == {}
  # Again, from where it was: the rate of the table is not that of the flags.
  executed = len(fake.executed)
  comparison_lib.compare(comparison)
  assert len(fake.executed) == executed
  assert list(_results(tmp_path).status) == list(frame.status)


def test_what_tuning_measured_holds_for_the_table(tmp_path, monkeypatch):
  fake = _FakeRunner(monkeypatch)
  comparison = _comparison(
    tmp_path,
    methods=('fedsynth_drive',),
    seeds=(0, 1),
    tuning_rates=(1.0, 0.3),
    tuning_seeds=(100,),
    tuning_rounds=1,
  )
  for _ in range(2):  # The second one finds everything done.
    comparison_lib.compare(comparison)
  ours = [s for s in fake.executed if s.method == 'fedsynth_drive']
  assert [s.options.get('residual_fraction') for s in ours] == [
    None,
    '0.4',
    '0.4',
    '0.4',
  ]
  assert all('client_time_ratio' not in s.options for s in ours)
  assert list(_results(tmp_path).status) == ['finished'] * 4


def test_tuning_takes_the_best_value_of_an_option(tmp_path, monkeypatch):
  fake = _FakeRunner(monkeypatch)
  comparison = _comparison(
    tmp_path,
    methods=('fedsynth_drive', 'drive'),
    tuning_rates=(1.0, 0.3),
    tuning_seeds=(100,),
    tuning_rounds=1,
    tuning_options={'fedsynth_drive': ('residual_fraction', ('0', '0.6', '1'))},
  )
  for _ in range(2):
    comparison_lib.compare(comparison)
  ours = [s for s in fake.executed if s.method == 'fedsynth_drive']
  # All values with all rates, and the best of both in the table.
  tried = [
    (s.options['residual_fraction'], s.server_learning_rate) for s in ours
  ]
  values, rates = ('0', '0.6', '1'), (1.0, 0.3)
  assert tried == [*itertools.product(values, rates), ('0.6', 0.3)]
  assert comparison.tuning_runs('fedsynth_drive') == 6
  assert comparison.tuning_runs('drive') == 2
  chosen = json.loads((tmp_path / 'tuning.json').read_text())
  assert chosen['fedsynth_drive, ratio 500.0']['option_accuracies'] == (
    pytest.approx({'0': 1.75, '0.6': 1.79, '1': 1.75})
  )


@pytest.mark.parametrize(
  'text',
  ['drive', 'drive:residual_fraction=0', 'zip:drive_scale=mse', 'drive:x='],
)
def test_what_is_no_option_to_tune_is_refused(text):
  with pytest.raises(SettingsError, match='such as fedsynth_drive:'):
    comparison_lib._tuning_option(text)


def test_options_go_to_the_methods_that_have_them(tmp_path, monkeypatch):
  fake = _FakeRunner(monkeypatch)
  comparison_lib.compare(_comparison(tmp_path, options={'drive_scale': 'mse'}))
  assert [s.options for s in fake.executed] == [
    {'num_clients': 40},
    {'num_clients': 40, 'drive_scale': 'mse'},
  ]


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(methods=('drive', 'zip')), "Unknown method 'zip' in --methods"),
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
    (dict(base=Settings(output_dir='x', task='y')), 'Unknown --task=y'),
  ],
)
def test_refusals_come_before_training(arguments, message, tmp_path):
  directory = tmp_path / 'new'
  with pytest.raises(SettingsError, match=message):
    comparison_lib.compare(_comparison(directory, **arguments))
  assert not directory.exists()


def test_wrong_options_of_a_method_show_before_training(tmp_path):
  comparison = _comparison(tmp_path / 'new', options={'drive_scale': 'big'})
  with pytest.raises(ValueError, match='scale must be one of'):
    comparison_lib.compare(comparison)
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('path', FLAGS, ids=lambda p: p.name)
def test_flagfiles_are_valid(path):
  values = flags.FlagValues()
  flags.DEFINE_string('flagfile', '', '', flag_values=values)
  comparison_lib.define_flags(values)
  values(['program', f'--flagfile={path}', '--output_dir=x'])
  assert values['methods'].value and values['task'].present


def test_words_for_numbers_are_refused(monkeypatch):
  values = flags.FlagValues()
  comparison_lib.define_flags(values)
  values(['program', '--seeds=one'])
  monkeypatch.setattr(cli.flags, 'FLAGS', values)
  with pytest.raises(SettingsError, match='--seeds must be numbers between'):
    cli.numbers('seeds', int)


def _frame(accuracy_by_method, ratio=100.0):
  return pd.DataFrame(
    [
      dict(method=m, ratio=ratio, seed=i, final_accuracy=a, status='finished')
      for m, accuracies in accuracy_by_method.items()
      for i, a in enumerate(accuracies)
    ]
  )


def test_not_worse_is_paired_by_seed():
  # b is below a by .01, .01, .01 for sure; c by .03, 0, -.01, a mean of .0067
  # with a standard error of .012.
  frame = _frame(
    {
      'a': [0.80, 0.70, 0.90],
      'b': [0.79, 0.69, 0.89],
      'c': [0.77, 0.70, 0.91],
    }
  )
  assert report.not_worse(frame) == {'a', 'c'}
  assert report.not_worse(frame[:0]) == set()


def test_cost_of_an_accuracy_by_hand(tmp_path):
  def write(name, accuracy):
    path = tmp_path / f'{name}.csv'
    rounds = range(len(accuracy))
    pd.DataFrame({'round': rounds, runner.ACCURACY: accuracy}).to_csv(path)
    return str(path)

  common = dict(seed=0, status='finished')
  frame = pd.DataFrame(
    [
      dict(
        method='fedavg',
        final_accuracy=0.8,
        uplink_bytes=1_000_000,
        downlink_bytes=2_000_000,
        metrics=write('fedavg', [0.1, 0.5, 0.8]),
        **common,
      ),
      dict(
        method='drive',
        final_accuracy=0.75,
        uplink_bytes=10_000,
        downlink_bytes=2_000_000,
        # 90% is .72, 95% is .76, 98% is .784.
        metrics=write('drive', [0.1, 0.71, 0.73, 0.75]),
        **common,
      ),
    ]
  )
  costs = report.add_costs(frame, clients_per_round=5).set_index('method')
  assert costs.loc['fedavg', 'rounds_to_98%'] == 2
  assert costs.loc['fedavg', 'megabytes_up_to_98%'] == pytest.approx(10)
  assert costs.loc['drive', 'rounds_to_90%'] == 2
  assert costs.loc['drive', 'megabytes_up_to_90%'] == pytest.approx(0.1)
  assert costs.loc['drive', 'megabytes_up_and_down_to_90%'] == pytest.approx(
    20.1
  )
  assert np.isnan(costs.loc['drive', 'rounds_to_95%'])


def test_bytes_of_the_best_peer_by_hand():
  rows = [
    # Method, ratio, bytes, accuracy of each seed.
    ('fedavg', None, 1_000_000, [0.9, 0.9]),
    ('drive', 100, 10_000, [0.75, 1.0]),
    ('drive', 1000, 1_000, [0.5, 0.75]),
    ('top_k', 100, 10_000, [0.7, 0.7]),
    ('fedsynth', 100, 9_000, [0.75, 0.75]),
    ('fedsynth', 1000, 900, [0.5, 0.5]),
    ('fedsynth_drive', 1000, 1_000, [0.5, 0.75]),
    ('fedsynth', 10, 90_000, [0.95, 0.95]),
  ]
  frame = pd.DataFrame(
    [
      dict(method=m, ratio=r, uplink_bytes=b, final_accuracy=a, seed=i)
      for m, r, b, accuracies in rows
      for i, a in enumerate(accuracies)
    ]
  )
  needed = report.bytes_of_best_peer(frame).set_index('ratio')
  # DRIVE goes from .625 at 1,000 to .875 at 10,000 bytes: .75 is half way.
  assert needed.loc[100].peer == 'drive'
  assert needed.loc[100].peer_bytes == pytest.approx(10**3.5)
  assert needed.loc[100].factor == pytest.approx(10**3.5 / 9_000)
  assert needed.loc[100].bound == ''
  # .625 is what DRIVE has at 1,000 bytes, and may have at fewer.
  assert needed.loc[1000].method == 'fedsynth_drive'
  assert (needed.loc[1000].factor, needed.loc[1000].bound) == (1.0, '<=')
  # Not even FedAvg has .95.
  assert needed.loc[10].peer_bytes == 1_000_000
  assert needed.loc[10].bound == '>='
  # The factors are 10**3.5 / 9,000 and 1: the root of their product.
  assert report.mean_factor(needed) == f'{(10**3.5 / 9_000) ** 0.5:.2f}'
  assert report.mean_factor(needed.loc[[10]]) == '-'
