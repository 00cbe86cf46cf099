"""One training run: builds it, runs TFF's training loop, writes its results."""

import csv
import dataclasses
import json
import pathlib
import statistics
from typing import Any

import numpy as np
import tensorflow_federated as tff
import tqdm

from tff_fedsynth import communication
from tff_fedsynth import options
from tff_fedsynth import specs
from tff_fedsynth.experiments import anywhere
from tff_fedsynth.experiments import directory as directory_lib
from tff_fedsynth.experiments import provenance
from tff_fedsynth.experiments import recovery
from tff_fedsynth.experiments import rounds
from tff_fedsynth.experiments import run_lock
from tff_fedsynth.experiments import settings as settings_lib
from tff_fedsynth.experiments import showing
from tff_fedsynth.experiments.method import Built
from tff_fedsynth.experiments.method import Setup
from tff_fedsynth.experiments.methods import METHODS
from tff_fedsynth.experiments.settings import Settings
from tff_fedsynth.experiments.settings import SettingsError
from tff_fedsynth.models import conversion
from tff_fedsynth.tasks import task as task_lib
from tff_fedsynth.tasks import TASKS

ACCURACY = rounds.ACCURACY
LOSS = rounds.LOSS
# The only flag that a run may go on with another value of.
_GROWS = 'total_rounds'
# The accuracy that a table reports is the mean of so many last evaluations.
FINAL_EVALUATIONS = 5
_TRAIN = provenance.Program()


@dataclasses.dataclass(frozen=True)
class Run:
  """A run that was checked and built, and can start.

  Attributes:
    setup: Its settings, model and budget.
    task: Its data.
    built: Its method.
    communication: Bytes a client, from the meter.
    program: The command that makes it.
  """

  setup: Setup
  task: task_lib.Task
  built: Built
  communication: communication.Communication
  program: provenance.Program = _TRAIN

  @property
  def settings(self) -> Settings:
    """What the run was asked to be."""
    return self.setup.settings

  @property
  def model(self) -> tff.learning.models.FunctionalModel:
    """What it trains."""
    return self.setup.model


def own_options() -> dict[str, dataclasses.Field]:
  """The flags that only some tasks or methods have."""
  plugins = [*TASKS.values(), *METHODS.values()]
  return {name: f for plugin in plugins for name, f in plugin.flags.items()}


def _check_own_options(settings, *plugins) -> None:
  """Refuses flags of another task or method, and values that cannot be."""
  for plugin in plugins:
    plugin.check(settings.options)
  for name in settings.options:
    if any(name in plugin.flags for plugin in plugins):
      continue
    owners = [
      f'--{flag}={owner}'
      for flag, registry in (('task', TASKS), ('method', METHODS))
      for owner, plugin in registry.items()
      if name in plugin.flags
    ]
    raise SettingsError(
      f'--{name} goes only with {", ".join(owners)}, but --task is '
      f'{settings.task} and --method is {settings.method}. Leave it out, or '
      'change those.'
    )


def _choose(settings: Settings):
  """The plugins of the method and of the task.

  Raises:
    OptionError, SettingsError: If settings do not go together, as far as that
      is known before data are loaded.
  """
  method = options.pick(METHODS, settings.method, 'method')
  make_task = options.pick(TASKS, settings.task, 'task')
  if settings.model not in make_task.models:
    message = options.unknown('model', settings.model, make_task.models)
    raise options.OptionError(
      f'{message} These are those of the task {settings.task}.', 'model'
    )
  _check_own_options(settings, make_task, method)
  method.check_budget(settings)
  return method, make_task


def _check_output_dir(settings: Settings) -> pathlib.Path:
  """The directory, if it is new, empty, or holds the same run.

  Raises:
    SettingsError: If it holds something else, or another process writes there.
  """
  directory = directory_lib.check(settings.output_dir)
  run_lock.check_free(directory)
  flags_file = directory / rounds.FLAGS
  new = settings.as_flags()
  if flags_file.exists():
    lines = flags_file.read_text().splitlines()
    # A flag that came after that run was at its default then.
    old = dict(Settings().as_flags())
    old.update(line.removeprefix('--').split('=', 1) for line in lines)
    differing = settings_lib.differences(old, new)
    if int(old[_GROWS]) < int(new[_GROWS]):
      del differing[_GROWS]
    if differing:
      raise SettingsError(
        f'{directory} holds a run with other flags: '
        f'{"; ".join(differing.values())}. '
        'Choose another --output_dir, or use the same flags to go on; only '
        f'--{_GROWS} may grow.'
      )
  elif directory.exists() and any(
    path.name != run_lock.NAME for path in directory.iterdir()
  ):
    raise SettingsError(
      f'{directory} is not empty and holds no run (no flags.txt). Choose '
      'another --output_dir.'
    )
  return directory


