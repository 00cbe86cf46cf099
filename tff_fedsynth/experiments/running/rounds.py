"""TFF's training loop, with what it saves and tells of each round."""

import asyncio
from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import csv
import json
import math
import os
import pathlib
from typing import Any

from absl import logging
import tensorflow_federated as tff
import tqdm

from tff_fedsynth.experiments import tff_contexts
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.records import recovery

CHOSEN = 'chosen.json'
FLAGS = 'flags.txt'
METRICS = 'metrics.csv'
ACCURACY = 'evaluation/accuracy'
LOSS = 'evaluation/loss'
# How many messages of clients the server did not take.
REJECTED = 'finalizer/rejected_clients'
# Whether no update could be used, so that the model stayed as it was.
NON_FINITE = 'finalizer/update_non_finite'
# Those of a round are apart, TRAINING_TIME_KEY.
EVALUATION_SECONDS = 'evaluation/evaluation_time_in_seconds'
# Bytes that all clients of all rounds so far have uploaded.
UPLINK = 'communication/cumulative_uplink_bytes'
_CHECKPOINTS = 'checkpoints'
_PREFIX = 'program_state_'
_TENSORBOARD = 'tensorboard'


class _Progress(tff.program.ReleaseManager):
  """Shows each round's accuracy and the time left; releases nothing."""

  def __init__(self, bar: tqdm.tqdm):
    self._bar = bar

  async def release(self, value, key: int) -> None:
    if key > 0:
      self._bar.update(1)
    if ACCURACY in value:
      self._bar.set_postfix(accuracy=f'{value[ACCURACY]:.3f}')


class _WithBytes(tff.program.ReleaseManager):
  """Releases metrics to others, with the bytes uploaded until then."""

  def __init__(
    self, bytes_per_round: int, managers: Sequence[tff.program.ReleaseManager]
  ):
    self._bytes_per_round = bytes_per_round
    self._managers = managers

  async def release(self, value, key: int) -> None:
    value = {**value, UPLINK: key * self._bytes_per_round}
    await asyncio.gather(*(m.release(value, key) for m in self._managers))


class _Checkpoints(tff.program.FileProgramStateManager):
  """Saves the state after every so many rounds, and after the last one."""

  def __init__(
    self,
    directory: pathlib.Path,
    every: int,
    last: int,
    show: Callable[[Any, int], None],
  ):
    super().__init__(str(directory), _PREFIX)
    self._every = every
    self._last = last
    self._show = show

  async def save(self, program_state, version: int) -> None:
    if version % self._every == 0 or version == self._last:
      await super().save(program_state, version)
      self._show(program_state, version)


def checkpoints(directory: pathlib.Path) -> list[tuple[int, pathlib.Path]]:
  """The checkpoints of a run, the last one first: their rounds and places."""
  found = [
    (int(path.name.removeprefix(_PREFIX)), path)
    for path in (directory / _CHECKPOINTS).glob(f'{_PREFIX}*')
    if path.name.removeprefix(_PREFIX).isdigit()
  ]
  return sorted(found, reverse=True)


def read_metric(path: str | os.PathLike, name: str) -> dict[int, float]:
  """Reads a column of metrics.csv: values by round, NaN included, gaps left out."""
  with open(path, encoding='utf-8', newline='') as file:
    return {
      int(row['round']): float(row[name])
      for row in csv.DictReader(file)
      if row.get(name)
    }


def _evaluation(run):
  """Builds what measures accuracy and loss on the test data, by TFF's evaluation.

  The accuracy of a model whose loss is not finite is NaN: the largest of logits that
  are no numbers is always the first.
  """
  evaluate = tff.learning.algorithms.build_fed_eval(run.model)
  initial = evaluate.initialize()
  get_weights = run.built.process.get_model_weights

  def evaluation_fn(state, data) -> dict[str, Any]:
    evaluation_state = evaluate.set_model_weights(initial, get_weights(state))
    metrics = evaluate.next(evaluation_state, data).metrics
    measured = dict(metrics['client_work']['eval']['current_round_metrics'])
    if not math.isfinite(measured['loss']) and 'accuracy' in measured:
      measured['accuracy'] = math.nan
    return measured

  return evaluation_fn


def train(run, bar: tqdm.tqdm | None, show: Callable[[Any, int], None]) -> Any:
  """Trains, or goes on where an earlier run stopped.

  Args:
    run: A `building.Run`, whose directory is there and nobody else's.
    bar: Counts rounds; `None` shows one for this run alone.
    show: Called with each state that is saved, and its round.

  Returns:
    The state of the process after the last round.
  """
  s = run.settings
  directory = pathlib.Path(s.output_dir)
  # Also those at their defaults, which another version may change; not those
  # without a value, so that --flagfile reads them.
  lines = [f'--{k}={v}\n' for k, v in s.as_flags().items() if v]
  recovery.write_text(directory / FLAGS, ''.join(lines))
  if run.built.chosen:
    chosen = json.dumps(dict(run.built.chosen)) + '\n'
    recovery.write_text(directory / CHOSEN, chosen)
  logging.info('%s: %s', s.method, run.built.description)
  with contextlib.ExitStack() as stack:
    done = recovery.recover(directory, run.built.process)
    if done < s.total_rounds:
      provenance.record(directory, done, provenance.digests(s))
    if bar is None:
      bar = stack.enter_context(
        tqdm.tqdm(desc=s.method, total=s.total_rounds, unit='round')
      )
    bar.update(done)
    stack.enter_context(tff_contexts.event_loop())
    return tff.simulation.run_training_process(
      run.built.process,
      run.setup.round_data,
      s.total_rounds,
      evaluation_fn=_evaluation(run),
      evaluation_selection_fn=lambda _: [run.task.test_data],
      rounds_per_evaluation=s.rounds_per_evaluation,
      program_state_manager=_Checkpoints(
        directory / _CHECKPOINTS,
        s.rounds_per_checkpoint,
        s.total_rounds,
        show,
      ),
      metrics_managers=[
        _WithBytes(
          s.clients_per_round * run.communication.uplink_bytes,
          [
            tff.program.CSVFileReleaseManager(
              str(directory / METRICS), key_fieldname='round'
            ),
            tff.program.TensorBoardReleaseManager(
              str(directory / _TENSORBOARD)
            ),
            _Progress(bar),
          ],
        )
      ],
    )
