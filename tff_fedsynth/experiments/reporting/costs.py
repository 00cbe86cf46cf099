"""Numbers of a comparison, out of one row a run: costs, and who is ahead."""

import math

import numpy as np
import pandas as pd

from tff_fedsynth.experiments.running import rounds
from tff_fedsynth.experiments.running import runner

REFERENCE = 'fedavg'
SHARES = {'90%': 0.9, '95%': 0.95}
_OURS = 'fedsynth'
# Two standard errors of a paired difference, over seeds.
_ERRORS = 2.0


def accuracies(path: str) -> pd.Series:
  """Reads test accuracy by round from a run's metrics.csv."""
  return _evaluations(path, rounds.ACCURACY)


def _evaluations(path: str, name: str) -> pd.Series:
  values = pd.Series(rounds.read_metric(path, name), dtype=float)
  return values.rename_axis('round')


def _of_trained(path: str, name: str) -> pd.Series:
  values = _evaluations(path, name)
  return values[values.index > 0]


def final_loss(path: str) -> float:
  """Test loss, mean of the last evaluations as for the final accuracy."""
  losses = _of_trained(path, rounds.LOSS)
  return losses[runner.final_rounds(losses.index)].mean()


def last_accuracy(path: str) -> float:
  """Test accuracy in the last evaluation of a trained model."""
  return _of_trained(path, rounds.ACCURACY).iloc[-1]


def rounds_to(accuracy: pd.Series, target: float) -> float:
  """The first round whose accuracy is at least the target; NaN if there is none."""
  reached = accuracy[accuracy >= target]
  return float(reached.index[0]) if len(reached) else math.nan


def ended(frame: pd.DataFrame) -> pd.DataFrame:
  """Selects runs that came to their end, those that diverged included."""
  return frame[frame.status.isin(['finished', runner.DIVERGED])]


def without_diverged(frame: pd.DataFrame) -> pd.DataFrame:
  """Selects finished rows of methods and budgets of which no seed diverged.

  The mean of the seeds that are left would say too much of the others.
  """
  diverged = frame.status == runner.DIVERGED
  groups = [frame.method, frame.ratio.fillna(0)]
  any_diverged = diverged.groupby(groups).transform('any')
  return frame[(frame.status == 'finished') & ~any_diverged]


def add_costs(frame: pd.DataFrame, clients_per_round: int) -> pd.DataFrame:
  """Adds rounds and megabytes to 90% and 95% of FedAvg's final accuracy.

  Megabytes (10^6 bytes) are those of all clients of all rounds until then, up,
  and up and down. FedAvg is that of the same seed. Rows whose metrics are gone
  keep what they have.
  """
  frame = frame.copy()
  finished = frame[frame.status == 'finished']
  reference = finished[finished.method == REFERENCE].set_index('seed')
  for name, share in SHARES.items():
    for i, row in finished.iterrows():
      if row.seed not in reference.index or pd.isna(row.metrics):
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
  # Of the seeds that both have.
  error = lead.std(ddof=1).fillna(0) / np.sqrt(lead.count())
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
  reference = means[means.method == REFERENCE]
  peers = means[~ours & (means.method != REFERENCE)]
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
