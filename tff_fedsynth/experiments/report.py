"""Tables and pictures of a comparison, out of one row a cell."""

from collections.abc import Sequence
import math
import pathlib
from typing import Any

import numpy as np
import pandas as pd

from tff_fedsynth.experiments import plots
from tff_fedsynth.experiments import runner
from tff_fedsynth.experiments.settings import Settings

# Taken over from summary.json as they are.
SUMMARY_COLUMNS = (
  'final_accuracy',
  'best_accuracy',
  'uplink_bytes',
  'downlink_bytes',
  'compression_ratio',
  'model_bytes',
  'seconds_per_round',
  'description',
  'error',
)
_REFERENCE = 'fedavg'
_OURS = 'fedsynth'
_SHARES = (0.9, 0.95, 0.98)
# Two standard errors of a paired difference, over seeds.
_ERRORS = 2.0


def accuracies(path: str) -> pd.Series:
  """Test accuracy by round, from a run's metrics.csv."""
  return _evaluations(path, runner.ACCURACY)


def _evaluations(path: str, name: str) -> pd.Series:
  return pd.read_csv(path).set_index('round')[name].dropna()


def final_loss(path: str) -> float:
  """Test loss, mean of the last evaluations as for the final accuracy."""
  losses = _evaluations(path, runner.LOSS)
  return losses.iloc[-runner.FINAL_EVALUATIONS :].mean()


def rounds_to(accuracy: pd.Series, target: float) -> float:
  """The first round whose accuracy is at least the target; NaN if there is none."""
  reached = accuracy[accuracy >= target]
  return float(reached.index[0]) if len(reached) else math.nan


def add_costs(frame: pd.DataFrame, clients_per_round: int) -> pd.DataFrame:
  """Adds rounds and megabytes to 90%, 95% and 98% of FedAvg's final accuracy.

  Megabytes (10^6 bytes) are those of all clients of all rounds until then, up,
  and up and down. FedAvg is that of the same seed.
  """
  frame = frame.copy()
  finished = frame[frame.status == 'finished']
  reference = finished[finished.method == _REFERENCE].set_index('seed')
  for share in _SHARES:
    name = f'{share:.0%}'
    for i, row in finished.iterrows():
      if row.seed not in reference.index:
        continue
      target = share * reference.final_accuracy[row.seed]
      rounds = rounds_to(accuracies(row.metrics), target)
      up = rounds * clients_per_round * row.uplink_bytes / 1e6
      down = rounds * clients_per_round * row.downlink_bytes / 1e6
      frame.loc[i, f'rounds_to_{name}'] = rounds
      frame.loc[i, f'megabytes_up_to_{name}'] = up
      frame.loc[i, f'megabytes_up_and_down_to_{name}'] = up + down
  return frame


def not_worse(frame: pd.DataFrame) -> set[str]:
  """Methods whose final accuracy is not shown to be below that of the best.

  Those for which the best one's lead, the mean over seeds of the difference on
  the same seed, is at most two of its standard errors.

  Args:
    frame: Finished rows at one ratio.
  """
  if frame.empty:
    return set()
  table = frame.pivot(index='seed', columns='method', values='final_accuracy')
  best = table.mean().idxmax()
  lead = table.rsub(table[best], axis=0)
  error = lead.std(ddof=1).fillna(0) / math.sqrt(len(table))
  return set(table.columns[lead.mean() <= _ERRORS * error]) | {best}


