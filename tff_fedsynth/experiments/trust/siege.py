"""Trains FedSynth with lying clients, with and without the server's defense."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
import pathlib

from absl import flags
import pandas as pd
import tqdm

from tff_fedsynth import learning_process
from tff_fedsynth import options
from tff_fedsynth import tff_worker
from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments import tff_contexts
from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.pictures import plots
from tff_fedsynth.experiments.pictures import showing
from tff_fedsynth.experiments.records import directory as directory_lib
from tff_fedsynth.experiments.records import grid as grid_lib
from tff_fedsynth.experiments.records import ledger as ledger_lib
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.records import recovery
from tff_fedsynth.experiments.records import run_lock
from tff_fedsynth.experiments.reporting import costs
from tff_fedsynth.experiments.reporting import tables
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import rounds
from tff_fedsynth.experiments.running import run_directory
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.experiments.trust import poisoning
from tff_fedsynth.options import option
from tff_fedsynth.server.config import Defense
from tff_fedsynth.server.config import ServerConfig

_HONEST = 'none'
_PICTURE = 'accuracy_over_attackers.png'
# What runs differ in is decided here, for each.
_OF_RUNS = (
  'seed',
  *(
    name
    for name, field in METHODS['fedsynth'].flags.items()
    if field.metadata['group'] == 'Trust'
  ),
)


@dataclasses.dataclass(frozen=True)
class Options(settings_lib.Seeds):
  """Flags of the command beside those of its runs."""

  attacks: tuple[str, ...] = option(
    ('all',),
    'Makes runs with each of these attacks.',
    ('all', *poisoning.ATTACKS),
    group='Attack',
  )
  attackers: tuple[int, ...] = option(
    (1, 2, 4),
    'Makes runs with each of these numbers of lying clients in a round.',
    group='Attack',
    minimum=1,
  )
  weight_cap: float = option(
    200.0,
    'Sets the most that a client can weigh, where weights are capped.',
    group='Attack',
    above=0,
  )


def defenses(max_client_weight: float) -> dict[str, Defense]:
  """What is compared; what is not finite is refused by all of them."""
  unbounded = {
    name: math.inf for name in ('max_value', 'max_step_size', 'max_scale')
  }
  return {
    'no bounds': Defense(**unbounded),
    'bounds (default)': Defense(),
    f'clipped, capped at {max_client_weight:g}': Defense(
      update_clip_norm='adaptive', max_client_weight=max_client_weight
    ),
    'median': Defense(aggregation='median'),
    # Of 10 clients, the 2 lowest and 2 highest values.
    'trimmed mean': Defense(aggregation='trimmed_mean', trim=0.2),
  }


@dataclasses.dataclass(frozen=True)
class Siege:
  """What is run.

  Attributes:
    base: Settings that all runs share.
    attacks: Names in `attacks.ATTACKS`.
    attackers: How many clients of a round lie: a run for each number.
    seeds: One run each.
    defenses: By name.

  Raises:
    SettingsError: If they do not go together.
  """

  base: Settings
  attacks: Sequence[str]
  attackers: Sequence[int]
  seeds: Sequence[int]
  defenses: Mapping[str, Defense]

  def __post_init__(self):
    for name in self.attacks:
      options.pick(poisoning.ATTACKS, name, 'attack')
    most = self.base.clients_per_round
    for number in self.attackers:
      if not 1 <= number <= most:
        raise SettingsError(
          f'--attackers must be from 1 to --clients_per_round={most}, found '
          f'{number}.'
        )
    building.check_is_evaluated(self.base)

  @property
  def rows(self) -> list[tuple[str, int]]:
    """Each attack with each number of attackers, after no attack at all."""
    pairs = [(a, n) for a in self.attacks for n in self.attackers]
    return [(_HONEST, 0), *pairs]

  @property
  def cells(self) -> list[tuple[str, int, str, int]]:
    """Attack, attackers, name of the defense, and seed of each run."""
    return [
      (*row, name, seed)
      for row in self.rows
      for name in self.defenses
      for seed in self.seeds
    ]

  @property
  def ledger(self) -> ledger_lib.Ledger:
    """The table, which other attacks and seeds may stand in already."""
    flags = self.base.as_flags()
    del flags['seed']
    return ledger_lib.Ledger(
      pathlib.Path(self.base.output_dir) / 'cells.csv',
      ('attack', 'attackers', 'defense', 'seed'),
      flags,
      self.base,
    )

  def program(self, attack, attackers, name, seed) -> provenance.Program:
    """The command that makes a run; all its attackers also make honest ones."""
    lying = {'attacks': attack, 'attackers': attackers}
    if attack == _HONEST:
      lying = {'attacks': next(iter(poisoning.ATTACKS)), 'attackers': 1}
    return provenance.Program(
      'fedsynth-attack',
      {
        **lying,
        'seeds': seed,
        'weight_cap': self.defenses[name].max_client_weight,
      },
    )


def _settings(siege: Siege, attack, attackers, name, seed) -> Settings:
  """The settings of one run."""
  place = f'{attack}_{attackers}/{name.replace(" ", "_")}/seed_{seed}'
  return dataclasses.replace(
    siege.base,
    seed=seed,
    output_dir=str(pathlib.Path(siege.base.output_dir) / 'runs' / place),
  )


def _execute(siege: Siege, settings: Settings, attack, attackers, name):
  """Trains with some attackers, and returns the summary."""
  run = building.build(settings)
  if run.built.config is None:
    raise SettingsError(
      f'--method={settings.method} sends no synthetic data to lie about. '
      'Choose one that does, such as fedsynth.'
    )
  server = ServerConfig(siege.defenses[name])
  if attackers:
    collection_fn = poisoning.collection_with(attack, attackers)
    server = dataclasses.replace(server, collection_fn=collection_fn)
  process = learning_process.build_fedsynth(
    *run.setup.trained,
    config=run.built.config,
    client_weighting=run.setup.client_weighting,
    server=server,
  )
  run = dataclasses.replace(
    run,
    built=dataclasses.replace(run.built, process=process),
    program=siege.program(attack, attackers, name, settings.seed),
  )
  summary = showing.execute(run)
  tff_worker.end_workers()
  return summary


def _row(siege: Siege, cell: tuple, settings: Settings, summary):
  """What stands in the table of a run."""
  metrics = pathlib.Path(settings.output_dir) / rounds.METRICS
  found = dict(zip(('attack', 'attackers', 'defense', 'seed'), cell))
  found.update(
    status=runner.status(summary),
    final_accuracy=summary['final_accuracy'],
    last_accuracy=summary.get('last_accuracy'),
    rejected_clients=summary.get('rejected_clients'),
  )
  if 'diverged' not in summary:  # Of an older version.
    found['last_accuracy'] = costs.last_accuracy(metrics)
    rejected = rounds.read_metric(metrics, rounds.REJECTED)
    found['rejected_clients'] = sum(rejected.values())
  return {
    **found,
    **{name: summary.get(name) for name in provenance.COLUMNS},
    **run_directory.made_again(settings, siege.program(*cell)),
  }


@tff_contexts.in_any_thread()
def besiege(siege: Siege) -> pd.DataFrame:
  """Runs what has not run yet, and writes tables and a picture.

  They are cells.csv, table.md, flags.json and accuracy_over_attackers.png.

  Rows of other attacks and seeds that stand there are kept.

  Returns:
    A row a run: `attack`, `attackers`, `defense`, `seed`, `final_accuracy`,
    `last_accuracy`, `rejected_clients` over all rounds, the columns of
    `provenance`, `command` and `flags`.

  Raises:
    SettingsError: If rows of other flags stand there, or another process writes
      there.
    FailedCellsError: At the end, if a run failed.
    The errors of `building.build`.
  """
  directory = directory_lib.check(siege.base.output_dir)
  with run_lock.held(directory):
    return _besiege(siege, directory)


def _besiege(siege: Siege, directory: pathlib.Path) -> pd.DataFrame:
  siege.ledger.check(siege.cells)

  def write(rows):
    frame = siege.ledger.write(rows)
    text = table(frame, provenance.of_process())
    recovery.write_text(directory / 'table.md', text)
    draw(frame, directory)
    return frame

  with grid_lib.Grid(write) as grid:
    for cell in tqdm.tqdm(siege.cells, unit='run'):
      settings = _settings(siege, *cell)
      with grid.cell(' '.join(map(str, cell))):
        summary = runner.read_summary(settings)
        is_new = summary is None
        if is_new:
          summary = _execute(siege, settings, *cell[:3])
        grid.add(_row(siege, cell, settings, summary), is_new=is_new)
  return grid.table


def draw(frame: pd.DataFrame, directory: pathlib.Path) -> None:
  """Draws accuracy_over_attackers.png, where clients lie in some runs.

  Args:
    frame: What `besiege` returns.
    directory: Where to.
  """
  if frame.attackers.any():
    plots.plot_accuracy_over_attackers(frame, directory / _PICTURE)


def table(frame: pd.DataFrame, current: Mapping[str, str] | None) -> str:
  """Accuracies in Markdown, a column a defense.

  Args:
    frame: What `besiege` returns.
    current: As in `tables.code_notes`.
  """
  names = list(frame.defense.unique())
  marks, notes = tables.code_notes(frame, current)
  rows = []
  for (attack, attackers), group in frame.groupby(
    ['attack', 'attackers'], sort=False
  ):
    row = [attack, attackers]
    for name in names:
      runs = group[group.defense == name]
      text = tables.accuracy(runs)
      last = runs.get('last_accuracy', pd.Series()).mean()
      if last == last and not text.startswith('NaN'):
        text += f', last {last:.3f}'
      row.append(text + tables.joined(marks[runs.index]))
    rows.append(row)
  parts = [
    'Accuracy, mean of the last evaluations, mean +- standard deviation over '
    'seeds; and that of the last one.',
    tables.markdown(['attack', 'attackers', *names], rows),
    *notes,
  ]
  return '\n\n'.join(parts) + '\n'


def _main(argv) -> None:
  del argv
  o = command_flags.read(Options)
  base = settings_lib.from_flags(registry.own_options())
  siege = Siege(
    base,
    tuple(poisoning.ATTACKS) if 'all' in o.attacks else o.attacks,
    o.attackers,
    o.seeds,
    defenses(o.weight_cap),
  )
  with grid_lib.shown(base.output_dir):
    besiege(siege)


def define_flags(flag_values: flags.FlagValues) -> None:
  """Defines the flags of the command."""
  building.define_flags(flag_values, Options, _OF_RUNS)


def main() -> None:
  """Entry point of `fedsynth-attack`."""
  cli.start(_main, define_flags)
