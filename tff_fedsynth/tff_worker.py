"""TFF's worker processes: starts them, and ends them with this program.

TFF computes in a process of its own, which outlives Python and keeps its pipes
open. Importing this module, which `tff_fedsynth` does, is enough to end those
that this process started when Python exits. Nothing can be done where Python is
killed by SIGKILL or ends by `os._exit`.

This module must not import TFF: programs that never use it are not to pay for it.
"""

import atexit
import contextlib
import ctypes
import importlib.util
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import psutil

_NAME = 'worker_binary'


def worker_processes() -> list[psutil.Process]:
  """Returns the TFF workers that this process started and that still run."""
  found = []
  for child in psutil.Process().children():
    with contextlib.suppress(psutil.NoSuchProcess):
      if child.name() == _NAME and child.status() != psutil.STATUS_ZOMBIE:
        found.append(child)
  return found


def _kill() -> list[psutil.Process]:
  processes = worker_processes()
  for process in processes:
    with contextlib.suppress(psutil.NoSuchProcess):
      process.kill()
  return processes


def end_workers() -> None:
  """Ends the workers of this process. TFF starts new ones when it needs them."""
  for process in _kill():
    # Leaves a zombie: TFF sends one more signal to it, and waits for it.
    with contextlib.suppress(ChildProcessError):
      os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def _at_exit() -> None:
  # Without waiting: a call of TFF that is under way would start another worker.
  _kill()
  if tff := sys.modules.get('tensorflow_federated'):
    # One reference more, for ever: TFF's destructor, which would end the worker,
    # fails where Python has cleared the modules that it needs.
    context = tff.framework.get_context_stack().current
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(context))


atexit.register(_at_exit)


def unused_port() -> int:
  """Returns a port of this machine that nobody listens on."""
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


def start(port: int, output: int | None = subprocess.DEVNULL):
  """Starts a worker, and waits until it listens, or has ended already.

  It ends with the thread that calls this, if the system has `setpriv`.

  Args:
    port: To listen on, on all addresses of this machine.
    output: Where it writes, as `subprocess.Popen` has it; that of this process
      if `None`, which then stays open as long as the worker runs.

  Returns:
    The `subprocess.Popen`.
  """
  (package,) = importlib.util.find_spec(
    'tensorflow_federated'
  ).submodule_search_locations
  command = [pathlib.Path(package, 'data', _NAME), f'--port={port}']
  if shutil.which('setpriv'):
    command = ['setpriv', '--pdeathsig', 'KILL', *command]
  environment = {
    # With more, glibc's memory grows from round to round and is not given back.
    'MALLOC_ARENA_MAX': '1',
    **os.environ,
    # With one, on a single core, iterators of data sets stall for seconds.
    'TF_NUM_INTEROP_THREADS': str(max(4, len(os.sched_getaffinity(0)))),
  }
  process = subprocess.Popen(
    command,
    stdin=subprocess.DEVNULL,
    stdout=output,
    stderr=output,
    env=environment,
  )
  while process.poll() is None:
    with contextlib.suppress(OSError):
      socket.create_connection(('localhost', port), timeout=1).close()
      break
    time.sleep(0.05)
  return process