def bytes_of_best_peer(frame: pd.DataFrame) -> pd.DataFrame:
  """How many bytes the best peer needs for the accuracy of FedSynth.

  At each ratio, FedSynth is the best of the methods whose name begins so. The
  accuracy of a peer, mean over seeds, is interpolated linearly over the logarithm
  of its bytes; all peers end at FedAvg. The first crossing counts.

  Args:
    frame: Finished rows.

  Returns:
    A row a ratio: `ratio`, `method`, `accuracy`, `bytes`, `peer`, `peer_bytes`,
    `factor` (`peer_bytes` over `bytes`), and `bound`: '<=' where a peer has that
    accuracy at the fewest bytes that it was run with, '>=' where not even FedAvg
    reaches it, else ''.
  """
  means = (
    frame.groupby(['method', 'uplink_bytes'])
    .agg(accuracy=('final_accuracy', 'mean'), ratio=('ratio', 'first'))
    .reset_index()
    .sort_values('uplink_bytes')
  )
  ours = means.method.str.startswith(_OURS)
  reference = means[means.method == _REFERENCE]
  peers = means[~ours & (means.method != _REFERENCE)]
  rows = []
  for ratio, group in means[ours].groupby('ratio', sort=True):
    best = group.loc[group.accuracy.idxmax()]
    found = []
    for name, points in peers.groupby('method'):
      points = pd.concat([points, reference])
      sizes = list(points.uplink_bytes)
      values = list(points.accuracy - best.accuracy)
      reached = next((i for i, v in enumerate(values) if v >= 0), None)
      if reached is None:
        found.append((sizes[-1], '>=', name))
      elif reached == 0:
        found.append((sizes[0], '<=', name))
      else:
        below, above = values[reached - 1 : reached + 1]
        share = below / (below - above)
        low, high = sizes[reached - 1 : reached + 1]
        found.append((low * (high / low) ** share, '', name))
    if found:
      peer_bytes, bound, peer = min(found)
      rows.append(
        dict(
          ratio=ratio,
          method=best.method,
          accuracy=best.accuracy,
          bytes=best.uplink_bytes,
          peer=peer,
          peer_bytes=peer_bytes,
          factor=peer_bytes / best.uplink_bytes,
          bound=bound,
        )
      )
  return pd.DataFrame(rows)


def mean_factor(needed: pd.DataFrame) -> str:
  """Geometric mean of factors without those of ">=", as text; "-" if none."""
  factors = needed.factor[needed.bound != '>=']
  return '-' if factors.empty else f'{math.exp(np.log(factors).mean()):.2f}'


def _peer_bytes(finished: pd.DataFrame) -> list[str]:
  """`bytes_of_best_peer` in Markdown, with the geometric mean."""
  needed = bytes_of_best_peer(finished)
  if needed.empty:
    return []
  return [
    'Bytes that the best peer needs for the accuracy of FedSynth, interpolated '
    'between its budgets and FedAvg; "<=": it has it at the fewest bytes it was '
    'run with; ">=": FedAvg itself does not reach it. Geometric mean of the '
    f'factors, those with ">=" left out: {mean_factor(needed)}.',
    markdown(
      [
        'ratio',
        'FedSynth',
        'accuracy',
        'bytes',
        'best peer',
        'bytes',
        'factor',
      ],
      [
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
      ],
    ),
  ]


def spread(values: pd.Series, digits: int) -> str:
  """Mean +- standard deviation, as text."""
  text = f'{values.mean():.{digits}f}'
  if len(values) > 1:
    text += f' +- {values.std(ddof=1):.{digits}f}'
  return text


def _cell(rows: pd.DataFrame, tied: set[str], best: str | None) -> str:
  """Accuracy of one method at one ratio."""
  if rows.empty:
    return ''
  finished = rows[rows.status == 'finished']
  if finished.empty:
    return rows.status.iloc[0]
  text = spread(finished.final_accuracy, 3)
  method = finished.method.iloc[0]
  if method == best:
    text = f'**{text}**'
  elif method in tied:
    text += ' *'
  failed = len(rows) - len(finished)
  return text + (f' ({failed} failed)' if failed else '')


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  """A table in Markdown."""
  lines = [header, ['---'] * len(header), *rows]
  return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)


def _mean_of_all(values: pd.Series, digits: int) -> str:
  """The mean, if every seed has a value."""
  return '-' if values.isna().any() else f'{values.mean():,.{digits}f}'


