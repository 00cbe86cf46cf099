"""Breaks runs in many ways; the same command again must end as if nothing happened."""

from collections.abc import Callable
import contextlib
import csv
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import psutil

from tff_fedsynth.experiments.settings.settings import Settings

_SECONDS = 600.0
# Two checkpoints fit, three do not.
_SMALL_DISK = '1800k'
# Of the runs, which is 'fedavg' where a test has no time for more.
METHOD = 'fedsynth'
# In the environment of all processes here, also of those that outlive theirs.
_MARK = 'FEDSYNTH_FAULTS'


class FaultError(RuntimeError):
  """A run did not survive a fault."""


def settings(directory: pathlib.Path, rounds: int) -> Settings:
  """Those of all runs here: a second or two a round on one core."""
  is_fedsynth = METHOD == 'fedsynth'
  iterations = {'synthesis_iterations': 5} if is_fedsynth else {}
  return Settings(
    output_dir=str(directory),
    method=METHOD,
    compression_ratio=2000.0 if is_fedsynth else None,
    clients_per_round=2,
    local_epochs=1,
    total_rounds=rounds,
    rounds_per_checkpoint=1,
    options={'num_clients': 20, **iterations},
  )


def _command(directory: pathlib.Path, rounds: int) -> list[str]:
  run = settings(directory, rounds)
  return [
    *(sys.executable, '-m', 'tff_fedsynth.experiments.train'),
    *(f'--{name}={value}' for name, value in run.as_flags().items() if value),
    f'--output_dir={directory}',
  ]


def _environment() -> dict[str, str]:
  return {**os.environ, _MARK: str(os.getpid())}


def workers_left() -> list[psutil.Process]:
  """TFF workers of the runs here that are still alive."""
  left = []
  for process in psutil.process_iter():
    with contextlib.suppress(psutil.Error):
      if process.name() == 'worker_binary' and process.environ().get(
        _MARK
      ) == str(os.getpid()):
        left.append(process)
  return left


def _start(directory: pathlib.Path, rounds: int) -> subprocess.Popen:
  with (directory.parent / f'{directory.name}.log').open('a') as log:
    return subprocess.Popen(
      _command(directory, rounds),
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=log,
      env=_environment(),
    )


def finish(directory: pathlib.Path, rounds: int) -> None:
  """Gives the command of a run and waits for its end.

  Raises:
    FaultError: If it fails.
  """
  status = _start(directory, rounds).wait(_SECONDS)
  if status:
    raise FaultError(f'{directory} ended with {status}: see {directory}.log.')


def metrics(directory: pathlib.Path) -> list[dict[str, str]]:
  """Rows of metrics.csv as they were written, without columns of seconds."""
  with (directory / 'metrics.csv').open() as file:
    return [
      {k: v for k, v in row.items() if not k.endswith('_in_seconds')}
      for row in csv.DictReader(file)
    ]


def largest_difference(a: list[dict], b: list[dict]) -> float:
  """Largest relative difference of two runs' metrics; infinite if they differ in form."""
  if [list(row) for row in a] != [list(row) for row in b]:
    return float('inf')
  largest = 0.0
  for row, other in zip(a, b):
    for name in row:
      if row[name] != other[name]:
        x, y = float(row[name] or 'nan'), float(other[name] or 'nan')
        difference = abs(x - y) / max(abs(x), abs(y))
        # Not finite in one of them only.
        largest = max(
          largest, difference if x == x and y == y else float('inf')
        )
  return largest


def _wait_for_a_round(process, directory: pathlib.Path) -> bool:
  """Until a round more is done; False if the process ended before."""
  path = directory / 'metrics.csv'
  size = lambda: path.stat().st_size if path.exists() else 0
  before, end = size(), time.monotonic() + _SECONDS
  while time.monotonic() < end:
    if process.poll() is not None:
      return False
    if size() > before:
      return True
    time.sleep(0.02)
  raise FaultError(f'{directory} does not go on: see {directory}.log.')


