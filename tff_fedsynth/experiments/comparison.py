"""Compares methods at equal bytes: every method, budget and seed, once."""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
import statistics
from typing import Any

from absl import app
from absl import flags
from absl import logging
import tqdm

from tff_fedsynth import options
from tff_fedsynth import tff_worker
from tff_fedsynth.communication import BudgetTooSmallError
from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments import recovery
from tff_fedsynth.experiments import report
from tff_fedsynth.experiments import run_lock
from tff_fedsynth.experiments import runner
from tff_fedsynth.experiments.methods import METHODS
from tff_fedsynth.experiments.settings import Settings
from tff_fedsynth.experiments.settings import SettingsError

# What a cell, not a user, decides.
_OF_CELLS = (
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
      if method not in METHODS:
        raise SettingsError(
          f'Unknown method {method!r} in --methods. Choose all, or some of '
          f'{sorted(METHODS)}.'
        )
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
    if not self.base.output_dir:
      raise SettingsError('--output_dir is required: where results go.')

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

  def settings(self, method, ratio, seed, directory, **fields) -> Settings:
    """The settings of one run; each method gets the options that it has."""
    name = 'no_ratio' if ratio is None else f'ratio_{ratio:g}'
    has = {**METHODS[method].flags, **runner.TASKS[self.base.task].flags}
    return dataclasses.replace(
      self.base,
      output_dir=str(
        self.directory / directory / method / name / f'seed_{seed}'
      ),
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
    The errors of `runner.build`; `SettingsError` for options of nobody.
  """
  task = comparison.base.task
  if task not in runner.TASKS:
    raise SettingsError(
      f'Unknown --task={task}. Choose one of {sorted(runner.TASKS)}.'
    )
  known = dict(runner.TASKS[task].flags)
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
          runner.build(settings)
        except BudgetTooSmallError:
          checked.discard(method)  # It may fit the next one.


def _run(
  settings: Settings, bar: tqdm.tqdm, meter: runner.Meter
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
      summary = runner.execute(meter.build(settings), bar)
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
        options.update(runner.read_chosen(settings))
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
  metrics = pathlib.Path(settings.output_dir) / 'metrics.csv'
  return dict(
    method=settings.method,
    ratio=settings.compression_ratio,
    seed=settings.seed,
    server_learning_rate=settings.server_learning_rate,
    status=summary.get('status', 'finished'),
    metrics=None if 'error' in summary else str(metrics),
    **{name: summary.get(name) for name in report.SUMMARY_COLUMNS},
  )


def compare(comparison: Comparison) -> None:
  """Runs what has not run yet, and writes tables and pictures of everything.

  Writes to `base.output_dir`: runs/ and tuning/ with a directory a run,
  tuning.json, and what `report.write` writes.

  Raises:
    SettingsError: And others of `runner.build`, before any training; or if
      another process writes there.
  """
  with run_lock.held(comparison.directory):
    _compare(comparison)


def _compare(comparison: Comparison) -> None:
  _check(comparison)
  rounds = sum(
    len(comparison.seeds) * comparison.base.total_rounds
    + comparison.tuning_runs(method) * comparison.tuning_rounds
    for method, _ in comparison.budgets
  )
  rows, chosen, meter = [], {}, runner.Meter()
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
    comparison.directory.mkdir(parents=True, exist_ok=True)
    if chosen:
      text = json.dumps(chosen, indent=2) + '\n'
      recovery.write_text(comparison.directory / 'tuning.json', text)
    if rows:
      report.write(rows, comparison.base, comparison.directory)


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


def _main(argv) -> None:
  del argv
  own = runner.own_options()
  given = {n: flags.FLAGS[n].value for n in own}
  methods = tuple(flags.FLAGS.methods)
  comparison = Comparison(
    base=Settings(
      **{
        name: flags.FLAGS[name].value
        for name in options.fields(Settings)
        if name not in _OF_CELLS
      },
      options={k: v for k, v in given.items() if v is not None},
    ),
    methods=tuple(METHODS) if methods == ('all',) else methods,
    ratios=cli.numbers('compression_ratios', float),
    seeds=cli.numbers('seeds', int),
    tuning_rates=cli.numbers('tuning_server_learning_rates', float)
    if flags.FLAGS.tune
    else (),
    tuning_seeds=cli.numbers('tuning_seeds', int),
    tuning_rounds=flags.FLAGS.tuning_rounds,
    tuning_options=dict(map(_tuning_option, flags.FLAGS.tuning_options)),
  )
  compare(comparison)
  print((comparison.directory / 'table.md').read_text())
  print(f'Results are in {comparison.directory}')


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of the comparison and those that all its runs share."""
  shared = {
    k: v for k, v in options.fields(Settings).items() if k not in _OF_CELLS
  }
  options.define_flags(shared, flag_values)
  own = runner.own_options()
  options.define_flags(own, flag_values, with_defaults=False)
  define = lambda kind, *args: kind(*args, flag_values=flag_values)
  define(flags.DEFINE_list, 'methods', ['all'], 'Names of methods, or all.')
  define(
    flags.DEFINE_list,
    'compression_ratios',
    ['20', '100', '500', '2000'],
    'Budgets: bytes of the float32 model over bytes uploaded.',
  )
  define(flags.DEFINE_list, 'seeds', ['0', '1', '2'], 'One run each.')
  define(
    flags.DEFINE_bool,
    'tune',
    False,
    'Choose the server learning rate of each method and budget first.',
  )
  define(
    flags.DEFINE_list,
    'tuning_server_learning_rates',
    ['0.1', '0.3', '1'],
    'What to choose from.',
  )
  define(flags.DEFINE_list, 'tuning_seeds', ['100'], 'Seeds to choose on.')
  define(flags.DEFINE_integer, 'tuning_rounds', 20, 'Rounds of those runs.')
  define(
    flags.DEFINE_multi_string,
    'tuning_options',
    [],
    'METHOD:FLAG=VALUE,VALUE: a flag of a method to choose with the rate.',
  )


def main() -> None:
  """Entry point of `fedsynth-compare`."""
  define_flags()
  app.run(cli.command(_main))
