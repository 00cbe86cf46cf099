"""One training run: runs TFF's training loop, and writes its results."""

from collections.abc import Iterable
import csv
import json
import pathlib
import statistics
from typing import Any

import tensorflow_federated as tff
import tqdm

from tff_fedsynth.experiments import tff_contexts
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.records import recovery
from tff_fedsynth.experiments.records import run_lock
from tff_fedsynth.experiments.running import rounds
from tff_fedsynth.experiments.running import run_directory
from tff_fedsynth.experiments.running.building import Run
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.models import weights as weights_lib

# The accuracy that a table reports is the mean of so many last evaluations.
_FINAL_EVALUATIONS = 5


class Watcher:
  """What sees the models of a run; this one does nothing with them."""

  def release(self, state: Any, round_num: int) -> None:
    """Gets each state that is saved, and its round."""

  def write(self, state: Any) -> None:
    """Gets the state at the end."""


_NOBODY = Watcher()


def final_rounds(evaluated: Iterable[int]) -> list[int]:
  """Those rounds whose evaluations are the final ones, of all with one.

  They are the last five of the second half: a mean with the start of a short run
  would be of how fast it learned.
  """
  evaluated = sorted(evaluated)
  late = [r for r in evaluated if 2 * r > evaluated[-1]]
  return late[-_FINAL_EVALUATIONS:]


def _read_column(path: pathlib.Path, name: str) -> dict[int, float]:
  """From a round to a value of metrics.csv, but that of the untrained model."""
  with path.open() as file:
    return {
      int(row['round']): float(row[name])
      for row in csv.DictReader(file)
      if row.get(name) and int(row['round']) > 0
    }


def _summarize(run: Run, metrics_path: pathlib.Path) -> dict[str, Any]:
  """What summary.json holds; accuracies are `None` without an evaluation."""
  s = run.settings
  accuracies = _read_column(metrics_path, rounds.ACCURACY)
  last = [accuracies[r] for r in final_rounds(accuracies)]
  seconds = [
    *_read_column(metrics_path, tff.simulation.TRAINING_TIME_KEY).values()
  ]
  evaluating = _read_column(metrics_path, rounds.EVALUATION_SECONDS).values()
  model_bytes = weights_lib.model_bytes(run.model)
  flags = run_directory.full_flags(s)
  privacy = {}
  if run.built.privacy is not None:
    num_clients = len(run.task.train_data.client_ids)
    privacy = dict(
      epsilon=run.built.privacy.epsilon(num_clients, s.total_rounds),
      delta=run.built.privacy.delta,
    )
  return dict(
    task=s.task,
    method=s.method,
    model=s.model,
    options=dict(s.options),
    seed=s.seed,
    parameters=weights_lib.model_parameters(run.model),
    model_bytes=model_bytes,
    uplink_bytes=run.communication.uplink_bytes,
    downlink_bytes=run.communication.downlink_bytes,
    metrics_bytes=run.communication.metrics_bytes,
    compression_ratio=model_bytes / run.communication.uplink_bytes,
    final_accuracy=statistics.mean(last) if last else None,
    final_evaluations=len(last),
    last_accuracy=last[-1] if last else None,
    best_accuracy=max(accuracies.values(), default=None),
    rounds=s.total_rounds,
    # The first round also traces and compiles.
    seconds_per_round=statistics.median(seconds[1:] or seconds),
    seconds_per_evaluation=statistics.median(evaluating)
    if evaluating
    else None,
    description=run.built.description,
    **privacy,
    **provenance.made_by(metrics_path.parent),
    flags={**flags, **run_directory.fixed_flags(s.method), **run.program.flags},
    command=run.program.command(flags),
  )


def read_summary(settings: Settings) -> dict[str, Any] | None:
  """What `execute` returned for the same settings; `None` if it never did.

  Raises:
    SettingsError: If the directory holds something else.
  """
  path = run_directory.check(settings) / 'summary.json'
  if not path.exists():
    return None
  summary = json.loads(path.read_text())
  finished = summary.get('rounds', settings.total_rounds)
  return summary if finished == settings.total_rounds else None


@tff_contexts.in_any_thread()
def train(
  run: Run, bar: tqdm.tqdm | None = None, watcher: Watcher = _NOBODY
) -> Any:
  """Trains, or goes on where an earlier run stopped.

  Writes to `settings.output_dir`: flags.txt, chosen.json, provenance.json,
  metrics.csv, TensorBoard events and checkpoints, the last round's among them.

  Args:
    run: What to train.
    bar: Counts rounds; `None` shows one for this run alone.
    watcher: Sees models.

  Returns:
    The state of the process after the last round.

  Raises:
    SettingsError: If the directory holds something else, or another process
      writes there.
  """
  with run_lock.held(run_directory.check(run.settings)):
    return rounds.train(run, bar, watcher.release)


@tff_contexts.in_any_thread()
def execute(
  run: Run, bar: tqdm.tqdm | None = None, watcher: Watcher = _NOBODY
) -> dict[str, Any]:
  """Trains as `train` does, and writes the results; a finished run is left alone.

  Writes summary.json too, and lets the watcher write.

  Args:
    run: What to train.
    bar: Counts rounds; `None` shows one for this run alone.
    watcher: Sees models.

  Returns:
    What summary.json holds: bytes are those of one client in one round.

  Raises:
    SettingsError: As `train` does.
  """
  directory = pathlib.Path(run.settings.output_dir)
  if read_summary(run.settings) is not None:
    # Not what was read: older versions summarized otherwise.
    return _summarize(run, directory / rounds.METRICS)
  with run_lock.held(directory):
    state = rounds.train(run, bar, watcher.release)
    summary = _summarize(run, directory / rounds.METRICS)
    watcher.write(state)
    # Last, as it says that the run is finished.
    recovery.write_text(
      directory / 'summary.json', json.dumps(summary, indent=2) + '\n'
    )
  return summary
