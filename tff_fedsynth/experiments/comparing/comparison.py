"""Compares methods at equal bytes: every method, budget and seed, once."""

import functools
import math
import os
import statistics
from typing import Any

import pandas as pd
import tqdm

from tff_fedsynth import options
from tff_fedsynth import tff_worker
from tff_fedsynth.errors import BudgetTooSmallError
from tff_fedsynth.experiments.comparing.cells import Comparison
from tff_fedsynth.experiments.comparing.cells import with_options
from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.pictures import showing
from tff_fedsynth.experiments.records import directory as directory_lib
from tff_fedsynth.experiments.records import grid as grid_lib
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.records import recovery
from tff_fedsynth.experiments.records import run_lock
from tff_fedsynth.experiments.reporting import report
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import run_directory
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.tasks import TASKS


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
  bar = tqdm.tqdm(comparison.budgets, 'Checking methods', leave=False)
  for method, ratio in bar:
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


def _summary(
  settings: Settings, bar: tqdm.tqdm, meter: building.Meter
) -> tuple[dict[str, Any], bool]:
  """Runs one cell, or reads what it gave before; tells whether it was run."""
  summary = runner.read_summary(settings)
  if summary is not None:
    return summary, False
  try:
    return showing.execute(meter.build(settings), bar), True
  except BudgetTooSmallError as e:
    return dict(error=str(e), status='too large'), True
  finally:
    # A worker keeps every program that it ever compiled.
    tff_worker.end_workers()


def _run(
  comparison: Comparison,
  settings: Settings,
  grid: grid_lib.Grid,
  bar: tqdm.tqdm,
  meter: building.Meter,
) -> tuple[dict[str, Any], bool]:
  """Runs one cell as `_summary` does, also one that fails.

  Args:
    comparison: Which it is a cell of.
    settings: Of the cell.
    grid: Of all cells.
    bar: Counts rounds.
    meter: Of all cells.

  Returns:
    The summary, or the `error` of a run that failed or did not fit; and whether
    it was run.
  """
  ratio = settings.compression_ratio
  bar.set_description(
    f'{settings.method}{f" 1/{ratio:g}" if ratio else ""} seed {settings.seed}'
  )
  expected = bar.n + settings.total_rounds
  found = None
  name = os.path.relpath(settings.output_dir, comparison.directory)
  with grid.cell(name):
    found = _summary(settings, bar, meter)
  bar.update(expected - bar.n)
  return found or (dict(error=grid.failed[name], status='failed'), True)


def _rank(accuracy: float) -> float:
  """Orders accuracies, with those of runs that diverged first."""
  return -math.inf if math.isnan(accuracy) else accuracy


def _tune(comparison, method, ratio, run) -> dict[str, Any]:
  """Chooses the server learning rate of a method at a budget, and its option.

  Args:
    comparison: What is compared.
    method: Of the cells.
    ratio: Of the cells.
    run: From settings to what `_run` returns.

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
      settings = with_options(settings, options)
      summary, _ = run(settings)
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
    key=lambda tuned: _rank(tuned[2]),
    default=(to_try[0], comparison.base.server_learning_rate, None),
  )
  by_option = {}
  for option, _, found in tried:
    for value in option.values():
      known = by_option.get(value, found)
      by_option[value] = max(found, known, key=_rank)
  return dict(
    server_learning_rate=best_rate,
    accuracies={rate: found for o, rate, found in tried if o == best},
    option_accuracies=by_option,
    options={**options, **best},
  )


def _row(settings, summary) -> dict[str, Any]:
  if 'error' in summary:
    summary = {**provenance.of_process(), **summary}
  values = {name: summary.get(name) for name in report.SUMMARY_COLUMNS}
  values['error'] = values['error'] or summary.get('diverged')
  return dict(
    method=settings.method,
    ratio=settings.compression_ratio,
    seed=settings.seed,
    server_learning_rate=settings.server_learning_rate,
    status=summary.get('status') or runner.status(summary),
    **values,
    **run_directory.made_again(settings),
  )


def _with_metrics(comparison: Comparison, row) -> dict[str, Any]:
  """A row with the path of its metrics.csv, if there is one."""
  ratio = None if pd.isna(row['ratio']) else row['ratio']
  path = comparison.place(row['method'], ratio, row['seed']) / 'metrics.csv'
  is_there = row['status'] in ('finished', runner.DIVERGED) and path.exists()
  return {**row, 'metrics': str(path) if is_there else None}


def _write(comparison: Comparison, rows, chosen) -> None:
  """Writes all results, with what stood there of other cells."""
  directory = comparison.directory
  directory.mkdir(parents=True, exist_ok=True)
  if chosen:
    path = directory / 'tuning.json'
    earlier = recovery.read_json(path) if path.exists() else {}
    recovery.write_json(path, {**earlier, **chosen})
  merged = comparison.ledger.add(rows)
  report.write(
    [_with_metrics(comparison, row) for row in merged],
    comparison.base,
    directory,
    comparison.command,
  )


def compare(comparison: Comparison) -> None:
  """Runs what has not run yet, and writes tables and pictures of everything.

  Writes to `base.output_dir`: runs/ and tuning/ with a directory a run,
  tuning.json, flags.json, and what `report.write` writes. Rows of other methods,
  ratios and seeds that stand there are kept.

  Raises:
    SettingsError: And others of `building.build`, before any training; or if
      another process writes there.
    FailedCellsError: At the end, if a run failed.
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
  chosen, meter = {}, building.Meter()
  with (
    tqdm.tqdm(total=rounds, unit='round', smoothing=0.05) as bar,
    grid_lib.Grid(lambda rows: _write(comparison, rows, chosen)) as grid,
  ):
    run = functools.partial(_run, comparison, grid=grid, bar=bar, meter=meter)
    for method, ratio in comparison.budgets:
      fields, measured = {}, {}
      if comparison.tuning_rates:
        tuned = _tune(comparison, method, ratio, run)
        chosen[f'{method}, ratio {ratio}'] = tuned
        fields['server_learning_rate'] = tuned['server_learning_rate']
        measured = tuned['options']
      for seed in comparison.seeds:
        settings = comparison.settings(method, ratio, seed, 'runs', **fields)
        settings = with_options(settings, measured)
        summary, is_new = run(settings)
        grid.add(_row(settings, summary), is_new=is_new)