def build_task(settings: Settings) -> task_lib.Task:
  """The data of a run.

  Raises:
    OptionError: If there is no such task; and see the modules.
  """
  make = options.pick(TASKS, settings.task, 'task')
  return make.make(settings.options, seed=settings.seed)


@anywhere.computing()
def build(
  settings: Settings, measured: communication.Communication | None = None
) -> Run:
  """Checks everything and builds a run, without training or writing.

  Args:
    settings: Of the run.
    measured: What the meter said of a run that differs only in its seed and
      learning rates, which cannot change it; saves seconds of compiling.

  Raises:
    SettingsError: If settings do not go together, or with the directory.
    BudgetTooSmallError, OptionError: See the modules.
  """
  provenance.of_process()  # Before anybody changes the files.
  _check_output_dir(settings)
  method, _ = _choose(settings)
  task = build_task(settings)
  num_clients = len(task.train_data.client_ids)
  if settings.clients_per_round > num_clients:
    raise SettingsError(
      f'--clients_per_round={settings.clients_per_round} is more than the '
      f'{num_clients} clients of the task.'
    )
  model = conversion.from_keras(
    task.models[settings.model](settings.seed),
    ignored_labels=task.ignored_labels,
  )
  budget = settings.uplink_bytes
  if settings.compression_ratio is not None:
    budget = int(specs.model_bytes(model) / settings.compression_ratio)
  setup = Setup(settings, model, budget, _round_data(settings, task))
  built = method.make(settings.options, setup, **read_chosen(settings))
  measured = measured or communication.measure(built.process)
  if budget is not None and measured.uplink_bytes > budget:
    raise AssertionError(
      f'{settings.method} uploads {measured.uplink_bytes} bytes, over its '
      f'budget of {budget}. This is a bug: please report it.'
    )
  return Run(setup, task, built, measured)


class Meter:
  """Builds runs that differ in method, budget, seed and learning rates.

  What those of the same bytes upload is metered once.
  """

  def __init__(self):
    self._measured = {}

  def build(self, settings: Settings) -> Run:
    """`build`, with what is known already; raises its errors."""
    s = settings
    key = (
      *(s.method, s.compression_ratio, s.uplink_bytes),
      *sorted(s.options.items()),
    )
    run = build(settings, self._measured.get(key))
    if not run.built.chosen:  # Else another seed may choose otherwise.
      self._measured[key] = run.communication
    return run


def _round_data(s: Settings, task: task_lib.Task):
  """A function from a round to its clients' batches, the same for all methods."""
  ids = task.train_data.client_ids
  sample = tff.simulation.build_uniform_sampling_fn(ids, random_seed=s.seed)
  index = {client_id: i for i, client_id in enumerate(ids)}

  def select(round_num: int):
    return [
      task_lib.client_batches(
        task,
        client_id,
        epochs=s.local_epochs,
        batch_size=s.batch_size,
        seed=_mix(s.seed, round_num, index[client_id]),
      )
      for client_id in sample(round_num, s.clients_per_round)
    ]

  return select


def _mix(*numbers: int) -> int:
  """One 32-bit seed out of several numbers."""
  return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def check_is_evaluated(settings: Settings) -> None:
  """Raises `SettingsError` for a run that would end without an accuracy."""
  s = settings
  if s.rounds_per_evaluation > s.total_rounds:
    raise SettingsError(
      f'--rounds_per_evaluation={s.rounds_per_evaluation} is more than the '
      f'{s.total_rounds} rounds of a run, so no trained model would be '
      'evaluated. Lower it.'
    )


def _read_column(path: pathlib.Path, name: str) -> list[float]:
  """The values of a column of metrics.csv, but that of the untrained model."""
  with path.open() as file:
    return [
      float(row[name])
      for row in csv.DictReader(file)
      if row.get(name) and int(row['round']) > 0
    ]


def full_flags(settings: Settings) -> dict[str, Any]:
  """All flags of a run, with those that were measured for it before it began.

  None of them is of another method, or fixed by the method's name.
  """
  prefix = METHODS[settings.method].prefix
  chosen = {prefix + k: v for k, v in read_chosen(settings).items()}
  values = {**settings.by_flag(), **chosen}
  return {k: v for k, v in values.items() if v is not None}


