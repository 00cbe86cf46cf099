"""Compares settings of FedSynth at equal bytes, on a few clients or whole runs.

The first row is what the other flags say; a variant changes some of them.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import itertools
import pathlib
import statistics
from typing import Any

from absl import flags
import pandas as pd
import tqdm

from tff_fedsynth import errors
from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments import tff_contexts
from tff_fedsynth.experiments.measuring import ablation_report
from tff_fedsynth.experiments.measuring import means
from tff_fedsynth.experiments.methods import probe
from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.pictures import showing
from tff_fedsynth.experiments.records import directory as directory_lib
from tff_fedsynth.experiments.records import grid as grid_lib
from tff_fedsynth.experiments.records import ledger as ledger_lib
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.records import recovery
from tff_fedsynth.experiments.records import run_lock
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import run_directory
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.models.weights import model_shapes
from tff_fedsynth.options import option
from tff_fedsynth.payload import sketch as sketch_lib
from tff_fedsynth.payload.sketch import Sketch

_BASE = 'base'
# What a variant may change: its clients and their updates are those of the base.
_FIELDS = ('method', 'compression_ratio', 'uplink_bytes')


@dataclasses.dataclass(frozen=True)
class Options(settings_lib.Seeds):
  """Flags of the command beside those of its runs."""

  variant: tuple[str, ...] = option(
    (),
    'Adds a row that changes flags, FLAG=VALUE,FLAG=VALUE; give it once for each '
    'row.',
    group='Ablation',
    is_repeated=True,
  )
  probe_rounds: tuple[int, ...] = option(
    (1, 5, 15),
    'Measures in these rounds of FedAvg.',
    group='Ablation',
    minimum=1,
  )
  probe_clients: int = option(
    4,
    'Sets how many clients are measured in each of these rounds.',
    group='Ablation',
    minimum=1,
  )
  train: bool = option(
    False, 'Trains every row too, for its accuracy.', group='Ablation'
  )


def variant_settings(
  base: Settings, variant: str, flag_values: flags.FlagValues
) -> Settings:
  """The settings of a variant: `flag=value,flag=value`, or empty.

  Raises:
    SettingsError: If it is not of that form, or a flag has no such value.
  """
  of_methods = {n for plugin in METHODS.values() for n in plugin.flags}
  known = of_methods | set(_FIELDS)
  fields, own = {}, dict(base.options)
  for part in filter(None, variant.split(',')):
    name, equals, text = part.partition('=')
    if not equals or name not in known:
      near = '' if name in known else errors.suggestion(name, known)
      raise SettingsError(
        f'--variant={variant} must be flags of a method, or one of {_FIELDS}, '
        'with their values, such as synthetic_bits=8,objective=update_cosine. '
        f'{part!r} is none.{near}'
      )
    try:
      value = flag_values[name].parser.parse(text)
    except ValueError as e:
      raise SettingsError(f'--variant={variant}: {e}') from e
    if name in _FIELDS:
      fields[name] = value
    else:
      own[name] = value
  return dataclasses.replace(base, options=own, **fields)


@dataclasses.dataclass(frozen=True)
class Ablation:
  """What is compared.

  Attributes:
    base: Settings of the first row; its `output_dir` is of the whole table.
    variants: From a name to the settings of a row; the base is among them.
    seeds: Each is measured for every row.
    rounds: In which clients are measured.
    clients: How many of a round's clients are.
    train: Whether every row is also trained, for its accuracy.
  """

  base: Settings
  variants: Mapping[str, Settings]
  seeds: Sequence[int]
  rounds: Sequence[int]
  clients: int
  train: bool

  def __post_init__(self):
    if self.train:
      for settings in self.variants.values():
        building.check_is_evaluated(settings)

  @property
  def ledger(self) -> ledger_lib.Ledger:
    """The table, which other variants and seeds may stand in already."""
    flags = self.base.as_flags()
    del flags['seed']
    flags.update(
      probe_rounds=','.join(map(str, self.rounds)),
      probe_clients=str(self.clients),
      train=str(self.train),
    )
    return ledger_lib.Ledger(
      pathlib.Path(self.base.output_dir) / 'cells.csv',
      ('variant', 'seed'),
      flags,
      self.base,
    )

  def program(self, variant: str, seed: int) -> provenance.Program:
    """What makes a row again."""
    flags = dict(
      seeds=seed,
      probe_rounds=tuple(self.rounds),
      probe_clients=self.clients,
      train=self.train,
      variant=None if variant == _BASE else variant,
    )
    return provenance.Program('fedsynth-ablate', flags)


@tff_contexts.in_any_thread()
def ablate(ablation: Ablation) -> pd.DataFrame:
  """Measures all rows, and writes cells.csv, table.md and over_seconds.png.

  Rows of other variants and seeds that stand there are kept.

  Returns:
    A row for each variant and seed: `variant`, `seed`, `uplink_bytes`, `cosine`,
    `cosine_of_means` of decoded and real updates over clients, averaged over rounds,
    `cosine_round_R`, `seconds` a client, `unbiased_error` of messages without a bias
    (the expected squared error over the squared norm of the update, with the sketch at
    its full scale), where trained `final_accuracy` and `last_accuracy`, the columns of
    `provenance`, `command` and `flags`. A codec alone has no cosine and no seconds.

  Raises:
    SettingsError: If a variant has nothing to measure, there are fewer
      clients in a round than are to be measured, rows of other flags stand
      there, or another process writes there.
    FailedCellsError: At the end, if a row failed.
    The errors of `building.build`, before anything is measured.
  """
  directory = directory_lib.check(ablation.base.output_dir)
  with run_lock.held(directory):
    return _ablate(ablation, directory)


def _ablate(ablation: Ablation, directory: pathlib.Path) -> pd.DataFrame:
  most = ablation.base.clients_per_round
  if ablation.clients > most:
    raise SettingsError(
      f'--probe_clients={ablation.clients} is more than the '
      f'--clients_per_round={most}. Lower it, or raise those.'
    )
  ledger = ablation.ledger
  ledger.check(list(itertools.product(ablation.variants, ablation.seeds)))
  meter = building.Meter()

  def build(name, seed):
    run = meter.build(
      dataclasses.replace(
        ablation.variants[name],
        seed=seed,
        output_dir=str(directory / 'runs' / name / f'seed_{seed}'),
      )
    )
    if run.built.config is None and _unbiased_error(run, [0.0]) is None:
      raise SettingsError(
        f'{name} has neither synthetic data nor an unbiased codec to measure. '
        'Leave it out.'
      )
    return run

  runs = {
    (name, seed): build(name, seed)
    for name in ablation.variants
    for seed in ablation.seeds
  }

  def write(rows):
    frame = ledger.write(rows)
    text = ablation_report.table(frame, provenance.of_process())
    recovery.write_text(directory / 'table.md', text)
    ablation_report.draw(frame, directory)
    return frame

  with grid_lib.Grid(write) as grid:
    for seed in tqdm.tqdm(ablation.seeds, unit='seed'):
      of_seed = {name: runs[name, seed] for name in ablation.variants}
      measured = None
      for name, run in of_seed.items():
        with grid.cell(f'{name}, seed {seed}'):
          if measured is None:
            # All of them, on the same updates.
            measured = _measure(ablation, of_seed)
          found = measured.get(name, (None, None))
          grid.add(_row(ablation, name, run, *found))
  return grid.table


def _measure(
  ablation: Ablation, runs: Mapping[str, building.Run]
) -> dict[str, tuple[probe.Probe, float]]:
  """Probes and cosines of means, of the runs that have synthetic data."""
  configs = {
    name: run.built.config for name, run in runs.items() if run.built.config
  }
  if not configs:
    return {}
  setup, configs_in_order = runs[_BASE].setup, list(configs.values())
  of_means = means.Means(setup, configs_in_order)
  probes = probe.measure(
    setup, configs_in_order, ablation.rounds, ablation.clients, of_means.add
  )
  return {
    name: (probed, of_means.cosine(i))
    for i, (name, probed) in enumerate(zip(configs, probes, strict=True))
  }


def _unbiased_error(
  run: building.Run, squared_cosines: Sequence[float]
) -> float | None:
  """Relative squared error of a client's message; `None` where it has a bias."""
  built, shapes = run.built, model_shapes(run.setup.model)
  sketch = built.codec and Sketch(built.codec)
  if built.config is not None and built.config.residual is not None:
    sketch = dataclasses.replace(built.config.residual, scale=1.0)
  if sketch is None or sketch.codec.relative_error(shapes) is None:
    return None
  return statistics.mean(
    sketch_lib.relative_error(square, sketch, shapes)
    for square in squared_cosines
  )


