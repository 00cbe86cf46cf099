"""Compares methods at equal bytes: every method, budget and seed, once."""

import json
import statistics
from typing import Any

from absl import logging
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
      settings = with_options(settings, options)
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
        settings = with_options(settings, measured)
        rows.append(_row(settings, _run(settings, bar, meter)))
  finally:
    bar.close()
    _write(comparison, rows, chosen)
