"""Ends TFF's worker when a command is left, however that happens."""

import contextlib
import signal
import sys
import threading

from tff_fedsynth import tff_worker


@contextlib.contextmanager
def ending_workers():
  """Ends workers when the block is left: by return, error or SIGTERM.

  Before threads are joined, which wait for what a worker computes.
  """

  def leave(signum, frame):
    del frame
    sys.exit(128 + signum)

  # Python knows signals in the main thread only.
  handles = threading.current_thread() is threading.main_thread()
  previous = signal.signal(signal.SIGTERM, leave) if handles else None
  try:
    yield
  finally:
    if handles:
      signal.signal(signal.SIGTERM, previous)
    tff_worker.end_workers()
