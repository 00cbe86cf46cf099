"""Runs with clients that lie."""

import dataclasses
import errno
import json
import shlex

from absl import flags as absl_flags
import pandas as pd
import pytest
import small_runs

from tff_fedsynth.errors import OptionError
from tff_fedsynth.experiments.records import grid as grid_lib
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.reporting import costs
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.experiments.trust import siege as siege_lib


def _base(output_dir):
  return small_runs.settings(output_dir, total_rounds=2, synthesis_iterations=2)


def test_a_siege_counts_what_was_refused(tmp_path):
  all_defenses = siege_lib.defenses(200.0)
  chosen = {n: all_defenses[n] for n in ('bounds (default)',)}
  siege = siege_lib.Siege(_base(tmp_path), ('nan',), (1,), (0,), chosen)
  frame = siege_lib.besiege(siege).set_index('attack')
  # One attacker in each of two rounds.
  assert frame.rejected_clients.to_dict() == {'none': 0, 'nan': 2}
  lines = (tmp_path / 'table.md').read_text().splitlines()
  assert '| attack | attackers | bounds (default) |' in lines
  assert len([line for line in lines if line.startswith('|')]) == 4
  row = frame.loc['nan']
  assert (row.commit, row.tree) == (
    provenance.of_process()['commit'],
    provenance.of_process()['tree'],
  )
  assert row.last_accuracy == costs.last_accuracy(
    tmp_path / 'runs/nan_1/bounds_(default)/seed_0/metrics.csv'
  )
  _, *flags = shlex.split(row.command)
  values = absl_flags.FlagValues()
  siege_lib.define_flags(values)
  values(['program', *flags])
  assert row.command.startswith('fedsynth-attack ')
  for flag in ('attacks=nan', 'attackers=1', 'seeds=0', 'num_clients=40'):
    assert f'--{flag}' in flags
  assert not any(f.startswith(('--seed=', '--weight_cap')) for f in flags)
  assert json.loads(row['flags'])['attacks'] == 'nan'
  summary = tmp_path / 'runs/nan_1/bounds_(default)/seed_0/summary.json'
  assert json.loads(summary.read_text())['command'] == row.command


def _fake_runs(monkeypatch, before=lambda attack: None):
  """In place of training; the cells that are run."""
  ran = []

  def execute(siege, settings, attack, attackers, name):
    del siege
    before(attack)
    ran.append((attack, attackers, name, settings.seed))
    return dict(
      final_accuracy=0.5,
      last_accuracy=0.75,
      rejected_clients=0,
      diverged=None,
      **provenance.of_process(),
    )

  monkeypatch.setattr(siege_lib, '_execute', execute)
  return ran


def _three_attacks(directory):
  defenses = {'median': siege_lib.defenses(200.0)['median']}
  attacks = ('nan', 'zeros', 'infinity')
  return siege_lib.Siege(_base(directory), attacks, (1,), (0,), defenses)


def test_a_failed_cell_is_told_and_the_others_are_there(tmp_path, monkeypatch):
  def fail(attack):
    if attack == 'zeros':
      raise RuntimeError('out of luck\nand patience')

  _fake_runs(monkeypatch, fail)
  with pytest.raises(
    grid_lib.FailedCellsError,
    match=r'^1 of 4 cells failed: zeros 1 median 0 \(RuntimeError: out of luck\)',
  ):
    siege_lib.besiege(_three_attacks(tmp_path))
  found = list(pd.read_csv(tmp_path / 'cells.csv', na_filter=False).attack)
  assert found == ['none', 'nan', 'infinity']
  # The same command again makes what is missing.
  _fake_runs(monkeypatch)
  assert len(siege_lib.besiege(_three_attacks(tmp_path))) == 4


