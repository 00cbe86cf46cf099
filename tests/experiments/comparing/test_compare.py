"""Comparisons: what is run, what is not run again, and what is reported."""

import dataclasses
import itertools
import json
import pathlib
import shlex
import shutil
import types

from absl import flags
import matplotlib.image
import pandas as pd
import pytest

from tff_fedsynth.errors import BudgetTooSmallError
from tff_fedsynth.errors import OptionError
from tff_fedsynth.experiments.comparing import compare_command
from tff_fedsynth.experiments.comparing import comparison as comparison_lib
from tff_fedsynth.experiments.comparing.comparison import Comparison
from tff_fedsynth.experiments.pictures import plots
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError

CODE = dict.fromkeys(provenance.COLUMNS, '1') | dict(
  commit='c' * 40, tree='clean'
)
FLAGS = pathlib.Path(comparison_lib.__file__).parents[1].glob('configs/*.flags')


@pytest.fixture(autouse=True)
def _clean_code(monkeypatch):
  """What is changed in the tree that is tested marks no rows here."""
  monkeypatch.setattr(provenance, 'of_process', lambda: CODE)


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
      {'round': rounds, rounds.ACCURACY: final, rounds.LOSS: 1 - final}
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
      **provenance.of_process(),
    )
    (directory / 'summary.json').write_text(json.dumps(summary))
    if s.method == 'fedsynth_drive' and 'residual_fraction' not in s.options:
      chosen = json.dumps(dict(residual_fraction='0.4', client_time_ratio=None))
      (directory / 'chosen.json').write_text(chosen)
    bar.update(s.total_rounds)
    return summary


def _results(directory):
  return pd.read_csv(pathlib.Path(directory) / 'results.csv')


def _settings_of(commands, directory):
  """What `fedsynth-train` makes of command lines."""
  for command in commands:
    program, *arguments = shlex.split(command)
    assert program == 'fedsynth-train'
    assert arguments.pop() == '--output_dir=DIR'
    values = flags.FlagValues()
    settings_lib.define_flags(building.own_options(), values)
    values(['program', *arguments, f'--output_dir={directory}'])
    yield settings_lib.from_flags(building.own_options(), values)


def test_a_real_comparison(tmp_path):
  comparison = _comparison(tmp_path, methods=('drive', 'qsgd'))
  comparison_lib.compare(comparison)
  frame = _results(tmp_path)
  assert list(frame.method) == ['fedavg', 'drive', 'qsgd']
  assert list(frame.status) == ['finished', 'finished', 'too large']
  assert list(frame.uplink_bytes[:2]) == [636_044, 1272]
  assert 'at least 40997 bytes' in frame.error[2]
  assert (frame.commit == CODE['commit']).all()
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
    compare_command._tuning_option(text)


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
    comparison_lib.compare(_comparison(directory, **arguments))
  assert not directory.exists()


def test_wrong_options_of_a_method_show_before_training(tmp_path):
  comparison = _comparison(tmp_path / 'new', options={'drive_scale': 'big'})
  with pytest.raises(ValueError, match="Unknown drive_scale 'big'"):
    comparison_lib.compare(comparison)
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('path', FLAGS, ids=lambda p: p.name)
def test_flagfiles_are_valid(path):
  values = flags.FlagValues()
  flags.DEFINE_string('flagfile', '', '', flag_values=values)
  compare_command.define_flags(values)
  values(['program', f'--flagfile={path}', '--output_dir=x'])
  assert values['methods'].value and values['task'].present


def _rows(directory):
  frame = _results(directory)
  return [
    (r.method, None if pd.isna(r.ratio) else r.ratio, r.seed)
    for r in frame.itertuples()
  ]


TUNED = dict(tuning_rates=(0.1, 0.3), tuning_seeds=(100,), tuning_rounds=1)


def test_fewer_methods_ratios_and_seeds_keep_the_rows_of_the_others(
  tmp_path, monkeypatch
):
  _FakeRunner(monkeypatch)
  drawn = {}
  for name in ('plot_accuracy_over_rounds', 'plot_accuracy_over_uplink'):
    monkeypatch.setattr(
      plots, name, lambda data, path, name=name: drawn.update({name: data})
    )
  first = _comparison(
    tmp_path,
    methods=('drive', 'top_k'),
    ratios=(500.0, 100.0),
    seeds=(0, 1),
    options={'drive_scale': 'mse'},
    **TUNED,
  )
  comparison_lib.compare(first)
  before = _results(tmp_path)
  fewer = _comparison(tmp_path, methods=('qsgd',), ratios=(50.0,), **TUNED)
  comparison_lib.compare(fewer)
  assert _rows(tmp_path) == [*first.cells, ('qsgd', 50.0, 0)]
  pd.testing.assert_frame_equal(_results(tmp_path)[: len(before)], before)
  table = (tmp_path / 'table.md').read_text()
  assert 'over seeds 0, 1.' in table
  for start in ('| drive | ', '| top_k | ', '| qsgd | '):
    assert start in table
  assert '(1 of 2 seeds)' in table
  curves = drawn['plot_accuracy_over_rounds']
  assert len(curves) == len(first.cells) + 1
  assert set(drawn['plot_accuracy_over_uplink'].method) == {
    *('fedavg', 'drive', 'top_k', 'qsgd')
  }
  chosen = json.loads((tmp_path / 'tuning.json').read_text())
  assert set(chosen) == {
    'fedavg, ratio None',
    'qsgd, ratio 50.0',
    *(f'{m}, ratio {r}' for m in ('drive', 'top_k') for r in (500.0, 100.0)),
  }
  # Cells that are made again take the place of what they were.
  comparison_lib.compare(first)
  assert sorted(map(str, _rows(tmp_path))) == sorted(
    map(str, [*first.cells, ('qsgd', 50.0, 0)])
  )


