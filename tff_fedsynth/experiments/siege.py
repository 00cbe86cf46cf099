"""Trains FedSynth with lying clients, with and without the server's defence."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
import pathlib

from absl import app
from absl import flags
import pandas as pd
import tqdm

from tff_fedsynth import learning_process
from tff_fedsynth import tff_worker
from tff_fedsynth.defense import Defense
from tff_fedsynth.experiments import anywhere
from tff_fedsynth.experiments import attacks
from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments import report
from tff_fedsynth.experiments import run_lock
from tff_fedsynth.experiments import runner
from tff_fedsynth.experiments import settings as settings_lib
from tff_fedsynth.experiments.settings import Settings
from tff_fedsynth.experiments.settings import SettingsError

_HONEST = 'none'


def defenses(max_client_weight: float) -> dict[str, Defense]:
  """What is compared; what is not finite is refused by all of them."""
  unbounded = {
    name: math.inf for name in ('max_value', 'max_step_size', 'max_scale')
  }
  capped = dict(max_client_weight=max_client_weight)
  return {
    'no bounds': Defense(**unbounded),
    'bounds (default)': Defense(),
    'clipped and capped': Defense(update_clip_norm='adaptive', **capped),
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
      if name not in attacks.ATTACKS:
        raise SettingsError(
          f'Unknown attack {name!r} in --attacks. Choose all, or some of '
          f'{sorted(attacks.ATTACKS)}.'
        )
    most = self.base.clients_per_round
    for number in self.attackers:
      if not 1 <= number <= most:
        raise SettingsError(
          f'--attackers must be from 1 to --clients_per_round={most}, found '
          f'{number}.'
        )
    if not self.base.output_dir:
      raise SettingsError('--output_dir is required: where results go.')

  @property
  def rows(self) -> list[tuple[str, int]]:
    """Each attack with each number of attackers, after no attack at all."""
    pairs = [(a, n) for a in self.attacks for n in self.attackers]
    return [(_HONEST, 0), *pairs]


def _run(siege: Siege, attack: str, attackers: int, name: str, seed: int):
  """One run: its summary, and rejected clients over all rounds."""
  place = f'{attack}_{attackers}/{name.replace(" ", "_")}/seed_{seed}'
  settings = dataclasses.replace(
    siege.base,
    seed=seed,
    output_dir=str(pathlib.Path(siege.base.output_dir) / 'runs' / place),
  )
  summary = runner.read_summary(settings)
  if summary is None:
    run = runner.build(settings)
    if run.built.config is None:
      raise SettingsError(
        f'--method={settings.method} sends no synthetic data to lie about. '
        'Choose one that does, such as fedsynth.'
      )
    arguments = run.setup.process_arguments
    attacked = {}
    if attackers:
      attacked['collection_fn'] = attacks.collection_with(attack, attackers)
    process = learning_process.build_fedsynth(
      run.model,
      run.setup.client_optimizer,
      arguments['server_optimizer_fn'],
      config=run.built.config,
      client_weighting=arguments['client_weighting'],
      defense=siege.defenses[name],
      seed=seed,
      **attacked,
    )
    built = dataclasses.replace(run.built, process=process)
    summary = runner.execute(dataclasses.replace(run, built=built))
    tff_worker.end_workers()
  metrics = pd.read_csv(pathlib.Path(settings.output_dir) / 'metrics.csv')
  return dict(
    attack=attack,
    attackers=attackers,
    defense=name,
    seed=seed,
    final_accuracy=summary['final_accuracy'],
    rejected_clients=metrics['finalizer/rejected_clients'].sum(),
  )


@anywhere.computing()
def besiege(siege: Siege) -> pd.DataFrame:
  """Runs what has not run yet, and writes cells.csv and table.md.

  Returns:
    A row a run: `attack`, `attackers`, `defense`, `seed`, `final_accuracy`, and
    `rejected_clients` over all rounds.

  Raises:
    SettingsError: And others of `runner.build`; or if another process writes
      there.
  """
  with run_lock.held(pathlib.Path(siege.base.output_dir)):
    return _besiege(siege)


def _besiege(siege: Siege) -> pd.DataFrame:
  cells = [
    (attack, attackers, name, seed)
    for attack, attackers in siege.rows
    for name in siege.defenses
    for seed in siege.seeds
  ]
  frame = pd.DataFrame(
    [_run(siege, *cell) for cell in tqdm.tqdm(cells, unit='run')]
  )
  directory = pathlib.Path(siege.base.output_dir)
  frame.to_csv(directory / 'cells.csv', index=False)
  (directory / 'table.md').write_text(table(frame))
  return frame


def table(frame: pd.DataFrame) -> str:
  """Accuracy, mean +- standard deviation over seeds, a column a defence."""
  names = list(frame.defense.unique())
  rows = []
  for (attack, attackers), group in frame.groupby(
    ['attack', 'attackers'], sort=False
  ):
    cells = [
      report.spread(group[group.defense == name].final_accuracy, 3)
      for name in names
    ]
    rows.append([attack, attackers, *cells])
  return report.markdown(['attack', 'attackers', *names], rows) + '\n'


def _main(argv) -> None:
  del argv
  base = settings_lib.from_flags(runner.own_options())
  chosen = tuple(flags.FLAGS.attacks)
  besiege(
    Siege(
      base,
      tuple(attacks.ATTACKS) if chosen == ('all',) else chosen,
      cli.numbers('attackers', int),
      cli.numbers('seeds', int),
      defenses(flags.FLAGS.weight_cap),
    )
  )
  print((pathlib.Path(base.output_dir) / 'table.md').read_text())


def main() -> None:
  """Entry point of `fedsynth-attack`."""
  settings_lib.define_flags(runner.own_options())
  flags.DEFINE_list('attacks', ['all'], 'Names of attacks, or all.')
  flags.DEFINE_list('attackers', ['1', '2', '4'], 'Lying clients in a round.')
  flags.DEFINE_list('seeds', ['0', '1', '2'], 'One run each.')
  flags.DEFINE_float(
    'weight_cap',
    200.0,
    'Most that a client can weigh where weights are capped.',
  )
  app.run(cli.command(_main))
