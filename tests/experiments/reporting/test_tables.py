"""Numbers, tables and units of a comparison, by hand."""

import math
import re

import numpy as np
import pandas as pd
import pytest

from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.reporting import costs
from tff_fedsynth.experiments.reporting import latex
from tff_fedsynth.experiments.reporting import tables
from tff_fedsynth.experiments.running import rounds
from tff_fedsynth.experiments.settings.settings import Settings

HERE = dict(commit='a' * 40, tree='clean', tff_fedsynth_version='1.0')


@pytest.mark.parametrize(
  'number, text',
  [
    (0, '0 B'),
    (1, '1 B'),
    (999, '999 B'),
    (1000, '1.00 kB'),
    (1202, '1.20 kB'),
    (9_994, '9.99 kB'),
    (9_995, '10.0 kB'),
    (99_949, '99.9 kB'),
    (99_950, '100 kB'),
    (999_499, '999 kB'),
    (999_500, '1.00 MB'),
    (999_950, '1.00 MB'),
    (24_169_672, '24.2 MB'),
    (3.2e9, '3.20 GB'),
    (5e12, '5.00 TB'),
    (5e16, '50000 TB'),
    (math.nan, '-'),
    (math.inf, '-'),
  ],
)
def test_bytes_have_three_digits_that_count(number, text):
  assert tables.bytes_text(number) == text
  assert tables.bytes_text(np.float64(number)) == text


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
  assert costs.not_worse(frame) == {'a', 'c'}
  assert costs.not_worse(frame[:0]) == set()


def test_cost_of_an_accuracy_by_hand(tmp_path):
  def write(name, accuracy):
    path = tmp_path / f'{name}.csv'
    numbers = range(len(accuracy))
    pd.DataFrame({'round': numbers, rounds.ACCURACY: accuracy}).to_csv(path)
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
        # 90% is .72, 95% is .76.
        metrics=write('drive', [0.1, 0.71, 0.73, 0.75]),
        **common,
      ),
    ]
  )
  added = costs.add_costs(frame, clients_per_round=5).set_index('method')
  assert added.loc['fedavg', 'rounds_to_95%'] == 2
  assert added.loc['fedavg', 'megabytes_up_to_95%'] == pytest.approx(10)
  assert added.loc['drive', 'rounds_to_90%'] == 2
  assert added.loc['drive', 'megabytes_up_to_90%'] == pytest.approx(0.1)
  assert added.loc['drive', 'megabytes_up_and_down_to_90%'] == pytest.approx(
    20.1
  )
  assert np.isnan(added.loc['drive', 'rounds_to_95%'])


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
  needed = costs.bytes_of_best_peer(frame).set_index('ratio')
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
  assert costs.mean_factor(needed) == f'{(10**3.5 / 9_000) ** 0.5:.2f}'
  assert costs.mean_factor(needed.loc[[10]]) == '-'


def test_not_worse_takes_the_seeds_that_both_have():
  frame = _frame({'a': [0.80, 0.70, 0.90], 'b': [0.79]})
  # One seed has no standard error, and b is behind on it.
  assert costs.not_worse(frame) == {'a'}
  # Of no common seed nothing is known.
  frame.loc[frame.method == 'b', 'seed'] = 9
  assert costs.not_worse(frame) == {'a'}


def test_the_untrained_model_has_no_part_in_the_last_numbers(tmp_path):
  path = tmp_path / 'metrics.csv'
  pd.DataFrame(
    {
      'round': [0, 2, 3],
      rounds.ACCURACY: [0.1, 0.5, 0.7],
      rounds.LOSS: [9.0, 2.0, 1.0],
    }
  ).to_csv(path)
  assert costs.final_loss(path) == 1.5
  assert costs.last_accuracy(path) == 0.7


def _comparison(**changes):
  """Rows with costs: two methods at two ratios, two seeds, and FedAvg."""
  rows = []
  for method, ratio, accuracies in (
    ('fedavg', None, (0.9, 0.8)),
    ('random_mask_8bit', 100.0, (0.5, 0.7)),
    ('drive', 100.0, (0.85, 0.75)),
    ('drive', 2000.0, (0.6, 0.6)),
  ):
    for seed, accuracy in enumerate(accuracies):
      rows.append(
        dict(
          method=method,
          ratio=ratio,
          seed=seed,
          status='finished',
          server_learning_rate=1.0,
          final_accuracy=accuracy,
          last_accuracy=accuracy + 0.01,
          final_loss=0.5,
          uplink_bytes=636_044 if ratio is None else int(636_040 / ratio),
          downlink_bytes=636_040,
          seconds_per_round=0.25,
          error=None,
          **HERE,
          **{
            'rounds_to_90%': 12.0,
            'megabytes_up_to_90%': 0.01236,
            'megabytes_up_and_down_to_90%': 152.6,
          },
        )
      )
  frame = pd.DataFrame(rows)
  for column, (where, value) in changes.items():
    frame.loc[where(frame), column] = value
  return frame


SETTINGS = Settings(options={'partition': 'shards'}, clients_per_round=2)


def _row(table, start):
  (line,) = (ln for ln in table.splitlines() if ln.startswith(f'| {start} |'))
  return [cell.strip() for cell in line.split('|')[1:-1]]


