"""Compares methods at equal bytes: every method, budget and seed, once."""

from collections.abc import Mapping
import dataclasses
import functools
import json
import pathlib
import statistics
from typing import Any

from absl import flags
from absl import logging
import pandas as pd
import tqdm

from tff_fedsynth import options
from tff_fedsynth import tff_worker
from tff_fedsynth.errors import BudgetTooSmallError
from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.pictures import showing
from tff_fedsynth.experiments.records import directory as directory_lib
from tff_fedsynth.experiments.records import ledger as ledger_lib
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.records import recovery
from tff_fedsynth.experiments.records import run_lock
from tff_fedsynth.experiments.reporting import report
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import run_directory
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.experiments.workers import cli
from tff_fedsynth.tasks import TASKS

# What a cell, not a user, decides.
_OF_CELLS = (
  'compression_ratio',
  'method',
  'seed',
  'uplink_bytes',
)
_REFERENCE = 'fedavg'  # Always runs, without a budget.
_compared = functools.partial(options.option, group='Comparison')


@dataclasses.dataclass(frozen=True)
class Options(settings_lib.Seeds):
  """Flags of the comparison beside those that all its runs share."""

  methods: tuple[str, ...] = _compared(
    ('all',),
    'Compares these methods; fedavg is always among them.',
    ('all', *METHODS),
  )
  compression_ratios: tuple[float, ...] = _compared(
    (20.0, 100.0, 500.0, 2000.0),
    'Compares at these budgets: bytes of the float32 model over the bytes that a '
    'client may upload in a round.',
    **options.limits_of(Settings, 'compression_ratio'),
  )
  tune: bool = _compared(
    False,
    'Chooses the server learning rate of each method and budget first.',
  )
  tuning_server_learning_rates: tuple[float, ...] = _compared(
    (0.1, 0.3, 1.0),
    'Chooses from these server learning rates, with --tune.',
    **options.limits_of(Settings, 'server_learning_rate'),
  )
  tuning_seeds: tuple[int, ...] = _compared(
    (100,),
    'Chooses by runs with these seeds, with --tune; none may be in --seeds.',
    **options.limits_of(Settings, 'seed'),
  )
  tuning_rounds: int = _compared(
    20, 'Sets how many rounds these runs are trained, with --tune.', minimum=1
  )
  tuning_options: tuple[str, ...] = _compared(
    (),
    'Chooses a flag of a method too, with --tune: METHOD:FLAG=VALUE,VALUE; give '
    'it once for each method.',
    is_repeated=True,
  )


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
      _with_options(
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
    shared = options.fields(Settings).keys() - {'output_dir', *_OF_CELLS}
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
      groups,
    )

  def tuning_runs(self, method) -> int:
    """How many runs tune a method at a budget."""
    tried = len(self.options_to_tune(method)) * len(self.tuning_rates)
    return tried * len(self.tuning_seeds)


def _text(value) -> str:
  return f'{value:g}' if isinstance(value, float) else str(value)


def _with_options(settings: Settings, chosen: Mapping[str, Any]) -> Settings:
  """Settings with options as they were measured or tuned."""
  merged = {**settings.options, **chosen}
  return dataclasses.replace(
    settings, options={k: v for k, v in merged.items() if v is not None}
  )


def _check(comparison: Comparison) -> None:
  """Builds each method once, so that what is wrong shows before any training.

  Raises:
    The errors of `building.build`; `SettingsError` for options of nobody.
  """
  directory_lib.check(comparison.base.output_dir)
  task = options.pick(TASKS, comparison.base.task, 'task')
  known = dict(task.flags)
  for method in comparison.methods:
    known.update(METHODS[method].flags)
  for name in comparison.base.options:
    if name not in known:
      raise SettingsError(
        f'--{name} is a flag of none of the methods and not of the task. '
        'Leave it out.'
      )
  checked = set()
  for method, ratio in comparison.budgets:
    if method not in checked:
      if comparison.tuning_rates:
        # The rates of the table are not known yet.
        rate, *_ = comparison.tuning_rates
        option, *_ = comparison.options_to_tune(method)
        settings, *_ = comparison.tuning_settings(method, ratio, rate, **option)
      else:
        settings = comparison.settings(
          method, ratio, comparison.seeds[0], 'runs'
        )
      checked.add(method)
      if runner.read_summary(settings) is None:
        try:
          building.build(settings)
        except BudgetTooSmallError:
          checked.discard(method)  # It may fit the next one.


