"""Ends TFF's worker process, which outlives Python and keeps its pipes open."""

import contextlib
import gc
import signal
import sys
import time

import psutil
import tensorflow_federated as tff

_NAME = 'worker_binary'
_END_SECONDS = 10.0


def worker_processes() -> list[psutil.Process]:
  """The TFF workers that this process started."""
  found = []
  for child in psutil.Process().children(recursive=True):
    with contextlib.suppress(psutil.NoSuchProcess):
      if child.name() == _NAME and child.status() != psutil.STATUS_ZOMBIE:
        found.append(child)
  return found


def end_workers() -> list[psutil.Process]:
  """Kills the workers below this process. TFF starts new ones when it needs them.

  Returns:
    Those that were killed.
  """
  processes = worker_processes()
  for process in processes:
    with contextlib.suppress(psutil.NoSuchProcess):
      process.kill()
  for process in processes:
    _wait_for_end(process)
  return processes


def _wait_for_end(process: psutil.Process) -> None:
  """Leaves a zombie: TFF, which started it, sends one more signal and waits."""
  end = time.monotonic() + _END_SECONDS
  with contextlib.suppress(psutil.NoSuchProcess):
    while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
      time.sleep(0.01)


class _NoContext(tff.framework.SyncContext):
  """Stands where TFF's default context was."""

  def invoke(self, comp, arg):
    raise RuntimeError('TFF was shut down.')


def _shut_tff_down() -> None:
  """Drops TFF's context while its destructor can still run without an error."""
  end_workers()
  tff.framework.set_default_context(_NoContext())
  gc.collect()


@contextlib.contextmanager
def shutting_tff_down():
  """Ends workers and TFF when the block is left: by return, error or SIGTERM."""

  def leave(signum, frame):
    del frame
    sys.exit(128 + signum)

  previous = signal.signal(signal.SIGTERM, leave)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, previous)
    _shut_tff_down()