def table(frame: pd.DataFrame, settings: Settings) -> str:
  """The comparison in Markdown: accuracy, bytes, and cost of an accuracy."""
  finished = frame[frame.status == 'finished']
  ratios = sorted(frame.ratio.dropna().unique())
  methods = [m for m in frame.method.unique() if m != _REFERENCE]
  seeds = ', '.join(str(s) for s in frame.seed.unique())
  reference = finished[finished.method == _REFERENCE]
  parts = [
    f'{settings.task}, {settings.model}, '
    + ''.join(f'{k} {v}, ' for k, v in settings.options.items())
    + f'{settings.clients_per_round} clients a round, {settings.total_rounds} '
    f'rounds; final test accuracy, mean +- standard deviation over seeds {seeds}.',
  ]
  if not reference.empty:
    parts.append(
      f'FedAvg: {spread(reference.final_accuracy, 3)} with '
      f'{int(reference.uplink_bytes.iloc[0]):,} bytes up a client and round.'
    )
  columns = []
  for ratio in ratios:
    at_ratio = finished[finished.ratio == ratio]
    means = at_ratio.groupby('method').final_accuracy.mean()
    best = means.idxmax() if len(means) else None
    columns.append((ratio, not_worse(at_ratio), best))
  parts.append(
    markdown(
      ['method', *(f'1/{ratio:g}' for ratio in ratios)],
      [
        [
          method,
          *(
            _cell(
              frame[(frame.method == method) & (frame.ratio == ratio)],
              tied,
              best,
            )
            for ratio, tied, best in columns
          ),
        ]
        for method in methods
      ],
    )
  )
  parts.append(
    'Bold is the best at its ratio; * is not worse than it: its lead, paired '
    'by seed, is within two standard errors. "too large" means that no setting '
    'of the method fits the budget.'
  )
  parts += _peer_bytes(finished)
  header = [
    'method',
    'ratio',
    'bytes up, metered',
    'server learning rate',
    'test loss',
    's a round',
  ]
  for share in _SHARES:
    header += [f'rounds to {share:.0%}', 'MB up', 'MB up and down']
  rows = []
  for (method, _), group in finished.groupby(
    ['method', finished.ratio.fillna(1)], sort=False
  ):
    row = [
      method,
      '' if pd.isna(group.ratio.iloc[0]) else f'1/{group.ratio.iloc[0]:g}',
      f'{int(group.uplink_bytes.iloc[0]):,}',
      f'{group.server_learning_rate.iloc[0]:g}',
      _mean_of_all(group.final_loss, 3),
      f'{group.seconds_per_round.mean():.2f}',
    ]
    for share in _SHARES:
      name = f'{share:.0%}'
      for column, digits in (
        (f'rounds_to_{name}', 0),
        (f'megabytes_up_to_{name}', 2),
        (f'megabytes_up_and_down_to_{name}', 0),
      ):
        row.append(
          _mean_of_all(group[column], digits) if column in group else '-'
        )
    rows.append(row)
  parts.append(
    'To reach a share of the final accuracy of FedAvg with the same seed, all '
    'clients together, mean over seeds; "-" where a seed did not.'
  )
  parts.append(markdown(header, rows))
  failed = frame[frame.status == 'failed']
  for row in failed.itertuples():
    parts.append(
      f'Failed: {row.method}, 1/{row.ratio:g}, seed {row.seed}: {row.error}'
    )
  return '\n\n'.join(parts) + '\n'


def write(rows, settings: Settings, directory: pathlib.Path) -> None:
  """Writes results.csv, table.md and two pictures.

  Args:
    rows: One dictionary a cell.
    settings: What all cells share.
    directory: Where to.
  """
  # A column of nothing but None, the reference alone, would not be NaN.
  frame = pd.DataFrame(rows).astype({'ratio': float})
  frame['final_loss'] = frame.metrics.map(final_loss, na_action='ignore')
  frame = add_costs(frame, settings.clients_per_round)
  frame.drop(columns='metrics').to_csv(directory / 'results.csv', index=False)
  (directory / 'table.md').write_text(table(frame, settings))
  finished = frame[frame.status == 'finished']
  if finished.empty:
    return
  plots.plot_accuracy_over_uplink(
    finished, directory / 'accuracy_over_uplink.png'
  )
  curves = {
    (row.method, row.ratio, row.seed): accuracies(row.metrics)
    for row in finished.itertuples()
  }
  plots.plot_accuracy_over_rounds(
    curves, directory / 'accuracy_over_rounds.png'
  )