def kill_drivers(directory, rounds: int, kills: int, chance) -> int:
  """Kills drivers at random moments: rounds, evaluations, writing."""
  for i in range(kills):
    process = _start(directory, rounds)
    # Starting takes longest and changes nothing: most kills come after it.
    if _wait_for_a_round(process, directory):
      time.sleep(chance.uniform(0.0, 3.0))
    if process.poll() is not None:
      return i
    process.send_signal(signal.SIGKILL)
    process.wait()
  return kills


def kill_workers(directory, rounds: int, kills: int, chance) -> int:
  """Kills the TFF workers of one driver, which must go on."""
  process = _start(directory, rounds)
  killed = 0
  while killed < kills and _wait_for_a_round(process, directory):
    time.sleep(chance.uniform(0.0, 1.0))
    for worker in workers_left():
      worker.kill()
      killed += 1
  if process.wait(_SECONDS):
    raise FaultError(f'{directory} did not survive: see {directory}.log.')
  return killed


def _last_checkpoint(directory: pathlib.Path) -> pathlib.Path:
  paths = (directory / 'checkpoints').glob('program_state_*')
  return max(paths, key=lambda p: int(p.name.rpartition('_')[2]))


def cut_checkpoints(directory, rounds: int, kills: int, chance) -> int:
  """Cuts a file of the last checkpoint of a run that was killed, twice."""
  del kills
  cuts = 0
  for name in ('saved_model.pb', 'variables/variables.data-00000-of-00001'):
    cuts += kill_drivers(directory, rounds, 1, chance)
    path = _last_checkpoint(directory) / name
    os.truncate(path, chance.randrange(path.stat().st_size))
  return cuts


def cut_metrics(directory, rounds: int, kills: int, chance) -> int:
  """Cuts metrics.csv in its last two rows, in a run that was killed."""
  del kills
  cuts = kill_drivers(directory, rounds, 1, chance)
  path = directory / 'metrics.csv'
  last = len(path.read_text().splitlines()[-1])
  os.truncate(path, path.stat().st_size - chance.randrange(1, 2 * last))
  return cuts


def fill_disk(directory, rounds: int, kills: int, chance) -> int:
  """Runs where too little space is; 0 if this machine mounts nothing."""
  del kills, chance
  disk = directory.parent / 'small_disk'
  disk.mkdir()
  unshare = ('unshare', '--user', '--map-root-user', '--mount', 'sh', '-c')
  mount = f'mount -t tmpfs -o size={_SMALL_DISK} none {disk}'
  if subprocess.run([*unshare, mount], check=False).returncode:
    return 0
  script = f'{mount} && "$@"; s=$?; cp -r {disk}/run {directory}; exit $s'
  result = subprocess.run(
    [*unshare, script, 'sh', *_command(disk / 'run', rounds)],
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    timeout=_SECONDS,
    check=False,
    env=_environment(),
  )
  if result.returncode != 2 or 'Error: the disk is full' not in result.stderr:
    raise FaultError(f'A full disk gave no clear error: {result.stderr}')
  return 1


# From what is broken to a function of directory, rounds, number and random.Random
# that breaks a run and says how often it did.
FAULTS: dict[str, Callable[..., int]] = {
  'driver killed': kill_drivers,
  'worker killed': kill_workers,
  'checkpoint cut': cut_checkpoints,
  'metrics cut': cut_metrics,
  'disk full': fill_disk,
}


def inject(
  directory: pathlib.Path, names, rounds: int, kills: int, seed: int = 0
) -> list[list]:
  """Injects faults; a row each: name, how often, largest relative difference.

  Raises:
    FaultError: If a run does not end.
  """
  directory.mkdir(parents=True)
  finish(directory / 'undisturbed', rounds)
  expected = metrics(directory / 'undisturbed')
  rows = []
  for name in names:
    broken = directory / name.replace(' ', '_')
    injected = FAULTS[name](broken, rounds, kills, random.Random(seed))
    finish(broken, rounds)
    difference = largest_difference(expected, metrics(broken))
    rows.append([name, injected, f'{difference:.1e}'])
    print(*rows[-1], flush=True)
  return rows