def _run(
  settings: Settings, bar: tqdm.tqdm, meter: building.Meter
) -> dict[str, Any]:
  """Runs one cell, or reads what it gave before.

  Args:
    settings: Of the cell.
    bar: Counts rounds.
    meter: Of all cells.

  Returns:
    The summary, or the `error` of a run that failed or did not fit.
  """
  ratio = settings.compression_ratio
  bar.set_description(
    f'{settings.method}{f" 1/{ratio:g}" if ratio else ""} seed {settings.seed}'
  )
  expected = bar.n + settings.total_rounds
  try:
    summary = runner.read_summary(settings)
    if summary is None:
      summary = showing.execute(meter.build(settings), bar)
  except BudgetTooSmallError as e:
    summary = dict(error=str(e), status='too large')
  except Exception as e:  # One bad cell must not take the others with it.
    logging.exception('%s failed', settings.output_dir)
    summary = dict(error=f'{type(e).__name__}: {e}', status='failed')
  finally:
    # A worker keeps every program that it ever compiled.
    tff_worker.end_workers()
  bar.update(expected - bar.n)
  return summary


def _tune(comparison, method, ratio, bar, meter) -> dict[str, Any]:
  """Chooses the server learning rate of a method at a budget, and its option.

  Returns:
    `server_learning_rate`; the `accuracies` of all rates with the best value of
    the option, and the best of each value as `option_accuracies`; and `options`:
    the best value, or else what the first run measured for itself, with which
    all later ones go.
  """
  options = {}

  def accuracy(rate, **option) -> float | None:
    found = []
    for settings in comparison.tuning_settings(method, ratio, rate, **option):
      settings = _with_options(settings, options)
      summary = _run(settings, bar, meter)
      if 'error' in summary:
        return None
      found.append(summary['final_accuracy'])
      if not option:
        options.update(run_directory.read_chosen(settings))
    return statistics.mean(found)

  to_try = comparison.options_to_tune(method)
  tried = [
    (option, rate, found)
    for option in to_try
    for rate in comparison.tuning_rates
    if (found := accuracy(rate, **option)) is not None
  ]
  best, best_rate, _ = max(
    tried,
    key=lambda run: run[2],
    default=(to_try[0], comparison.base.server_learning_rate, None),
  )
  by_option = {}
  for option, _, found in tried:
    for value in option.values():
      by_option[value] = max(found, by_option.get(value, found))
  return dict(
    server_learning_rate=best_rate,
    accuracies={rate: found for o, rate, found in tried if o == best},
    option_accuracies=by_option,
    options={**options, **best},
  )


def _row(settings, summary) -> dict[str, Any]:
  if 'error' in summary:
    summary = {**provenance.of_process(), **summary}
  return dict(
    method=settings.method,
    ratio=settings.compression_ratio,
    seed=settings.seed,
    server_learning_rate=settings.server_learning_rate,
    status=summary.get('status', 'finished'),
    **{name: summary.get(name) for name in report.SUMMARY_COLUMNS},
    **run_directory.made_again(settings),
  )


def _with_metrics(comparison: Comparison, row) -> dict[str, Any]:
  """A row with the path of its metrics.csv, if there is one."""
  ratio = None if pd.isna(row['ratio']) else row['ratio']
  path = comparison.place(row['method'], ratio, row['seed']) / 'metrics.csv'
  is_there = row['status'] == 'finished' and path.exists()
  return {**row, 'metrics': str(path) if is_there else None}


def _write(comparison: Comparison, rows, chosen) -> None:
  """Writes all results, with what stood there of other cells."""
  directory = comparison.directory
  directory.mkdir(parents=True, exist_ok=True)
  if chosen:
    path = directory / 'tuning.json'
    earlier = json.loads(path.read_text()) if path.exists() else {}
    text = json.dumps({**earlier, **chosen}, indent=2) + '\n'
    recovery.write_text(path, text)
  if rows:
    merged = comparison.ledger.add(rows)
    report.write(
      [_with_metrics(comparison, row) for row in merged],
      comparison.base,
      directory,
    )


