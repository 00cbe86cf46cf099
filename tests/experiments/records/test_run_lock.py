"""Directories that one process at a time writes to; real processes."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import types

import pytest

from tff_fedsynth.experiments.comparing import comparison
from tff_fedsynth.experiments.measuring import ablation
from tff_fedsynth.experiments.records import run_lock
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.experiments.trust import disclosure
from tff_fedsynth.experiments.trust import siege

# Holds the directory until it is told to go on.
_HOLD = """
import pathlib, subprocess, sys
from tff_fedsynth.experiments.records import run_lock

with run_lock.held(pathlib.Path(sys.argv[1])):
  child = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL)
  print(child.pid, flush=True)
  sys.stdin.readline()
"""
# Takes and leaves the directory many times, with a file that nobody else has.
_COMPETE = """
import pathlib, sys
from tff_fedsynth.experiments.records import run_lock
from tff_fedsynth.experiments.settings.settings import SettingsError

directory, done = pathlib.Path(sys.argv[1]), 0
while done < 100:
  try:
    with run_lock.held(directory):
      (directory / 'mine').touch(exist_ok=False)
      (directory / 'mine').unlink()
      done += 1
  except SettingsError:
    pass
"""


@pytest.fixture
def holder(tmp_path):
  """A process that holds tmp_path / 'run', and has a child."""
  process = subprocess.Popen(
    [sys.executable, '-c', _HOLD, tmp_path / 'run'],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  child = int(process.stdout.readline())
  yield process
  process.kill()
  process.communicate()
  os.kill(child, signal.SIGKILL)


def _held(directory):
  with run_lock.held(directory):
    return True


def test_who_holds_a_directory_is_told(holder, tmp_path):
  directory = tmp_path / 'run'
  message = (
    f'{directory} is in use by process {holder.pid} on {socket.gethostname()} '
    r'since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d'
  )
  for way in (_held, run_lock.check_free):
    with pytest.raises(SettingsError, match=message):
      way(directory)
  holder.communicate('go on\n')
  # Its child lives on, and has not inherited the lock.
  assert _held(directory)


def test_a_killed_process_holds_nothing(holder, tmp_path):
  holder.kill()
  holder.wait()
  assert (tmp_path / 'run' / run_lock.NAME).exists()
  run_lock.check_free(tmp_path / 'run')
  # What it left is no run, and no other thing.
  settings = Settings(output_dir=str(tmp_path / 'run'), method='fedavg')
  assert runner.read_summary(settings) is None
  assert _held(tmp_path / 'run')


def test_nothing_is_left_of_a_directory_that_stays_empty(tmp_path):
  assert _held(tmp_path / 'a' / 'b')
  assert not list(tmp_path.iterdir())
  (tmp_path / 'a').mkdir()
  assert _held(tmp_path / 'a')
  assert _held(tmp_path / 'a' / 'b')
  assert list(tmp_path.rglob('*')) == [tmp_path / 'a']
  with run_lock.held(tmp_path / 'c' / 'd'):
    (tmp_path / 'c' / 'kept').touch()
  assert sorted(p.name for p in tmp_path.iterdir()) == ['a', 'c']


def test_two_never_hold_a_directory_at_once(tmp_path):
  processes = [
    subprocess.Popen([sys.executable, '-c', _COMPETE, tmp_path])
    for _ in range(3)
  ]
  assert [p.wait(timeout=120) for p in processes] == [0] * 3


def test_where_nothing_can_be_locked_a_warning_is_given(
  tmp_path, monkeypatch, caplog
):
  def flock(*_):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(fcntl, 'flock', flock)
  assert _held(tmp_path / 'run')
  run_lock.check_free(tmp_path / 'run')
  assert 'cannot be locked: [Errno 37] No locks available' in caplog.text


def test_what_cannot_be_written_to_is_refused(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(SettingsError, match='Cannot write to .*file/run: '):
    _held(tmp_path / 'file' / 'run')


def _base(directory):
  return Settings(output_dir=str(directory), method='fedavg', total_rounds=1)


_COMMANDS = {
  'build': lambda d: building.build(_base(d)),
  'train': lambda d: runner.train(types.SimpleNamespace(settings=_base(d))),
  'execute': lambda d: runner.execute(types.SimpleNamespace(settings=_base(d))),
  'compare': lambda d: comparison.compare(
    comparison.Comparison(_base(d), ('drive',), (500.0,), (0,))
  ),
  'ablate': lambda d: ablation.ablate(
    ablation.Ablation(_base(d), {}, (0,), (1,), 1, False)
  ),
  'attack': lambda d: siege.besiege(
    siege.Siege(_base(d), ('zeros',), (1,), (0,), siege.defenses(1.0))
  ),
  'privacy': lambda d: disclosure.measure(_base(d), (0,), 2),
}


@pytest.mark.parametrize('name', _COMMANDS)
def test_all_that_write_refuse_a_directory_in_use(name, holder, tmp_path):
  before = sorted((tmp_path / 'run').iterdir())
  with pytest.raises(SettingsError, match=f'in use by process {holder.pid}'):
    _COMMANDS[name](tmp_path / 'run')
  assert sorted((tmp_path / 'run').iterdir()) == before


def test_a_second_command_ends_with_an_error(holder, tmp_path):
  result = subprocess.run(
    [
      *(sys.executable, '-m', 'tff_fedsynth.experiments.demo'),
      f'--output_dir={tmp_path / "run"}',
    ],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert result.returncode == 2
  expected = f'Error: {tmp_path / "run"} is in use by process {holder.pid} '
  assert expected in result.stderr and 'Traceback' not in result.stderr
