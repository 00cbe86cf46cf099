"""One process at a time writes to a directory.

The lock is one of the operating system, which ends with its process, however
that ends. The file beside it only says who has it.
"""

from collections.abc import Iterator
import contextlib
import datetime
import errno
import fcntl
import json
import os
import pathlib
import socket
import time

from absl import logging

from tff_fedsynth.experiments.settings.settings import SettingsError

NAME = 'run.lock'
# Who only looks whether it is free has it for a moment.
_TRIES = 5
_WAIT_SECONDS = 0.05


def _holder(file: int) -> str:
  """Who has the lock, as the file says."""
  with contextlib.suppress(ValueError, KeyError, TypeError):
    found = json.loads(os.pread(file, 1000, 0))
    return 'process {pid} on {host} since {since}'.format(**found)
  return 'another process'


def _in_use(file: int, directory: pathlib.Path) -> SettingsError:
  return SettingsError(
    f'{directory} is in use by {_holder(file)}. Wait for its end, or choose '
    'another --output_dir.'
  )


def _try(file: int) -> bool:
  """Whether the lock was free, and is had now."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  return True


def check_free(directory: pathlib.Path) -> None:
  """Raises `SettingsError` if another process writes to a directory."""
  with contextlib.suppress(OSError):  # Not there, or of a system without locks.
    file = os.open(directory / NAME, os.O_RDWR)
    try:
      if not _try(file):
        raise _in_use(file, directory)
    finally:
      os.close(file)


def _open(directory: pathlib.Path) -> int:
  """Makes the directory, and the file, which no child process inherits."""
  try:
    directory.mkdir(parents=True, exist_ok=True)
    return os.open(directory / NAME, os.O_RDWR | os.O_CREAT, 0o644)
  except OSError as e:
    if e.errno == errno.ENOSPC:
      raise
    raise SettingsError(
      f'Cannot write to {directory}: {e.strerror}. Choose another --output_dir.'
    ) from e


def _is_at(file: int, path: pathlib.Path) -> bool:
  """Whether a path still leads to an open file."""
  with contextlib.suppress(FileNotFoundError):
    return os.path.samestat(os.fstat(file), path.stat())
  return False


def _acquire(directory: pathlib.Path) -> int:
  """The open file, locked if the system can do that."""
  refusals = 0
  while True:
    file = _open(directory)
    try:
      # Who had it before may have removed this file in the meantime.
      if _try(file):
        if _is_at(file, directory / NAME):
          return file
      else:
        refusals += 1
    except OSError as e:
      logging.warning(
        '%s cannot be locked: %s. See to it that nobody else writes there.',
        directory,
        e,
      )
      return file
    error = _in_use(file, directory)
    os.close(file)
    if refusals == _TRIES:
      raise error
    time.sleep(_WAIT_SECONDS)


@contextlib.contextmanager
def held(directory: pathlib.Path) -> Iterator[None]:
  """Keeps other processes out of a directory, which is made if need be.

  If nothing is written to a directory that was not there, it is removed.

  Raises:
    SettingsError: If another process has it, whose number, host and time it
      says, or if the directory cannot be written to.
  """
  made = [d for d in (directory, *directory.parents) if not d.exists()]
  file = _acquire(directory)
  try:
    now = datetime.datetime.now().astimezone().isoformat(' ', 'seconds')
    who = dict(pid=os.getpid(), host=socket.gethostname(), since=now)
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(who).encode(), 0)
    yield
  finally:
    (directory / NAME).unlink(missing_ok=True)
    os.close(file)
    with contextlib.suppress(OSError):  # Not empty.
      for path in made:
        path.rmdir()