def test_the_table_has_the_last_accuracy_and_bytes_that_can_be_read():
  table = tables.comparison(_comparison(), SETTINGS, HERE)
  assert 'partition shards, 2 clients a round' in table
  assert 'FedAvg: 0.850 +- 0.071 with 636,044 bytes up' in table
  assert '| drive | **0.800 +- 0.071** | **0.600 +- 0.000** |' in table
  row = _row(table, 'drive | 1/2000')
  header = _row(table, 'method | ratio | bytes up, metered')
  named = dict(zip(header, row))
  assert named['accuracy'] == '0.600 +- 0.000'
  assert named['last accuracy'] == '0.610'
  assert named['test loss'] == '0.5'
  # At a quarter of a second a round.
  assert row[8:12] == ['12', '3', '12.4 kB', '153 MB']
  assert header[8:12] == ['rounds to 90%', 'seconds', 'up', 'up and down']
  # Nobody reached more.
  assert row[12:] == ['-'] * 4
  left_bounds = _comparison(final_loss=(lambda f: f.method == 'drive', 2.76e28))
  assert '| 2.76e+28 |' in tables.comparison(left_bounds, SETTINGS, HERE)
  assert '[1]' not in table


def test_seeds_that_are_missing_are_told():
  frame = _comparison()
  frame = frame.drop(frame[frame.method == 'drive'].index[:1])
  table = tables.comparison(frame, SETTINGS, HERE)
  assert '| drive | **0.750** (1 of 2 seeds) |' in table


OTHER = 'b' * 40


def test_rows_of_other_code_are_marked_and_named():
  drive = lambda frame: (frame.method == 'drive') & (frame.seed == 0)
  at_2000 = lambda frame: frame.ratio == 2000
  frame = _comparison(commit=(drive, OTHER), tree=(at_2000, 'changed'))
  table = tables.comparison(frame, SETTINGS, HERE)
  assert (
    '| drive | **0.800 +- 0.071** [1] | **0.600 +- 0.000** [2] [3] |' in table
  )
  assert f'[1]: made by commit {OTHER[:10]}; this table by commit aaaa' in table
  changed = 'with changes that are in no commit'
  assert f'[2]: made by commit {OTHER[:10]} {changed}; this' in table
  assert f'[3]: made by commit aaaaaaaaaa {changed}; this' in table
  assert '| random_mask_8bit | 0.600 +- 0.141 * |' in table
  # An old table has no such columns at all.
  old = _comparison().drop(columns=list(HERE))
  table = tables.comparison(old, SETTINGS, HERE)
  assert (
    '[1]: made by unknown commit; this table by commit aaaaaaaaaa.' in table
  )
  assert 'bytes up a client and round [1].' in table


def _unescaped(text, characters):
  return re.findall(rf'(?<!\\)[{re.escape(characters)}]', text)


def test_the_table_for_a_paper():
  text = latex.comparison(_comparison(), SETTINGS, HERE)
  lines = [line.strip() for line in text.splitlines()]
  rules = [ln for ln in lines if ln.endswith('rule')]
  assert rules == ['\\toprule', '\\midrule', '\\midrule', '\\bottomrule']
  assert r'Method & $1/100$ & $1/2000$ \\' in lines
  fed_avg = r'\multicolumn{2}{c}{$0.850 \pm 0.071$}'
  assert rf'FedAvg, no budget & {fed_avg} \\' in lines
  bold = r'$\mathbf{0.800 \pm 0.071}$'
  assert rf'drive & {bold} & $\mathbf{{0.600 \pm 0.000}}$ \\' in lines
  # Its lead is .2 +- .15, within two standard errors.
  tied = r'$0.600 \pm 0.141^{*}$'
  assert rf'random\_mask\_8bit & {tied} & -- \\' in lines
  (caption,) = (ln for ln in lines if ln.startswith(r'\caption{'))
  assert r'mnist\_digits, mlp, partition shards, 2 clients' in caption
  assert 'Made by commit aaaaaaaaaa.' in caption
  # Each row has as many cells as the table has columns.
  assert r'\begin{tabular}{lcc}' in lines
  body = [ln for ln in lines if ln.endswith(r'\\')]
  assert [len(_unescaped(ln, '&')) for ln in body] == [2, 1, 2, 2]
  # Braces are balanced, and nothing else means something by accident.
  assert len(_unescaped(text, '{')) == len(_unescaped(text, '}'))
  assert not _unescaped(text, '#~')
  assert _unescaped(text, '%') == ['%']  # What package it needs.
  assert len(_unescaped(text, '$')) % 2 == 0
  outside = re.sub(r'(?<!\\)\$.*?(?<!\\)\$', '', text)
  assert not _unescaped(outside, '_^')
  for name in ('table', 'tabular'):
    assert (
      text.count(rf'\begin{{{name}}}') == text.count(rf'\end{{{name}}}') == 1
    )


def test_the_paper_says_which_rows_other_code_made():
  drive = lambda frame: frame.method == 'drive'
  frame = _comparison(commit=(drive, OTHER))
  frame.loc[frame.ratio == 2000, 'status'] = 'too large'
  text = latex.comparison(frame, SETTINGS, HERE)
  assert r'$\mathbf{0.800 \pm 0.071}$ [1] & too large [1] \\' in text
  assert f'[1]: made by commit {OTHER[:10]}; this table by' in text


def test_the_reference_alone_is_a_table_too():
  frame = _comparison()
  frame = frame[frame.method == 'fedavg']
  text = latex.comparison(frame, SETTINGS, HERE)
  assert r'FedAvg, no budget & $0.850 \pm 0.071$ \\' in text
  assert text.count(r'\midrule') == 1


def test_no_character_of_a_name_means_anything_to_latex():
  assert latex.escape('a_b 50% of $1 & #2 {x} ~ ^ \\') == (
    r'a\_b 50\% of \$1 \& \#2 \{x\} \textasciitilde{} \textasciicircum{} '
    r'\textbackslash{}'
  )
  assert latex.escape('<=|>') == r'\textless{}=\textbar{}\textgreater{}'


def test_the_words_of_marks_are_those_of_the_code():
  assert provenance.in_words(HERE) == 'commit aaaaaaaaaa'