def fixed_flags(method: str) -> dict[str, Any]:
  """What the name of a method fixes, by the names that flags would have."""
  plugin = METHODS[method]
  return {plugin.prefix + k: v for k, v in plugin.fixed.items()}


def made_again(
  settings: Settings, program: provenance.Program = _TRAIN
) -> dict[str, str]:
  """Columns of a row: the `command` that makes it, and all `flags` as JSON."""
  flags = full_flags(settings)
  fixed = fixed_flags(settings.method)
  return dict(
    command=program.command(flags),
    flags=json.dumps({**flags, **fixed, **program.flags}),
  )


def _summarize(run: Run, metrics_path: pathlib.Path) -> dict[str, Any]:
  """What summary.json holds; accuracies are `None` without an evaluation."""
  s = run.settings
  accuracies = _read_column(metrics_path, ACCURACY)
  last = accuracies[-FINAL_EVALUATIONS:]
  seconds = _read_column(metrics_path, tff.simulation.TRAINING_TIME_KEY)
  model_bytes = specs.model_bytes(run.model)
  flags = full_flags(s)
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
    parameters=specs.model_parameters(run.model),
    model_bytes=model_bytes,
    uplink_bytes=run.communication.uplink_bytes,
    downlink_bytes=run.communication.downlink_bytes,
    metrics_bytes=run.communication.metrics_bytes,
    compression_ratio=model_bytes / run.communication.uplink_bytes,
    final_accuracy=statistics.mean(last) if last else None,
    final_evaluations=len(last),
    last_accuracy=last[-1] if last else None,
    best_accuracy=max(accuracies, default=None),
    rounds=s.total_rounds,
    # The first round also traces and compiles.
    seconds_per_round=statistics.median(seconds[1:] or seconds),
    description=run.built.description,
    **privacy,
    **provenance.made_by(metrics_path.parent),
    flags={**flags, **fixed_flags(s.method), **run.program.flags},
    command=run.program.command(flags),
  )


def read_chosen(settings: Settings) -> dict[str, Any]:
  """The options that were measured for a run; empty if there are none."""
  path = pathlib.Path(settings.output_dir) / rounds.CHOSEN
  return json.loads(path.read_text()) if path.exists() else {}


def read_summary(settings: Settings) -> dict[str, Any] | None:
  """What `execute` returned for the same settings; `None` if it never did.

  Raises:
    SettingsError: If the directory holds something else.
  """
  path = _check_output_dir(settings) / 'summary.json'
  if not path.exists():
    return None
  summary = json.loads(path.read_text())
  finished = summary.get('rounds', settings.total_rounds)
  return summary if finished == settings.total_rounds else None


@anywhere.computing()
def train(run: Run, bar: tqdm.tqdm | None = None) -> Any:
  """Trains, or goes on where an earlier run stopped.

  Writes to `settings.output_dir`: flags.txt, chosen.json, provenance.json,
  metrics.csv, TensorBoard events and checkpoints, the last round's among them.

  Args:
    run: What to train.
    bar: Counts rounds; `None` shows one for this run alone.

  Returns:
    The state of the process after the last round.

  Raises:
    SettingsError: If the directory holds something else, or another process
      writes there.
  """
  with run_lock.held(_check_output_dir(run.settings)):
    return rounds.train(run, bar, showing.Uploads(run).release)


@anywhere.computing()
def execute(run: Run, bar: tqdm.tqdm | None = None) -> dict[str, Any]:
  """Trains as `train` does, and writes the results; a finished run is left alone.

  Writes summary.json too, and for methods with synthetic data synthetic.png, or
  synthetic.txt for text.

  Args:
    run: What to train.
    bar: Counts rounds; `None` shows one for this run alone.

  Returns:
    What summary.json holds: bytes are those of one client in one round.

  Raises:
    SettingsError: As `train` does.
  """
  directory = pathlib.Path(run.settings.output_dir)
  if read_summary(run.settings) is not None:
    # Not what was read: older versions summarized otherwise.
    return _summarize(run, directory / rounds.METRICS)
  uploads = showing.Uploads(run)
  with run_lock.held(directory):
    state = rounds.train(run, bar, uploads.release)
    summary = _summarize(run, directory / rounds.METRICS)
    uploads.write(state)
    # Last, as it says that the run is finished.
    recovery.write_text(
      directory / 'summary.json', json.dumps(summary, indent=2) + '\n'
    )
  return summary