def test_a_full_disk_stops_at_once_and_keeps_what_was_made(
  tmp_path, monkeypatch, fixed_code
):
  del fixed_code

  def fail(attack):
    if attack == 'zeros':
      raise OSError(errno.ENOSPC, 'No space left on device')

  ran = _fake_runs(monkeypatch, fail)
  with pytest.raises(OSError, match='No space left'):
    siege_lib.besiege(_three_attacks(tmp_path))
  assert [attack for attack, *_ in ran] == ['none', 'nan']
  text = (tmp_path / 'table.md').read_text()
  assert '| nan | 1 | 0.500, last 0.750 |' in text and 'zeros' not in text


def test_other_attacks_keep_the_rows_of_those_before(tmp_path, monkeypatch):
  _fake_runs(monkeypatch)
  code = dict.fromkeys(provenance.COLUMNS, '1') | dict(tree='clean')
  monkeypatch.setattr(provenance, 'of_process', lambda: code)
  siege = siege_lib.Siege(
    _base(tmp_path), ('nan', 'zeros'), (1,), (0, 1), siege_lib.defenses(200.0)
  )
  first = siege_lib.besiege(siege)
  assert len(first) == 3 * 5 * 2
  later = {**code, 'commit': '2'}
  monkeypatch.setattr(provenance, 'of_process', lambda: later)
  capped = siege_lib.defenses(50.0)
  name = next(n for n in capped if '50' in n)
  second = dataclasses.replace(
    siege, attacks=('infinity',), seeds=(0,), defenses={name: capped[name]}
  )
  frame = siege_lib.besiege(second)
  assert len(frame) == 30 + 2
  # Another cap is another defense: its rows stand beside the others.
  assert set(frame.defense) == {*siege.defenses, name}
  assert set(frame.attack) == {'none', 'nan', 'zeros', 'infinity'}
  table = (tmp_path / 'table.md').read_text()
  assert '| nan | 1 | 0.500 +- 0.000, last 0.750 [1] |' in table
  assert '| infinity | 1 | - | - | - | - | - | 0.500, last 0.750 |' in table
  assert '[1]: made by commit 1; this table by commit 2.' in table
  assert (tmp_path / 'accuracy_over_attackers.png').stat().st_size > 0


def test_attacks_on_other_runs_are_never_mixed(tmp_path, monkeypatch):
  ran = _fake_runs(monkeypatch)
  siege = siege_lib.Siege(
    _base(tmp_path), ('nan',), (1,), (0,), siege_lib.defenses(200.0)
  )
  siege_lib.besiege(siege)
  before = len(ran)
  base = dataclasses.replace(siege.base, total_rounds=3)
  with pytest.raises(SettingsError, match="--total_rounds: '2' there, '3' now"):
    siege_lib.besiege(dataclasses.replace(siege, base=base, attacks=('zeros',)))
  assert len(ran) == before


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(attacks=('bribe',)), "Unknown attack 'bribe'"),
    (dict(attackers=(3,)), 'from 1 to --clients_per_round=2, found 3'),
    (dict(base=_base('')), '--output_dir is required'),
    (
      dict(base=dataclasses.replace(_base('x'), rounds_per_evaluation=3)),
      'no trained model would be evaluated',
    ),
  ],
)
def test_refusals(arguments, message):
  complete = dict(
    base=_base('x'), attacks=(), attackers=(), seeds=(0,), defenses={}
  )
  with pytest.raises(OptionError, match=message):
    siege_lib.besiege(siege_lib.Siege(**{**complete, **arguments}))


def test_a_method_without_synthetic_data_is_refused(tmp_path):
  base = Settings(
    output_dir=str(tmp_path / 'new'), method='drive', compression_ratio=2000.0
  )
  siege = siege_lib.Siege(
    base,
    ('nan',),
    (1,),
    (0,),
    siege_lib.defenses(1.0),
  )
  with pytest.raises(SettingsError, match='sends no synthetic data'):
    siege_lib.besiege(siege)
  assert not (tmp_path / 'new').exists()
