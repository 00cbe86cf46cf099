"""Tables in Markdown."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import pandas as pd

from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.reporting import costs
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings.settings import Settings

_UNITS = ('B', 'kB', 'MB', 'GB', 'TB')


@dataclasses.dataclass(frozen=True)
class Table:
  """A table; as text it is Markdown, and so are its cells.

  Attributes:
    header: Names of the columns.
    rows: As many cells each.
  """

  header: Sequence[str]
  rows: Sequence[Sequence[Any]]

  def __str__(self):
    lines = [self.header, ['---'] * len(self.header), *self.rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  """A table in Markdown."""
  return str(Table(header, rows))


def spread(values: pd.Series, digits: int) -> str:
  """Mean +- standard deviation, as text; "-" for the mean of nothing."""
  if values.isna().all():
    return '-'
  text = f'{values.mean():.{digits}f}'
  if values.count() > 1:
    text += f' +- {values.std(ddof=1):.{digits}f}'
  return text


def accuracy(rows: pd.DataFrame, column: str = 'final_accuracy') -> str:
  """Writes mean +- standard deviation over seeds, or NaN where a run diverged."""
  status = rows.get('status', pd.Series('', rows.index))
  diverged = rows[status == runner.DIVERGED]
  if diverged.empty:
    return spread(rows[column], 3)
  words = [f'{len(diverged)} of {len(rows)} diverged']
  rejected = diverged.get('rejected_clients', pd.Series()).sum()
  if rejected:
    words.append(f'{rejected:.0f} uploads rejected')
  return f'NaN ({", ".join(words)})'


def cell_name(row) -> str:
  """Names a method and its budget."""
  return row.method + ('' if pd.isna(row.ratio) else f' 1/{row.ratio:g}')


def bytes_text(number: float) -> str:
  """Bytes with three digits that count, in a decimal unit; "-" for none."""
  if not math.isfinite(number):
    return '-'
  for unit in _UNITS:
    # What rounds to 1000 is 1 of the next unit.
    if number < 999.5 or unit == _UNITS[-1]:
      break
    number /= 1000
  if unit == 'B':
    return f'{number:.0f} B'
  return f'{number:.{2 - (number >= 9.995) - (number >= 99.95)}f} {unit}'


def code_notes(
  frame: pd.DataFrame, current: Mapping[str, str] | None
) -> tuple[pd.Series, list[str]]:
  """Marks such as " [1]" for rows that other code made, and what they mean.

  Args:
    frame: Rows with the columns of `provenance`, as far as they are known.
    current: The code to compare with; `None` marks nothing.

  Returns:
    A mark for each row, empty for the code of `current`; and a sentence for
    each mark.
  """
  if current is None:
    return pd.Series('', frame.index), []
  numbers, words = provenance.notes(frame.to_dict('records'), current)
  marks = pd.Series(numbers, frame.index).map(lambda n: f' [{n}]' if n else '')
  return marks, [
    f'[{i}]: made by {made_by}; this table by {provenance.in_words(current)}.'
    for i, made_by in enumerate(words, 1)
  ]


def joined(marks: pd.Series) -> str:
  """Each mark once."""
  return ''.join(sorted(set(marks)))


@dataclasses.dataclass(frozen=True)
class Cell:
  """One method at one ratio.

  Attributes:
    rows: A row a seed.
    finished: Those that finished or diverged.
    seeds: How many seeds the table has.
    is_best: Whether its mean is the best at its ratio.
    is_tied: Whether it is not shown to be worse than that.
    marks: That say which code made it.
  """

  rows: pd.DataFrame
  finished: pd.DataFrame
  seeds: int
  is_best: bool
  is_tied: bool
  marks: str

  @property
  def remarks(self) -> str:
    """What is missing, in words."""
    failed = (self.rows.status == 'failed').sum()
    missing = self.seeds - len(self.rows)
    words = [f'{failed} failed'] if failed else []
    if missing:
      words.append(f'{len(self.rows)} of {self.seeds} seeds')
    return f' ({", ".join(words)})' if words else ''

  def __str__(self):
    if self.rows.empty:
      return ''
    if self.finished.empty:
      return self.rows.status.iloc[0] + self.marks
    text = accuracy(self.finished)
    if self.is_best:
      text = f'**{text}**'
    elif self.is_tied:
      text += ' *'
    return text + self.remarks + self.marks


def cells(
  frame: pd.DataFrame, marks: pd.Series
) -> dict[str, dict[float, Cell]]:
  """A `Cell` for each method but FedAvg and each ratio.

  Args:
    frame: A row a run.
    marks: See `code_notes`.
  """
  methods = [m for m in frame.method.unique() if m != costs.REFERENCE]
  found = {method: {} for method in methods}
  for ratio in sorted(frame.ratio.dropna().unique()):
    at_ratio = frame[frame.ratio == ratio]
    finished = costs.without_diverged(at_ratio)
    means = finished.groupby('method').final_accuracy.mean()
    best = means.idxmax() if len(means) else None
    tied = costs.not_worse(finished)
    for method in methods:
      rows = at_ratio[at_ratio.method == method]
      found[method][ratio] = Cell(
        rows,
        costs.ended(rows),
        frame.seed.nunique(),
        method == best,
        method in tied,
        joined(marks[rows.index]),
      )
  return found


def setup(frame: pd.DataFrame, settings: Settings) -> str:
  """What all rows share, in words."""
  options = ''.join(f'{k} {v}, ' for k, v in settings.options.items())
  seeds = ', '.join(str(s) for s in sorted(frame.seed.unique()))
  return (
    f'{settings.task}, {settings.model}, {options}{settings.clients_per_round} '
    f'clients a round, {settings.total_rounds} rounds; test accuracy, mean of '
    f'the last evaluations, mean +- standard deviation over seeds {seeds}.'
  )


def _peer_bytes(finished: pd.DataFrame) -> list[str | Table]:
  """`costs.bytes_of_best_peer` as a table, with the geometric mean."""
  needed = costs.bytes_of_best_peer(finished)
  if needed.empty:
    return []
  header = (
    *('ratio', 'FedSynth', 'accuracy', 'bytes'),
    *('best peer', 'bytes', 'factor'),
  )
  rows = [
    [
      f'1/{r.ratio:g}',
      r.method,
      f'{r.accuracy:.3f}',
      f'{int(r.bytes):,}',
      r.peer,
      f'{r.bound} {r.peer_bytes:,.0f}'.strip(),
      f'{r.bound} {r.factor:.2f}'.strip(),
    ]
    for r in needed.itertuples()
  ]
  return [
    'Bytes that the best peer needs for the accuracy of FedSynth, interpolated '
    'between its budgets and FedAvg; "<=": it has it at the fewest bytes it was '
    'run with; ">=": FedAvg itself does not reach it. Geometric mean of the '
    f'factors, those with ">=" left out: {costs.mean_factor(needed)}.',
    Table(header, rows),
  ]


def _of_all(values: pd.Series | None, text) -> str:
  """The mean as text, if every seed has a value."""
  if values is None or values.isna().any():
    return '-'
  return text(values.mean())


def _details(finished: pd.DataFrame, marks: pd.Series) -> list[str | Table]:
  """Accuracies, bytes and costs, a row a method and ratio."""
  header = [
    *('method', 'ratio', 'bytes up, metered', 'server learning rate'),
    *('accuracy', 'last accuracy', 'test loss', 's a round'),
  ]
  for name in costs.SHARES:
    header += [f'rounds to {name}', 'seconds', 'up', 'up and down']
  megabytes = lambda mean: bytes_text(1e6 * mean)
  rows = []
  for (method, _), group in finished.groupby(
    ['method', finished.ratio.fillna(1)], sort=False
  ):
    ratio = group.ratio.iloc[0]
    row = [
      method + joined(marks[group.index]),
      '' if pd.isna(ratio) else f'1/{ratio:g}',
      f'{int(group.uplink_bytes.iloc[0]):,}',
      f'{group.server_learning_rate.iloc[0]:g}',
      spread(group.final_accuracy, 3),
      _of_all(group.get('last_accuracy'), '{:.3f}'.format),
      _of_all(group.get('final_loss'), '{:.4g}'.format),
      f'{group.seconds_per_round.mean():.2f}',
    ]
    for name in costs.SHARES:
      rounds = group.get(f'rounds_to_{name}', pd.Series(math.nan, group.index))
      row += [
        _of_all(rounds, '{:,.0f}'.format),
        _of_all(rounds * group.seconds_per_round, '{:,.0f}'.format),
        _of_all(group.get(f'megabytes_up_to_{name}'), megabytes),
        _of_all(group.get(f'megabytes_up_and_down_to_{name}'), megabytes),
      ]
    rows.append(row)
  return [
    'Accuracy is the mean of the last evaluations, as above; the last one stands '
    'beside it. Rounds, seconds without evaluations, and bytes of all clients '
    'together are those to reach a share of the accuracy of FedAvg with the same '
    'seed, mean over seeds; "-" where a seed did not.',
    Table(header, rows),
  ]


def comparison(
  frame: pd.DataFrame, settings: Settings, current: Mapping[str, str] | None
) -> str:
  """`parts` of a comparison in Markdown."""
  return '\n\n'.join(map(str, parts(frame, settings, current))) + '\n'


def parts(
  frame: pd.DataFrame, settings: Settings, current: Mapping[str, str] | None
) -> list[str | Table]:
  """A comparison: accuracy, bytes, and what an accuracy costs.

  Args:
    frame: A row a run, with costs.
    settings: What all runs share.
    current: The code that makes the table, see `provenance`; `None` marks no
      rows of other code.

  Returns:
    Tables, and sentences about them.
  """
  finished = costs.without_diverged(frame)
  reference = costs.ended(frame[frame.method == costs.REFERENCE])
  marks, notes = code_notes(frame, current)
  found = cells(frame, marks)
  ratios = sorted(frame.ratio.dropna().unique())
  shown = [setup(frame, settings)]
  if not reference.empty:
    shown.append(
      f'FedAvg: {accuracy(reference)} with '
      f'{int(reference.uplink_bytes.iloc[0]):,} bytes up a client and round'
      f'{joined(marks[reference.index])}.'
    )
  shown += [
    Table(
      ['method', *(f'1/{ratio:g}' for ratio in ratios)],
      [[m, *(of_method[r] for r in ratios)] for m, of_method in found.items()],
    ),
    'Bold is the best at its ratio; * is not worse than it: its lead, paired '
    'by seed, is within two standard errors. "too large" means that no setting '
    'of the method fits the budget.',
    *notes,
    *_peer_bytes(finished),
    *_details(finished, marks),
    *(
      f'{row.status.capitalize()}: {cell_name(row)}, seed {row.seed}: {row.error}'
      for row in frame[
        frame.status.isin(['failed', runner.DIVERGED])
      ].itertuples()
    ),
  ]
  return shown