def _row(
  ablation: Ablation,
  name: str,
  run: building.Run,
  measured: probe.Probe | None,
  cosine_of_means: float | None,
) -> dict[str, Any]:
  """What stands in the table of a variant and seed; trains it if asked to."""
  seed = run.settings.seed
  row = dict(
    variant=name, seed=seed, uplink_bytes=run.communication.uplink_bytes
  )
  squared_cosines = [0.0]
  if measured is not None:
    squared_cosines = measured.squared_cosines
    row.update(cosine=measured.cosine, cosine_of_means=cosine_of_means)
    row['seconds'] = measured.seconds
    for round_num, cosines in zip(ablation.rounds, measured.cosines):
      row[f'cosine_round_{round_num}'] = statistics.mean(cosines)
  error = _unbiased_error(run, squared_cosines)
  if error is not None:
    row['unbiased_error'] = error
  code = provenance.of_process()
  if ablation.train:
    summary = showing.execute(run)
    row['final_accuracy'] = summary['final_accuracy']
    row['last_accuracy'] = summary['last_accuracy']
    row['status'] = runner.status(summary)
    row['rejected_clients'] = summary.get('rejected_clients')
    code = provenance.merged(summary, code)
  program = ablation.program(name, seed)
  again = run_directory.made_again(run.settings, program)
  # A variant changes its base.
  again['command'] = program.command(ablation.base.by_flag())
  return {**row, **code, **again}


def _main(argv) -> None:
  del argv
  o = command_flags.read(Options)
  base = settings_lib.from_flags(registry.own_options())
  variants = {_BASE: base}
  for variant in o.variant:
    variants[variant] = variant_settings(base, variant, flags.FLAGS)
  ablation = Ablation(
    base, variants, o.seeds, sorted(o.probe_rounds), o.probe_clients, o.train
  )
  with grid_lib.shown(base.output_dir):
    ablate(ablation)


def define_flags(flag_values: flags.FlagValues) -> None:
  """Defines the flags of the command."""
  building.define_flags(flag_values, Options, ('seed',))


def main() -> None:
  """Entry point of `fedsynth-ablate`."""
  cli.start(_main, define_flags)
