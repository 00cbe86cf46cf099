"""Compares settings of FedSynth at equal bytes, on a few clients or whole runs.

The first row is what the other flags say; a variant changes some of them.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
import statistics

from absl import app
from absl import flags
import pandas as pd
import tqdm

from tff_fedsynth.experiments import anywhere
from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments import plots
from tff_fedsynth.experiments import probe
from tff_fedsynth.experiments import report
from tff_fedsynth.experiments import run_lock
from tff_fedsynth.experiments import runner
from tff_fedsynth.experiments import settings as settings_lib
from tff_fedsynth.experiments.methods import METHODS
from tff_fedsynth.experiments.settings import Settings
from tff_fedsynth.experiments.settings import SettingsError

_BASE = 'base'
# What a variant may change: its clients and their updates are those of the base.
_FIELDS = ('method', 'compression_ratio', 'uplink_bytes')


def variant_settings(
  base: Settings, variant: str, flag_values: flags.FlagValues
) -> Settings:
  """The settings of a variant: `flag=value,flag=value`, or empty.

  Raises:
    SettingsError: If it is not of that form, or a flag has no such value.
  """
  of_methods = {n for plugin in METHODS.values() for n in plugin.flags}
  fields, own = {}, dict(base.options)
  for part in filter(None, variant.split(',')):
    name, equals, text = part.partition('=')
    if not equals or name not in of_methods | set(_FIELDS):
      raise SettingsError(
        f'--variant={variant} must be flags of a method, or one of {_FIELDS}, '
        'with their values, such as synthetic_bits=8,objective=update_cosine. '
        f'{part!r} is none.'
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


@anywhere.computing()
def ablate(ablation: Ablation) -> pd.DataFrame:
  """Measures all rows, and writes cells.csv, table.md and over_seconds.png.

  Returns:
    A row for each variant and seed: `variant`, `seed`, `uplink_bytes`, `cosine`,
    `cosine_round_R`, `seconds` a client, and `final_accuracy` where trained.

  Raises:
    SettingsError: If a variant has no synthetic data to measure, or another
      process writes there.
    The errors of `runner.build`, before anything is measured.
  """
  with run_lock.held(pathlib.Path(ablation.base.output_dir)):
    return _ablate(ablation)


def _ablate(ablation: Ablation) -> pd.DataFrame:
  directory = pathlib.Path(ablation.base.output_dir)
  meter = runner.Meter()

  def build(name, seed):
    run = meter.build(
      dataclasses.replace(
        ablation.variants[name],
        seed=seed,
        output_dir=str(directory / 'runs' / name / f'seed_{seed}'),
      )
    )
    if run.built.config is None:
      raise SettingsError(f'{name} has no synthetic data. Leave it out.')
    return run

  runs = {
    (name, seed): build(name, seed)
    for name in ablation.variants
    for seed in ablation.seeds
  }
  rows = []
  for seed in tqdm.tqdm(ablation.seeds, unit='seed'):
    of_seed = {name: runs[name, seed] for name in ablation.variants}
    probes = probe.measure(
      of_seed[_BASE].setup,
      [run.built.config for run in of_seed.values()],
      ablation.rounds,
      ablation.clients,
    )
    for (name, run), measured in zip(of_seed.items(), probes, strict=True):
      row = dict(
        variant=name,
        seed=seed,
        uplink_bytes=run.communication.uplink_bytes,
        cosine=measured.cosine,
        seconds=measured.seconds,
      )
      for round_num, cosines in zip(ablation.rounds, measured.cosines):
        row[f'cosine_round_{round_num}'] = statistics.mean(cosines)
      if ablation.train:
        row['final_accuracy'] = runner.execute(run)['final_accuracy']
      rows.append(row)
  frame = pd.DataFrame(rows)
  directory.mkdir(parents=True, exist_ok=True)
  frame.to_csv(directory / 'cells.csv', index=False)
  (directory / 'table.md').write_text(table(frame))
  plots.plot_over_seconds(
    frame,
    'final_accuracy' if ablation.train else 'cosine',
    directory / 'over_seconds.png',
  )
  return frame


def table(frame: pd.DataFrame) -> str:
  """Mean +- standard deviation over seeds, a row a variant, as Markdown."""
  shown = [
    c
    for c in frame
    if c.startswith('cosine') or c in ('seconds', 'final_accuracy')
  ]
  rows = []
  for name, group in frame.groupby('variant', sort=False):
    rows.append(
      [
        name,
        f'{group.uplink_bytes.max():,}',
        *(report.spread(group[column], 3) for column in shown),
      ]
    )
  header = ['variant', 'bytes up', *(c.replace('_', ' ') for c in shown)]
  return report.markdown(header, rows) + '\n'


def _main(argv) -> None:
  del argv
  own = runner.own_options()
  base = settings_lib.from_flags(own)
  if not base.output_dir:
    raise SettingsError('--output_dir is required: where results go.')
  variants = {_BASE: base}
  for variant in flags.FLAGS.variant:
    variants[variant] = variant_settings(base, variant, flags.FLAGS)
  ablate(
    Ablation(
      base,
      variants,
      cli.numbers('seeds', int),
      cli.numbers('probe_rounds', int),
      flags.FLAGS.probe_clients,
      flags.FLAGS.train,
    )
  )
  print((pathlib.Path(base.output_dir) / 'table.md').read_text())


def main() -> None:
  """Entry point of `fedsynth-ablate`."""
  settings_lib.define_flags(runner.own_options())
  flags.DEFINE_multi_string('variant', [], 'Flags that a row changes.')
  flags.DEFINE_list('seeds', ['0', '1', '2'], 'Each is measured.')
  flags.DEFINE_list('probe_rounds', ['1', '5', '15'], 'Rounds to measure in.')
  flags.DEFINE_integer('probe_clients', 4, 'Clients to measure in each.', 1)
  flags.DEFINE_bool('train', False, 'Also train every row, for its accuracy.')
  app.run(cli.command(_main))
