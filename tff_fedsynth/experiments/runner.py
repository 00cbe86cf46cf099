"""One training run: builds it, runs TFF's training loop, writes its results."""

import asyncio
import collections
import contextlib
import csv
import dataclasses
import json
import pathlib
import statistics
from typing import Any

from absl import logging
import numpy as np
import tensorflow_federated as tff
import tqdm

from tff_fedsynth import client_work
from tff_fedsynth import communication
from tff_fedsynth import options
from tff_fedsynth import specs
from tff_fedsynth import synthetic_data
from tff_fedsynth.experiments import directory as directory_lib
from tff_fedsynth.experiments import plots
from tff_fedsynth.experiments import provenance
from tff_fedsynth.experiments import recovery
from tff_fedsynth.experiments import show_text
from tff_fedsynth.experiments.method import Built
from tff_fedsynth.experiments.method import Setup
from tff_fedsynth.experiments.methods import METHODS
from tff_fedsynth.experiments.settings import Settings
from tff_fedsynth.experiments.settings import SettingsError
from tff_fedsynth.models import conversion
from tff_fedsynth.tasks import task as task_lib
from tff_fedsynth.tasks import TASKS

_CHOSEN = 'chosen.json'
_METRICS = 'metrics.csv'
ACCURACY = 'evaluation/accuracy'
LOSS = 'evaluation/loss'
# The accuracy that a table reports is the mean of so many last evaluations.
FINAL_EVALUATIONS = 5
_TRAIN = provenance.Program()


class _Progress(tff.program.ReleaseManager):
  """Shows each round's accuracy and the time left; releases nothing."""

  def __init__(self, bar: tqdm.tqdm):
    self._bar = bar

  async def release(self, value, key: int) -> None:
    if key > 0:
      self._bar.update(1)
    if ACCURACY in value:
      self._bar.set_postfix(accuracy=f'{value[ACCURACY]:.3f}')


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
  """The directory, if it is new, empty, or holds the same run."""
  directory = directory_lib.check(settings.output_dir)
  flags_file = directory / 'flags.txt'
  new = settings.as_flags()
  if flags_file.exists():
    lines = flags_file.read_text().splitlines()
    # A flag that came after that run was at its default then.
    old = dict(Settings().as_flags())
    old.update(line.removeprefix('--').split('=', 1) for line in lines)
    differing = [
      f'--{k}: {old.get(k, "")!r} there, {new.get(k, "")!r} now'
      for k in sorted(old.keys() | new.keys())
      if old.get(k) != new.get(k)
    ]
    if differing:
      raise SettingsError(
        f'{directory} holds a run with other flags: {"; ".join(differing)}. '
        'Choose another --output_dir, or use the same flags to go on.'
      )
  elif directory.exists() and any(directory.iterdir()):
    raise SettingsError(
      f'{directory} is not empty and holds no run (no flags.txt). Choose '
      'another --output_dir.'
    )
  return directory


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
  method, make_task = _choose(settings)
  task = make_task.make(settings.options, seed=settings.seed)
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


def _evaluation(run: Run):
  """Accuracy and loss on the test data, through TFF's own evaluation."""
  evaluate = tff.learning.algorithms.build_fed_eval(run.model)
  initial = evaluate.initialize()
  get_weights = run.built.process.get_model_weights

  def evaluation_fn(state, data) -> dict[str, Any]:
    evaluation_state = evaluate.set_model_weights(initial, get_weights(state))
    metrics = evaluate.next(evaluation_state, data).metrics
    return dict(metrics['client_work']['eval']['current_round_metrics'])

  return evaluation_fn


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


