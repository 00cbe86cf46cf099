"""Rows of a comparison that stay as others are made."""

import dataclasses
import json
import shutil

import conftest
import fake_comparison
import pandas as pd
import pytest

from tff_fedsynth.experiments.comparing import comparison as comparison_lib
from tff_fedsynth.experiments.pictures import plots
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.settings.settings import SettingsError

pytestmark = pytest.mark.usefixtures('fixed_code')


def _rows(directory):
  frame = fake_comparison.results(directory)
  return [
    (r.method, None if pd.isna(r.ratio) else r.ratio, r.seed)
    for r in frame.itertuples()
  ]


def test_fewer_methods_ratios_and_seeds_keep_the_rows_of_the_others(
  tmp_path, monkeypatch
):
  fake_comparison.FakeRunner(monkeypatch)
  drawn = {}
  for name in ('plot_accuracy_over_rounds', 'plot_accuracy_over_uplink'):
    monkeypatch.setattr(
      plots, name, lambda data, *_, name=name: drawn.update({name: data})
    )
  first = fake_comparison.comparison(
    tmp_path,
    methods=('drive', 'top_k'),
    ratios=(500.0, 100.0),
    seeds=(0, 1),
    options={'drive_scale': 'mse'},
    **fake_comparison.TUNED,
  )
  comparison_lib.compare(first)
  before = fake_comparison.results(tmp_path)
  fewer = fake_comparison.comparison(
    tmp_path, methods=('qsgd',), ratios=(50.0,), **fake_comparison.TUNED
  )
  comparison_lib.compare(fewer)
  assert _rows(tmp_path) == [*first.cells, ('qsgd', 50.0, 0)]
  pd.testing.assert_frame_equal(
    fake_comparison.results(tmp_path)[: len(before)], before
  )
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
  fake_comparison.FakeRunner(monkeypatch)
  comparison_lib.compare(
    fake_comparison.comparison(tmp_path, methods=('drive', 'top_k'))
  )
  before = fake_comparison.results(tmp_path).set_index('method')
  shutil.rmtree(tmp_path / 'runs' / 'top_k')
  comparison_lib.compare(fake_comparison.comparison(tmp_path))
  after = (
    fake_comparison.results(tmp_path).set_index('method').loc[before.index]
  )
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
  (
    fake_comparison.TUNED,
    "--tuning_server_learning_rates: '' there, '0.1,0.3' now",
  ),
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
  fake = fake_comparison.FakeRunner(monkeypatch)
  comparison_lib.compare(fake_comparison.comparison(tmp_path))
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
  comparison = fake_comparison.comparison(
    tmp_path, **{'seeds': (5,), **changes}
  )
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
  fake_comparison.FakeRunner(monkeypatch)
  comparison_lib.compare(fake_comparison.comparison(tmp_path))
  (tmp_path / 'flags.json').unlink()
  # The runs tell what the table does not.
  comparison_lib.compare(
    fake_comparison.comparison(tmp_path, methods=('top_k',))
  )
  assert len(_rows(tmp_path)) == 3
  (tmp_path / 'flags.json').unlink()
  shutil.rmtree(tmp_path / 'runs')
  with pytest.raises(SettingsError, match='whose flags are not known'):
    comparison_lib.compare(
      fake_comparison.comparison(tmp_path, methods=('sign',))
    )
  both = fake_comparison.comparison(tmp_path, methods=('drive', 'top_k'))
  comparison_lib.compare(both)
  assert _rows(tmp_path) == both.cells


def test_a_table_of_something_else_is_refused(tmp_path, monkeypatch):
  fake_comparison.FakeRunner(monkeypatch)
  for text in ('a,b\n1,2\n', ''):
    (tmp_path / 'results.csv').write_text(text)
    with pytest.raises(SettingsError, match='is no table of this command'):
      comparison_lib.compare(fake_comparison.comparison(tmp_path))
    assert (tmp_path / 'results.csv').read_text() == text


def test_rows_of_another_commit_are_marked(tmp_path, monkeypatch):
  fake_comparison.FakeRunner(monkeypatch)
  comparison_lib.compare(fake_comparison.comparison(tmp_path))
  later = {**conftest.CODE, 'commit': 'd' * 40}
  monkeypatch.setattr(provenance, 'of_process', lambda: later)
  comparison_lib.compare(
    fake_comparison.comparison(tmp_path, methods=('top_k',))
  )
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
  comparison_lib.compare(fake_comparison.comparison(tmp_path))
  table = (tmp_path / 'table.md').read_text()
  assert 'made by unknown commit; this table by commit dddddddddd.' in table
