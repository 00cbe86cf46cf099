"""Runs that are broken end as if nothing had happened."""

import errno
import math
import random
import shutil

import fault_injection
import pytest
import small_runs
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments.records import recovery
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import runner

ROUNDS = 3


def _run(directory, rounds=ROUNDS):
  return building.build(
    small_runs.settings(
      directory, method='fedavg', batch_size=50, total_rounds=rounds
    )
  )


def _cut(path, share=0.5):
  size = path.stat().st_size
  with path.open('r+') as file:
    file.truncate(int(share * size))


# What is broken after two rounds, and the round to go on from.
BROKEN = {
  'saved_model': (
    lambda d: _cut(d / 'checkpoints/program_state_2/saved_model.pb'),
    1,
  ),
  'variables': (
    lambda d: _cut(
      d / 'checkpoints/program_state_2/variables/variables.data-00000-of-00001'
    ),
    1,
  ),
  'last row of metrics': (lambda d: _cut(d / 'metrics.csv', 0.98), 1),
  'end of the last line': (
    lambda d: _cut(
      d / 'metrics.csv', 1 - 1 / (d / 'metrics.csv').stat().st_size
    ),
    1,
  ),
  'all metrics': (lambda d: (d / 'metrics.csv').unlink(), 0),
  'a checkpoint that was begun': (
    lambda d: (d / 'checkpoints/program_state_3_temp1234').mkdir(),
    2,
  ),
  'no checkpoint': (
    lambda d: [
      (d / f'checkpoints/program_state_{i}').rename(d / f'lost_{i}')
      for i in range(3)
    ],
    0,
  ),
}


def test_what_is_broken_is_done_again(tmp_path, monkeypatch):
  run = _run(tmp_path / 'whole')
  runner.train(run)
  expected = fault_injection.metrics(tmp_path / 'whole')
  found = []
  recover = recovery.recover

  def spy(*args):
    found.append(recover(*args))
    return found[-1]

  monkeypatch.setattr(recovery, 'recover', spy)
  for name, (break_run, last_good) in BROKEN.items():
    directory = tmp_path / name.replace(' ', '_')
    shutil.copytree(tmp_path / 'whole', directory)
    # As if it had been stopped after two of three rounds.
    shutil.rmtree(directory / 'checkpoints' / f'program_state_{ROUNDS}')
    text = (directory / 'metrics.csv').read_text().splitlines(keepends=True)
    (directory / 'metrics.csv').write_text(''.join(text[:-1]))
    break_run(directory)
    runner.train(small_runs.changed(run, output_dir=str(directory)))
    assert found[-1] == last_good, name
    difference = fault_injection.largest_difference(
      expected, fault_injection.metrics(directory)
    )
    assert difference < 1e-5, name


@pytest.mark.parametrize(
  'error', [MemoryError(), tf.errors.ResourceExhaustedError(None, None, 'x')]
)
def test_a_machine_without_memory_loses_no_checkpoint(
  whole, tmp_path, monkeypatch, error
):
  directory = tmp_path / 'run'
  shutil.copytree(small_runs.directory(whole), directory)

  async def load(*_):
    raise error

  monkeypatch.setattr(tff.program.FileProgramStateManager, 'load', load)
  before = sorted(directory.rglob('*'))
  with pytest.raises(type(error)):
    recovery.recover(directory, whole.built.process)
  assert sorted(directory.rglob('*')) == before


def test_differences_of_metrics():
  rows = [{'round': '0', 'loss': '2.0', 'accuracy': ''}]
  assert fault_injection.largest_difference(rows, rows) == 0
  other = [{**rows[0], 'loss': '2.5'}]
  assert fault_injection.largest_difference(rows, other) == pytest.approx(0.2)
  assert fault_injection.largest_difference(rows, rows * 2) == math.inf
  other = [{**rows[0], 'accuracy': '1.0'}]
  assert fault_injection.largest_difference(rows, other) == math.inf


@pytest.fixture
def of_fed_avg(monkeypatch):
  """It compiles sooner; `make faults` breaks FedSynth."""
  monkeypatch.setattr(fault_injection, 'METHOD', 'fedavg')


def test_a_killed_driver(tmp_path, of_fed_avg):
  # This process ends what another one, which was killed, began.
  broken, whole = tmp_path / 'broken', tmp_path / 'whole'
  assert fault_injection.kill_drivers(broken, ROUNDS, 1, random.Random(0)) == 1
  assert not fault_injection.workers_left()
  run = building.build(fault_injection.settings(broken, ROUNDS))
  runner.train(run)
  runner.train(small_runs.changed(run, output_dir=str(whole)))
  difference = fault_injection.largest_difference(
    fault_injection.metrics(whole), fault_injection.metrics(broken)
  )
  assert difference < 1e-5


def test_a_full_disk_gives_a_clear_error_and_loses_nothing(
  tmp_path, of_fed_avg
):
  if not fault_injection.fill_disk(tmp_path / 'run', 9, 1, None):
    pytest.skip('This machine mounts no file systems.')
  # The first checkpoints are there, and the metrics until then.
  assert (tmp_path / 'run/checkpoints/program_state_1').exists()
  assert len(fault_injection.metrics(tmp_path / 'run')) >= 2


def test_full_disks_are_told_from_other_errors():
  assert cli.is_disk_full(OSError(errno.ENOSPC, 'x'))
  assert not cli.is_disk_full(OSError(errno.EACCES, 'x'))
  full = 'No space left on device'
  assert cli.is_disk_full(tf.errors.ResourceExhaustedError(None, None, full))
  assert not cli.is_disk_full(tf.errors.ResourceExhaustedError(None, None, 'x'))


def test_a_text_is_there_whole_or_not_at_all(tmp_path):
  path = tmp_path / 'flags.txt'
  recovery.write_text(path, 'a')
  recovery.write_text(path, 'b')
  assert path.read_text() == 'b' and list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.parametrize('fault', fault_injection.FAULTS)
def test_twenty_of_each_fault_change_nothing(tmp_path, fault):
  rows = fault_injection.inject(tmp_path / 'runs', [fault], rounds=60, kills=20)
  ((_, injected, difference),) = rows
  assert injected and float(difference) < 1e-5
  assert not fault_injection.workers_left()
