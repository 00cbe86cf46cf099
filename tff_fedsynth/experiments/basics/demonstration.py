"""FedAvg, random masks and FedSynth side by side, in a few minutes."""

import dataclasses
import math
import pathlib

from absl import flags
import pandas as pd

from tff_fedsynth import options
from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments.pictures import plots
from tff_fedsynth.experiments.pictures import showing
from tff_fedsynth.experiments.records import curves
from tff_fedsynth.experiments.records import directory as directory_lib
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.records import run_lock
from tff_fedsynth.experiments.reporting import costs
from tff_fedsynth.experiments.reporting import report
from tff_fedsynth.experiments.reporting import tables
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import rounds
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.options import option

_METHODS = ('fedavg', 'random_mask', 'fedsynth')
_RATIO = 500
# Of summary.json, what a row of results.csv has.
_COLUMNS = (
  'method',
  'uplink_bytes',
  'compression_ratio',
  'final_accuracy',
  'last_accuracy',
  'seconds_per_round',
)


@dataclasses.dataclass(frozen=True)
class Options:
  """Flags of the demo."""

  output_dir: str = option(
    'demo',
    'Names the directory for all results; a demo that stopped there goes on.',
    group='Demo',
    is_path=True,
  )
  total_rounds: int = option(
    40, 'Sets how many rounds each method is trained.', group='Demo', minimum=1
  )

  def __post_init__(self):
    options.check(self)


def _demo(argv) -> None:
  del argv
  o = command_flags.read(Options)
  directory = directory_lib.check(o.output_dir)
  with run_lock.held(directory):
    _compare(directory, o.total_rounds)


def _compare(directory: pathlib.Path, total_rounds: int) -> None:
  # All are checked and built before the first one trains.
  runs = [
    building.build(
      Settings(
        output_dir=str(directory / method),
        method=method,
        compression_ratio=None if method == 'fedavg' else _RATIO,
        total_rounds=total_rounds,
      )
    )
    for method in _METHODS
  ]
  print(
    'Training an MLP of 159,010 parameters on real MNIST digits: 100 clients '
    'with two labels each, 10 a round.'
  )
  summaries = [showing.execute(run) for run in runs]
  frame = pd.DataFrame(summaries)[[*_COLUMNS, *provenance.COLUMNS]]
  frame.to_csv(directory / 'results.csv', index=False)
  text = table(frame)
  (directory / 'table.md').write_text(text, encoding='utf-8')
  print(f'\n{text}')
  runs = {
    # FedAvg, which needs no budget, is in every panel.
    curves.key_of(
      method, math.nan if method == 'fedavg' else _RATIO, 0
    ): costs.accuracies(directory / method / rounds.METRICS)
    for method in _METHODS
  }
  curves.write(runs, directory)
  picture = directory / report.OVER_ROUNDS
  plots.plot_accuracy_over_rounds(runs, picture)
  print(f'What a client uploads: {directory / "fedsynth" / "synthetic.png"}')
  print(f'Accuracy over rounds: {picture}')


def table(frame: pd.DataFrame) -> str:
  """Accuracy and bytes in Markdown, a row a method.

  Args:
    frame: A row a run, with `_COLUMNS`.
  """
  rows = [
    [
      f'`{row.method}`',
      f'{row.uplink_bytes:,}',
      f'{row.compression_ratio:.0f}',
      f'{row.final_accuracy:.3f}',
      f'{row.last_accuracy:.3f}',
    ]
    for row in frame.itertuples()
  ]
  header = [
    'method',
    'bytes up a client and round',
    'times less',
    'accuracy, mean of last 5',
    'last',
  ]
  return tables.markdown(header, rows) + '\n'


def define_flags(flag_values: flags.FlagValues) -> None:
  """Defines the flags of the command."""
  command_flags.define(options.fields(Options), flag_values)
  cli.define_worker_flags(flag_values)


def main() -> None:
  """Entry point of `make demo`."""
  cli.start(_demo, define_flags)
