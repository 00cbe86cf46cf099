"""One training run: runs TFF's training loop, and writes its results."""

from collections.abc import Iterable
from collections.abc import Mapping
import math
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

# The status of a run that has no accuracy at its end.
DIVERGED = 'diverged'
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
  """Reads a column of metrics.csv, but for the untrained model."""
  values = rounds.read_metric(path, name)
  return {number: value for number, value in values.items() if number > 0}


def _divergence(metrics_path: pathlib.Path) -> str | None:
  """Says why a run that diverged has no accuracy; `None` if it did not."""
  losses = _read_column(metrics_path, rounds.LOSS)
  final = final_rounds(losses)
  if not all(math.isfinite(losses[r]) for r in final):
    return 'the loss is not finite'
  unused = _read_column(metrics_path, rounds.NON_FINITE)
  late = [value for r, value in unused.items() if final and r >= final[0]]
  if late and all(late):
    return f'no update of the last {len(late)} rounds could be used'
  return None


def _summarize(run: Run, metrics_path: pathlib.Path) -> dict[str, Any]:
  """Computes what summary.json holds.

  Accuracies are `None` without an evaluation. Those of the end are NaN for a run that
  diverged.
  """
  s = run.settings
  accuracies = _read_column(metrics_path, rounds.ACCURACY)
  diverged = _divergence(metrics_path)
  last = [accuracies[r] for r in final_rounds(accuracies)]
  if diverged:
    last = [math.nan for _ in last]
  rejected = _read_column(metrics_path, rounds.REJECTED).values()
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
    best_accuracy=max(filter(math.isfinite, accuracies.values()), default=None),
    diverged=diverged,
    # `None` for methods whose server takes everything.
    rejected_clients=int(sum(rejected)) if rejected else None,
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


def status(summary: Mapping[str, Any]) -> str:
  """Tells how a run ended; a summary of an older version does not."""
  return DIVERGED if summary.get('diverged') else 'finished'


def read_summary(settings: Settings) -> dict[str, Any] | None:
  """What `execute` returned for the same settings; `None` if it never did.

  Raises:
    SettingsError: If the directory holds something else.
  """
  path = run_directory.check(settings) / 'summary.json'
  if not path.exists():
    return None
  summary = recovery.read_json(path)
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
    What summary.json holds: bytes are those of one client in one round. A number
    that is not finite stands there as the text "NaN", "Infinity" or "-Infinity".

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
    recovery.write_json(directory / 'summary.json', summary)
  return summary
