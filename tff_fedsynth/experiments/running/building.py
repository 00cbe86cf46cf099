"""Checks the settings of a run, and builds it."""

from collections.abc import Sequence
import dataclasses

from absl import flags
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import communication
from tff_fedsynth import errors
from tff_fedsynth import options
from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments import tff_contexts
from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.running import run_directory
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.experiments.settings.setup import Built
from tff_fedsynth.experiments.settings.setup import Setup
from tff_fedsynth.models import from_keras
from tff_fedsynth.models import weights as weights_lib
from tff_fedsynth.tasks import TASKS
from tff_fedsynth.tasks.federated import task as task_lib

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


def _check_own_options(settings, *plugins) -> None:
  """Refuses flags of another task or method, and values that cannot be."""
  for chosen in plugins:
    chosen.check(settings.options)
  for name in settings.options:
    if any(name in chosen.flags for chosen in plugins):
      continue
    owners = [
      f'--{flag}={owner}'
      for flag, registry in (('task', TASKS), ('method', METHODS))
      for owner, other in registry.items()
      if name in other.flags
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
    message = errors.unknown('model', settings.model, make_task.models)
    raise errors.OptionError(
      f'{message} These are those of the task {settings.task}.', 'model'
    )
  _check_own_options(settings, make_task, method)
  method.check_budget(settings)
  return method, make_task


def build_task(settings: Settings) -> task_lib.Task:
  """The data of a run.

  Raises:
    OptionError: If there is no such task; and see the modules.
  """
  make = options.pick(TASKS, settings.task, 'task')
  return make.make(settings.options, seed=settings.seed)


def _make_model(settings: Settings, task: task_lib.Task) -> tf.keras.Model:
  """The Keras model of a run.

  Raises:
    OptionError: If it does not fit the data of the task.
  """
  if settings.model not in task.models:
    raise errors.OptionError(
      f'The model {settings.model} does not fit the data: convolutions need '
      f'images that are large enough. Choose one of {", ".join(task.models)}.',
      'model',
    )
  return task.models[settings.model](settings.seed)


@tff_contexts.in_any_thread()
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
  run_directory.check(settings)
  method, _ = _choose(settings)
  task = build_task(settings)
  num_clients = len(task.train_data.client_ids)
  if num_clients and task.load is task_lib.stack_rows:
    # The others follow when they are read.
    first = task.train_data.client_ids[0]
    task_lib.check_ends(
      task.train_data.create_tf_dataset_for_client(first),
      f'The examples of client {first}',
    )
  if settings.clients_per_round > num_clients:
    raise SettingsError(
      f'--clients_per_round={settings.clients_per_round} is more than the '
      f'{num_clients} clients of the task.'
    )
  model = from_keras.from_keras(
    _make_model(settings, task), ignored_labels=task.ignored_labels
  )
  budget = settings.uplink_bytes
  if settings.compression_ratio is not None:
    budget = int(weights_lib.model_bytes(model) / settings.compression_ratio)
  setup = Setup(settings, model, budget, _round_data(settings, task))
  built = method.make(
    settings.options, setup, **run_directory.read_chosen(settings)
  )
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


def define_flags(
  flag_values: flags.FlagValues,
  own: type | None = None,
  without: Sequence[str] = (),
) -> None:
  """Defines the flags of a command that makes runs.

  Args:
    flag_values: Where to define them.
    own: A dataclass of options of the command alone.
    without: Names of settings that it decides itself.
  """
  if own is not None:
    command_flags.define(options.fields(own), flag_values)
  settings_lib.define_flags(registry.own_options(), flag_values, without)
  cli.define_worker_flags(flag_values)