def test_rows_whose_runs_are_gone_are_kept(tmp_path, monkeypatch):
  _FakeRunner(monkeypatch)
  comparison_lib.compare(_comparison(tmp_path, methods=('drive', 'top_k')))
  before = _results(tmp_path).set_index('method')
  shutil.rmtree(tmp_path / 'runs' / 'top_k')
  comparison_lib.compare(_comparison(tmp_path))
  after = _results(tmp_path).set_index('method').loc[before.index]
  pd.testing.assert_frame_equal(after, before)
  assert '| top_k | ' in (tmp_path / 'table.md').read_text()


OTHER_FLAGS = [
  (dict(total_rounds=3), "--total_rounds: '2' there, '3' now"),
  (dict(options={'num_clients': 30}), "--num_clients: '40' there, '30' now"),
  (dict(options={'partition': 'iid'}), "--partition: '' there, 'iid' now"),
  (dict(server_learning_rate=0.5), "--server_learning_rate: '1.0' there"),
]
# Those are noted in flags.json alone.
NEWLY_NOTED = [
  (TUNED, "--tuning_server_learning_rates: '' there, '0.1,0.3' now"),
  (
    dict(methods=('drive',), seeds=(7,), options={'drive_scale': 'mse'}),
    "--drive_scale: '' there, 'mse' now",
  ),
]


@pytest.mark.parametrize(
  'is_old, changes, message',
  [
    *((False, *case) for case in OTHER_FLAGS + NEWLY_NOTED),
    *((True, *case) for case in OTHER_FLAGS),
  ],
)
def test_rows_of_other_flags_are_never_mixed(
  is_old, changes, message, tmp_path, monkeypatch
):
  fake = _FakeRunner(monkeypatch)
  comparison_lib.compare(_comparison(tmp_path))
  if is_old:  # As they were before there was this file.
    (tmp_path / 'flags.json').unlink()
  before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
  executed = len(fake.executed)
  changes = {'methods': ('top_k',), **changes}
  of_base = {
    k: changes.pop(k)
    for k in ('total_rounds', 'server_learning_rate')
    if k in changes
  }
  comparison = _comparison(tmp_path, **{'seeds': (5,), **changes})
  comparison = dataclasses.replace(
    comparison,
    base=dataclasses.replace(comparison.base, **of_base),
  )
  with pytest.raises(SettingsError, match=f'{message}.*another --output_dir'):
    comparison_lib.compare(comparison)
  assert len(fake.executed) == executed
  assert before == {
    p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()
  }


def test_a_directory_without_its_flags_is_made_whole_or_not_at_all(
  tmp_path, monkeypatch
):
  _FakeRunner(monkeypatch)
  comparison_lib.compare(_comparison(tmp_path))
  (tmp_path / 'flags.json').unlink()
  # The runs tell what the table does not.
  comparison_lib.compare(_comparison(tmp_path, methods=('top_k',)))
  assert len(_rows(tmp_path)) == 3
  (tmp_path / 'flags.json').unlink()
  shutil.rmtree(tmp_path / 'runs')
  with pytest.raises(SettingsError, match='whose flags are not known'):
    comparison_lib.compare(_comparison(tmp_path, methods=('sign',)))
  both = _comparison(tmp_path, methods=('drive', 'top_k'))
  comparison_lib.compare(both)
  assert _rows(tmp_path) == both.cells


def test_a_table_of_something_else_is_refused(tmp_path, monkeypatch):
  _FakeRunner(monkeypatch)
  for text in ('a,b\n1,2\n', ''):
    (tmp_path / 'results.csv').write_text(text)
    with pytest.raises(SettingsError, match='is no table of this command'):
      comparison_lib.compare(_comparison(tmp_path))
    assert (tmp_path / 'results.csv').read_text() == text


def test_rows_of_another_commit_are_marked(tmp_path, monkeypatch):
  _FakeRunner(monkeypatch)
  comparison_lib.compare(_comparison(tmp_path))
  later = {**CODE, 'commit': 'd' * 40}
  monkeypatch.setattr(provenance, 'of_process', lambda: later)
  comparison_lib.compare(_comparison(tmp_path, methods=('top_k',)))
  table = (tmp_path / 'table.md').read_text()
  note = '[1]: made by commit cccccccccc; this table by commit dddddddddd.'
  assert note in table
  assert '| drive [1] | 1/500 |' in table
  assert '| top_k | 1/500 |' in table
  # A summary from before there was a commit in it.
  for path in (tmp_path / 'runs' / 'drive').rglob('summary.json'):
    summary = json.loads(path.read_text())
    del summary['commit'], summary['tree'], summary['tff_fedsynth_version']
    path.write_text(json.dumps(summary))
  comparison_lib.compare(_comparison(tmp_path))
  table = (tmp_path / 'table.md').read_text()
  assert 'made by unknown commit; this table by commit dddddddddd.' in table


@pytest.mark.parametrize(
  'evaluation, tuning, message',
  [
    (3, {}, 'rounds_per_evaluation=3 is more than the 2 rounds'),
    (2, TUNED, 'rounds_per_evaluation=2 is more than the 1 rounds'),
  ],
)
def test_runs_without_an_accuracy_are_refused(evaluation, tuning, message):
  base = Settings(
    output_dir='x', total_rounds=2, rounds_per_evaluation=evaluation
  )
  with pytest.raises(SettingsError, match=message):
    Comparison(base, ('drive',), (500.0,), (0,), **tuning)
