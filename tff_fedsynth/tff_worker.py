"""Ends TFF's worker process with the program that started it.

TFF computes in a process of its own, which outlives Python and keeps its pipes
open. Importing this module, which `tff_fedsynth` does, is enough to end it:

- A worker ends with the program, also where that is killed, if the system has
  `setpriv`.
- One that runs already when this is imported is ended when Python exits.

Other processes' workers, also those of a parent or a child, are left alone. This
module must not import TFF: programs that never use it are not to pay for it.
"""

import atexit
import contextlib
import gc
import importlib.abc
import importlib.util
import os
import shutil
import subprocess
import sys
import types

import psutil

_NAME = 'worker_binary'
# The module of TFF that starts workers, and what it keeps there of each.
_STARTER = (
  'tensorflow_federated.python.core.impl.executor_stacks.executor_factory'
)
_MANAGER = 'local_cpp_executor_factory.<locals>.ServiceManager'
_EXECUTOR = 'RemoteExecutor'
# A class of TensorFlow that fails as that of the manager does.
_FUNCTION = 'AtomicFunction'


def worker_processes(of: psutil.Process | None = None) -> list[psutil.Process]:
  """The TFF workers that a process, or else this one, started."""
  found = []
  for child in (of or psutil.Process()).children():
    with contextlib.suppress(psutil.NoSuchProcess):
      if child.name() == _NAME and child.status() != psutil.STATUS_ZOMBIE:
        found.append(child)
  return found


def end_workers(of: psutil.Process | None = None) -> list[psutil.Process]:
  """Kills the workers of a process. TFF starts new ones when it needs them.

  Args:
    of: Whose; those of this process if `None`.

  Returns:
    Those that were killed.
  """
  processes = worker_processes(of)
  for process in processes:
    with contextlib.suppress(psutil.NoSuchProcess):
      process.kill()
  for process in processes:
    _wait_for_end(process)
  return processes


def _wait_for_end(process: psutil.Process) -> None:
  """Until all its threads are gone: before, it is no use to ask its parent.

  Leaves a zombie: TFF, which started it, sends one more signal and waits.
  """
  with contextlib.suppress(ChildProcessError):  # That of another process.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def ending_with_parent() -> list[str]:
  """What stands before a command that is to end with the thread that starts it."""
  return ['setpriv', '--pdeathsig', 'KILL'] if shutil.which('setpriv') else []


class _WorkerProcess(subprocess.Popen):
  """What TFF starts a worker with."""

  def __init__(self, args, **kwargs):
    super().__init__([*ending_with_parent(), *args], **kwargs)


def _adapt(starter: types.ModuleType) -> None:
  # It uses nothing else of that module.
  starter.subprocess = types.SimpleNamespace(Popen=_WorkerProcess)


class _AdaptWhenImported(importlib.abc.MetaPathFinder):
  """Adapts the module that starts workers as soon as somebody imports it."""

  def find_spec(self, fullname, path, target=None):
    if fullname != _STARTER:
      return None
    sys.meta_path.remove(self)
    spec = importlib.util.find_spec(fullname)
    execute = spec.loader.exec_module

    def execute_and_adapt(module):
      execute(module)
      _adapt(module)

    spec.loader.exec_module = execute_and_adapt
    return spec


def _refuse():
  raise RuntimeError('Python is exiting: TFF starts no more workers.')


def _at_exit() -> None:
  if _STARTER not in sys.modules:
    return
  kinds = set()
  for found in gc.get_objects():
    name = type(found).__qualname__
    if name in (_MANAGER, _FUNCTION):
      kinds.add(type(found))
    if name == _MANAGER:
      # A call that is under way would start another worker.
      found.get_stub = _refuse
    elif name == _EXECUTOR:
      found._executor_id = None  # Else values are disposed of in a dead worker.
  for kind in kinds:
    # Python calls it when what it needs is gone already.
    with contextlib.suppress(AttributeError):
      del kind.__del__
  end_workers()


if _STARTER not in sys.modules:
  sys.meta_path.insert(0, _AdaptWhenImported())
elif not worker_processes():
  _adapt(sys.modules[_STARTER])
atexit.register(_at_exit)