def compare(comparison: Comparison) -> None:
  """Runs what has not run yet, and writes tables and pictures of everything.

  Writes to `base.output_dir`: runs/ and tuning/ with a directory a run,
  tuning.json, flags.json, and what `report.write` writes. Rows of other methods,
  ratios and seeds that stand there are kept.

  Raises:
    SettingsError: And others of `building.build`, before any training; or if
      another process writes there.
  """
  with run_lock.held(directory_lib.check(comparison.base.output_dir)):
    _compare(comparison)


def _compare(comparison: Comparison) -> None:
  _check(comparison)
  comparison.ledger.check(comparison.cells)
  rounds = sum(
    len(comparison.seeds) * comparison.base.total_rounds
    + comparison.tuning_runs(method) * comparison.tuning_rounds
    for method, _ in comparison.budgets
  )
  rows, chosen, meter = [], {}, building.Meter()
  bar = tqdm.tqdm(total=rounds, unit='round', smoothing=0.05)
  try:
    for method, ratio in comparison.budgets:
      fields, measured = {}, {}
      if comparison.tuning_rates:
        tuned = _tune(comparison, method, ratio, bar, meter)
        chosen[f'{method}, ratio {ratio}'] = tuned
        fields['server_learning_rate'] = tuned['server_learning_rate']
        measured = tuned['options']
      for seed in comparison.seeds:
        settings = comparison.settings(method, ratio, seed, 'runs', **fields)
        settings = _with_options(settings, measured)
        rows.append(_row(settings, _run(settings, bar, meter)))
  finally:
    bar.close()
    _write(comparison, rows, chosen)


def _tuning_option(text: str) -> tuple[str, tuple[str, tuple[Any, ...]]]:
  """What `METHOD:FLAG=VALUE,VALUE` says.

  Raises:
    SettingsError: If it is not of that form, or the method has no such flag.
  """
  method, _, rest = text.partition(':')
  name, _, values = rest.partition('=')
  if method not in METHODS or name not in METHODS[method].flags or not values:
    raise SettingsError(
      f'--tuning_options={text} must be a method, one of its flags and values, '
      'such as fedsynth_drive:residual_fraction=0,0.5,1.'
    )
  parse = flags.FLAGS[name].parser.parse
  try:
    return method, (name, tuple(map(parse, values.split(','))))
  except ValueError as e:
    raise SettingsError(f'--tuning_options={text}: {e}') from e


def _tuning_options(texts) -> dict[str, tuple[str, tuple[Any, ...]]]:
  """What all `--tuning_options` say, by method.

  Raises:
    SettingsError: See `_tuning_option`; or for two of one method.
  """
  found = dict(map(_tuning_option, texts))
  if len(found) < len(texts):
    raise SettingsError(
      'Only one flag of a method can be chosen, but --tuning_options names a '
      'method twice. Leave one of them out.'
    )
  return found


def _main(argv) -> None:
  del argv
  o = command_flags.read(Options)
  comparison = Comparison(
    base=settings_lib.from_flags(building.own_options()),
    methods=tuple(METHODS) if 'all' in o.methods else o.methods,
    ratios=o.compression_ratios,
    seeds=o.seeds,
    tuning_rates=o.tuning_server_learning_rates if o.tune else (),
    tuning_seeds=o.tuning_seeds,
    tuning_rounds=o.tuning_rounds,
    tuning_options=_tuning_options(o.tuning_options),
  )
  compare(comparison)
  print((comparison.directory / 'table.md').read_text())
  print(f'Results are in {comparison.directory}')


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of the comparison and those that all its runs share."""
  command_flags.define(options.fields(Options), flag_values)
  settings_lib.define_flags(building.own_options(), flag_values, _OF_CELLS)
  cli.define_worker_flags(flag_values)


def main() -> None:
  """Entry point of `fedsynth-compare`."""
  cli.start(_main, define_flags)
