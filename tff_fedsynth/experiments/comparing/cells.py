"""What is compared: the cells of a table, and the settings of their runs."""

from collections.abc import Mapping
import dataclasses
import pathlib
import shlex
from typing import Any

from tff_fedsynth import options
from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.records import ledger as ledger_lib
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.tasks import TASKS

# What a cell, not a user, decides.
OF_CELLS = (
  'compression_ratio',
  'method',
  'seed',
  'uplink_bytes',
)
_REFERENCE = 'fedavg'  # Always runs, without a budget.


@dataclasses.dataclass(frozen=True)
class Comparison:
  """What is compared.

  Attributes:
    base: Settings that all cells share; `options` go to the methods and the
      task that have them.
    methods: Names in `METHODS`.
    ratios: Compression ratios: the budgets.
    seeds: Of the cells in the table.
    tuning_rates: Server learning rates to try for each method and budget; none
      leaves that of `base`.
    tuning_seeds: Seeds of the tuning runs; none of `seeds`.
    tuning_rounds: Rounds of a tuning run.
    tuning_options: From a method to an option of it and the values to try, each
      with all of `tuning_rates`.
  """

  base: Settings
  methods: tuple[str, ...]
  ratios: tuple[float, ...]
  seeds: tuple[int, ...]
  tuning_rates: tuple[float, ...] = ()
  tuning_seeds: tuple[int, ...] = ()
  tuning_rounds: int = 20
  tuning_options: Mapping[str, tuple[str, tuple[Any, ...]]] = dataclasses.field(
    default_factory=dict
  )

  def __post_init__(self):
    for method in self.methods:
      options.pick(METHODS, method, 'method')
    for method in self.tuning_options:
      if method not in self.methods or not self.tuning_rates:
        raise SettingsError(
          f'--tuning_options={method}:... needs --tune, and {method} among '
          '--methods.'
        )
    for name in ('methods', 'ratios', 'seeds'):
      if not getattr(self, name):
        raise SettingsError(f'Nothing to compare: no {name} were given.')
    if self.tuning_rates and not self.tuning_seeds:
      raise SettingsError('--tune needs --tuning_seeds.')
    both = set(self.seeds) & set(self.tuning_seeds)
    if self.tuning_rates and both:
      raise SettingsError(
        f'Seeds {sorted(both)} are in --seeds and in --tuning_seeds: what is '
        'tuned on a seed says nothing about it. Take one of them out.'
      )
    building.check_is_evaluated(self.base)
    if self.tuning_rates:
      building.check_is_evaluated(
        dataclasses.replace(self.base, total_rounds=self.tuning_rounds)
      )

  @property
  def directory(self) -> pathlib.Path:
    """Where results go."""
    return pathlib.Path(self.base.output_dir)

  @property
  def budgets(self) -> list[tuple[str, float | None]]:
    """Each method with each ratio; the reference once, without one."""
    rest = [m for m in self.methods if m != _REFERENCE]
    return [
      (_REFERENCE, None),
      *((method, ratio) for ratio in self.ratios for method in rest),
    ]

  def place(self, method, ratio, seed, directory='runs') -> pathlib.Path:
    """Where one run is."""
    name = 'no_ratio' if ratio is None else f'ratio_{ratio:g}'
    return self.directory / directory / method / name / f'seed_{seed}'

  def settings(self, method, ratio, seed, directory, **fields) -> Settings:
    """The settings of one run; each method gets the options that it has."""
    has = {**METHODS[method].flags, **TASKS[self.base.task].flags}
    return dataclasses.replace(
      self.base,
      output_dir=str(self.place(method, ratio, seed, directory)),
      method=method,
      compression_ratio=ratio,
      seed=seed,
      options={k: v for k, v in self.base.options.items() if k in has},
      **fields,
    )

  def tuning_settings(self, method, ratio, rate, **option) -> list[Settings]:
    """The runs that try a server learning rate, and one value of an option."""
    tried = dict(server_learning_rate=rate, **option)
    name = ','.join(f'{k}_{_text(v)}' for k, v in tried.items())
    return [
      with_options(
        self.settings(
          method,
          ratio,
          seed,
          f'tuning/{name}',
          server_learning_rate=rate,
          total_rounds=self.tuning_rounds,
        ),
        option,
      )
      for seed in self.tuning_seeds
    ]

  def options_to_tune(self, method) -> list[dict[str, Any]]:
    """What is tried with every rate: values of an option, or none alone."""
    if method not in self.tuning_options:
      return [{}]
    name, values = self.tuning_options[method]
    return [{name: value} for value in values]

  @property
  def cells(self) -> list[tuple[str, float | None, int]]:
    """Method, ratio and seed of each row."""
    return [(*budget, seed) for budget in self.budgets for seed in self.seeds]

  @property
  def ledger(self) -> ledger_lib.Ledger:
    """The table, which other methods, ratios and seeds may stand in already."""
    text = self.base.as_flags()
    of_task = TASKS[self.base.task].flags
    shared = options.fields(Settings).keys() - {'output_dir', *OF_CELLS}
    flags = {k: text.get(k, '') for k in sorted({*shared, *of_task})}
    tuning = dict.fromkeys(
      ('tuning_server_learning_rates', 'tuning_seeds', 'tuning_rounds'), ''
    )
    if self.tuning_rates:
      flags['server_learning_rate'] = ''  # It is tuned.
      numbers = self.tuning_rates, self.tuning_seeds, (self.tuning_rounds,)
      for name, values in zip(tuning, numbers):
        tuning[name] = ','.join(map(_text, values))
    groups = {}
    for method in {_REFERENCE, *self.methods}:
      groups[method] = {k: text[k] for k in METHODS[method].flags if k in text}
      if method in self.tuning_options:
        name, values = self.tuning_options[method]
        tried = ','.join(map(_text, values))
        groups[method]['tuning_options'] = f'{method}:{name}={tried}'
    return ledger_lib.Ledger(
      self.directory / 'results.csv',
      ('method', 'ratio', 'seed'),
      {**flags, **tuning},
      self.base,
      groups,
    )

  @property
  def command(self) -> str:
    """The line for a shell that compares just this."""
    flags = {k: v for k, v in self.base.by_flag().items() if k not in OF_CELLS}
    own = dict(
      methods=self.methods, compression_ratios=self.ratios, seeds=self.seeds
    )
    if self.tuning_rates:
      own |= dict(
        tune=True,
        tuning_server_learning_rates=self.tuning_rates,
        tuning_seeds=self.tuning_seeds,
        tuning_rounds=self.tuning_rounds,
      )
    given = [
      f'--tuning_options={method}:{name}={",".join(map(_text, values))}'
      for method, (name, values) in self.tuning_options.items()
    ]
    command = provenance.Program('fedsynth-compare', own).command(flags)
    return ' '.join([command, *map(shlex.quote, given)])

  def tuning_runs(self, method) -> int:
    """How many runs tune a method at a budget."""
    tried = len(self.options_to_tune(method)) * len(self.tuning_rates)
    return tried * len(self.tuning_seeds)


def _text(value) -> str:
  return f'{value:g}' if isinstance(value, float) else str(value)


def with_options(settings: Settings, chosen: Mapping[str, Any]) -> Settings:
  """Settings with options as they were measured or tuned."""
  merged = {**settings.options, **chosen}
  return dataclasses.replace(
    settings, options={k: v for k, v in merged.items() if v is not None}
  )
