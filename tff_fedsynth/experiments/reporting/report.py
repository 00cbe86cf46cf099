"""All that is written of a comparison, out of one row a cell."""

from collections.abc import Iterator
from collections.abc import Mapping
import pathlib

import pandas as pd

from tff_fedsynth.experiments.pictures import plots
from tff_fedsynth.experiments.records import curves
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.records import recovery
from tff_fedsynth.experiments.reporting import costs
from tff_fedsynth.experiments.reporting import latex
from tff_fedsynth.experiments.reporting import tables
from tff_fedsynth.experiments.reporting import web_page
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings.settings import Settings

OVER_UPLINK = 'accuracy_over_uplink.png'
OVER_ROUNDS = 'accuracy_over_rounds.png'
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
  'rejected_clients',
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
    of_run = frame.metrics.where(frame.status == 'finished')
    found = of_run.map(function, na_action='ignore').astype(float)
    if name in frame:
      found = found.fillna(frame[name].astype(float))
    frame[name] = found
  return frame


def draw(frame: pd.DataFrame, runs: Mapping, directory: pathlib.Path) -> None:
  """Draws what there is: accuracy over bytes, and over rounds.

  Args:
    frame: A row a run.
    runs: From `curves.key_of` a run to its accuracy by round.
    directory: Where to.
  """
  shown = costs.without_diverged(frame)
  if not shown.empty:
    diverged = frame[frame.status == runner.DIVERGED]
    names = dict.fromkeys(
      tables.cell_name(row) for row in diverged.itertuples()
    )
    path = directory / OVER_UPLINK
    plots.plot_accuracy_over_uplink(shown, path, list(names))
  if runs:
    plots.plot_accuracy_over_rounds(runs, directory / OVER_ROUNDS)


def _curves(frame: pd.DataFrame, directory: pathlib.Path) -> dict:
  """Accuracy by round of finished runs; what was known before of those gone."""
  earlier = curves.read(directory)
  found = {}
  for row in costs.ended(frame).itertuples():
    key = curves.key_of(row.method, row.ratio, row.seed)
    if pd.notna(row.metrics):
      found[key] = costs.accuracies(row.metrics)
    elif key in earlier:
      found[key] = earlier[key]
  return found


def _uploads(frame: pd.DataFrame) -> Iterator[web_page.Upload]:
  """What a client uploaded, of the first seed of each method and budget."""
  finished = frame[frame.status == 'finished'].dropna(subset='metrics')
  for row in finished.drop_duplicates(['method', 'ratio']).itertuples():
    for path in pathlib.Path(row.metrics).parent.glob('synthetic.*'):
      name = f'{row.method}, 1/{row.ratio:g} of the model, seed {row.seed}'
      yield web_page.Upload(name, path)


def write(
  rows, settings: Settings, directory: pathlib.Path, command: str
) -> None:
  """Writes results.csv, curves.csv, tables, pictures and report.html.

  Args:
    rows: One dictionary a cell; `metrics` is the path of its metrics.csv, or
      `None` where there is none.
    settings: What all cells share.
    directory: Where to.
    command: That made the comparison.
  """
  # A column of nothing but None, the reference alone, would not be NaN.
  frame = pd.DataFrame(rows).astype({'ratio': float})
  frame = _with_numbers_of_metrics(frame)
  frame = costs.add_costs(frame, settings.clients_per_round)
  text = frame.drop(columns='metrics').to_csv(index=False)
  recovery.write_text(directory / 'results.csv', text)
  runs = _curves(frame, directory)
  curves.write(runs, directory)
  draw(frame, runs, directory)
  code = provenance.of_process()
  for name, module in (('table.md', tables), ('table.tex', latex)):
    text = module.comparison(frame, settings, code)
    recovery.write_text(directory / name, text)
  page = web_page.Page(
    title=f'{settings.task}, {settings.model}: methods at equal bytes',
    parts=tables.parts(frame, settings, code),
    pictures=[directory / name for name in (OVER_UPLINK, OVER_ROUNDS)],
    uploads=list(_uploads(frame)),
    command=command,
    commands=list(frame.command.dropna()),
    code=code,
  )
  recovery.write_text(directory / 'report.html', page.html())
