"""Tables and pictures of a comparison, out of one row a cell."""

import pathlib

import pandas as pd

from tff_fedsynth.experiments.pictures import plots
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.reporting import costs
from tff_fedsynth.experiments.reporting import latex
from tff_fedsynth.experiments.reporting import tables
from tff_fedsynth.experiments.settings.settings import Settings

# Taken over from summary.json as they are.
SUMMARY_COLUMNS = (
  'final_accuracy',
  'last_accuracy',
  'best_accuracy',
  'uplink_bytes',
  'downlink_bytes',
  'compression_ratio',
  'model_bytes',
  'seconds_per_round',
  'description',
  'error',
  *provenance.COLUMNS,
)


def _with_numbers_of_metrics(frame: pd.DataFrame) -> pd.DataFrame:
  """Adds what metrics.csv tells, where there is one."""
  frame = frame.copy()
  for name, function in (
    ('final_loss', costs.final_loss),
    ('last_accuracy', costs.last_accuracy),
  ):
    found = frame.metrics.map(function, na_action='ignore').astype(float)
    if name in frame:
      found = found.fillna(frame[name].astype(float))
    frame[name] = found
  return frame


def write(rows, settings: Settings, directory: pathlib.Path) -> None:
  """Writes results.csv, table.md, table.tex and two pictures.

  Args:
    rows: One dictionary a cell; `metrics` is the path of its metrics.csv, or
      `None` where there is none.
    settings: What all cells share.
    directory: Where to.
  """
  # A column of nothing but None, the reference alone, would not be NaN.
  frame = pd.DataFrame(rows).astype({'ratio': float})
  frame = _with_numbers_of_metrics(frame)
  frame = costs.add_costs(frame, settings.clients_per_round)
  frame.drop(columns='metrics').to_csv(directory / 'results.csv', index=False)
  code = provenance.of_process()
  for name, module in (('table.md', tables), ('table.tex', latex)):
    text = module.comparison(frame, settings, code)
    (directory / name).write_text(text)
  finished = frame[frame.status == 'finished']
  if finished.empty:
    return
  plots.plot_accuracy_over_uplink(
    finished, directory / 'accuracy_over_uplink.png'
  )
  curves = {
    (row.method, row.ratio, row.seed): costs.accuracies(row.metrics)
    for row in finished.dropna(subset='metrics').itertuples()
  }
  if curves:
    plots.plot_accuracy_over_rounds(
      curves, directory / 'accuracy_over_rounds.png'
    )