def _show_synthetic_data(run: Run, state, directory: pathlib.Path) -> None:
  """Shows what one client of the last round uploads to the final model."""
  config = run.built.config
  synthesize = client_work.build_synthesis_computation(
    run.model,
    config=dataclasses.replace(config, diagnostics=True),
    client_optimizer=run.setup.client_optimizer,
    state_type=run.built.process.next.type_signature.parameter[
      0
    ].member.client_work,
  )
  batches = run.setup.round_data(run.settings.total_rounds)[0]
  weights = state.global_model_weights
  result = synthesize(state.client_work, weights, batches)
  data = synthetic_data.decode(
    config.spec,
    collections.OrderedDict(result.payload),
    run.model,
    (weights.trainable, weights.non_trainable),
  )
  cosine = result.measurements['cosine']
  if run.task.token_names is None:
    plots.plot_synthetic_data(data, cosine, directory / 'synthetic.png')
  else:
    show_text.write_synthetic_text(
      data,
      weights.trainable[0],
      run.task.token_names,
      cosine,
      directory / 'synthetic.txt',
    )


def read_chosen(settings: Settings) -> dict[str, Any]:
  """The options that were measured for a run; empty if there are none."""
  path = pathlib.Path(settings.output_dir) / _CHOSEN
  return json.loads(path.read_text()) if path.exists() else {}


def read_summary(settings: Settings) -> dict[str, Any] | None:
  """What `execute` returned for the same settings; `None` if it never did.

  Raises:
    SettingsError: If the directory holds something else.
  """
  path = _check_output_dir(settings) / 'summary.json'
  return json.loads(path.read_text()) if path.exists() else None


def train(run: Run, bar: tqdm.tqdm | None = None) -> Any:
  """Trains, or goes on where an earlier run stopped.

  Writes to `settings.output_dir`: flags.txt, chosen.json, provenance.json,
  metrics.csv, TensorBoard events and checkpoints.

  Args:
    run: What to train.
    bar: Counts rounds; `None` shows one for this run alone.

  Returns:
    The state of the process after the last round.
  """
  s = run.settings
  directory = _check_output_dir(s)
  directory.mkdir(parents=True, exist_ok=True)
  lines = [f'--{name}={value}' for name, value in s.as_flags().items()]
  recovery.write_text(directory / 'flags.txt', '\n'.join(lines) + '\n')
  if run.built.chosen:
    chosen = json.dumps(dict(run.built.chosen)) + '\n'
    recovery.write_text(directory / _CHOSEN, chosen)
  logging.info('%s: %s', s.method, run.built.description)

  loop = asyncio.new_event_loop()
  asyncio.set_event_loop(loop)
  with contextlib.ExitStack() as stack:
    stack.callback(loop.close)
    done = recovery.recover(directory, run.built.process)
    if done < s.total_rounds:
      provenance.record(directory, done)
    if bar is None:
      bar = stack.enter_context(
        tqdm.tqdm(desc=s.method, total=s.total_rounds, unit='round')
      )
    bar.update(done)
    return tff.simulation.run_training_process(
      run.built.process,
      run.setup.round_data,
      s.total_rounds,
      evaluation_fn=_evaluation(run),
      evaluation_selection_fn=lambda _: [run.task.test_data],
      rounds_per_evaluation=s.rounds_per_evaluation,
      program_state_manager=tff.program.FileProgramStateManager(
        str(directory / 'checkpoints')
      ),
      rounds_per_saving_program_state=s.rounds_per_checkpoint,
      metrics_managers=[
        tff.program.CSVFileReleaseManager(
          str(directory / _METRICS), key_fieldname='round'
        ),
        tff.program.TensorBoardReleaseManager(str(directory / 'tensorboard')),
        _Progress(bar),
      ],
    )


def execute(run: Run, bar: tqdm.tqdm | None = None) -> dict[str, Any]:
  """Trains as `train` does, and writes the results.

  Writes summary.json too, and for methods with synthetic data synthetic.png, or
  synthetic.txt for text.

  Args:
    run: What to train.
    bar: Counts rounds; `None` shows one for this run alone.

  Returns:
    What summary.json holds: bytes are those of one client in one round.
  """
  state = train(run, bar)
  directory = pathlib.Path(run.settings.output_dir)
  summary = _summarize(run, directory / _METRICS)
  if run.built.config is not None:
    _show_synthetic_data(run, state, directory)
  # Last, as it says that the run is finished.
  recovery.write_text(
    directory / 'summary.json', json.dumps(summary, indent=2) + '\n'
  )
  return summary
