"""How all commands start, what they show of what others log, and how they end.

Exit codes: 2 for what a user can mend, 130 after Ctrl-C, 143 after SIGTERM.
This module must not import TensorFlow: `--help` is not to wait for it.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import errno
import functools
import logging
import os
import signal
import sys
from typing import NoReturn
import warnings

from absl import app
from absl import flags
from absl import logging as absl_logging

from tff_fedsynth import options
from tff_fedsynth import tff_worker
from tff_fedsynth.errors import UserError
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.options import option


@dataclasses.dataclass(frozen=True)
class WorkerOptions:
  """Where to compute, which is no part of what is computed."""

  workers: tuple[str, ...] = option(
    (),
    'Spreads the clients of a round over the TFF workers at these addresses, '
    'host:port, which fedsynth-worker starts.',
    group='Workers',
    default_text='a worker of its own',
  )
  round_timeout_seconds: float = option(
    3600.0,
    'Leaves a worker out that has not answered in this time.',
    group='Workers',
    above=0,
    maximum=1_000_000,
  )


def define_worker_flags(flag_values: flags.FlagValues) -> None:
  """Defines the flags that say where to compute."""
  command_flags.define(options.fields(WorkerOptions), flag_values)


def is_disk_full(error: Exception) -> bool:
  """Returns whether an error of Python or TensorFlow says that no space is left."""
  if isinstance(error, OSError):
    return error.errno == errno.ENOSPC
  is_tensorflows = type(error).__module__.startswith('tensorflow.')
  return is_tensorflows and os.strerror(errno.ENOSPC) in str(error)


def _flag_of(name: str) -> str:
  """Returns the flag of an option, if it is one."""
  return command_flags.as_flag(name) if name in flags.FLAGS else name


class _Stopped(SystemExit):
  """Raised by Ctrl-C and SIGTERM; asyncio lets it through."""


def _stop(signum, frame) -> NoReturn:
  del frame
  # Else tasks that are left in the middle complain.
  logging.disable()
  warnings.simplefilter('ignore')
  raise _Stopped(128 + signum)


@contextlib.contextmanager
def command(goes_on: bool = False) -> Iterator[None]:
  """Runs a command in this block, before anything imports TensorFlow.

  Ctrl-C, and errors that a user can mend, end the program with one line.

  Args:
    goes_on: Whether the same command again goes on where it was stopped.
  """
  # TensorFlow notes missing GPUs and the like, as errors, and so does a worker.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  for number in (signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(number) != signal.SIG_IGN:  # As behind `nohup` or `&`.
      signal.signal(number, _stop)
  try:
    yield
  except _Stopped as e:
    again = ' The same command goes on where this one stopped.'
    print(f'Stopped.{again if goes_on else ""}', file=sys.stderr, flush=True)
    tff_worker.end_workers()
    with contextlib.suppress(OSError):  # Of a pipe that nobody reads any more.
      sys.stdout.flush()
    # Threads may be waiting, and what they use may complain while it goes.
    os._exit(e.code)
  except UserError as e:
    command_flags.refuse(str(e.renamed(_flag_of)))
  except Exception as e:
    if not is_disk_full(e):
      raise
    command_flags.refuse(
      f'the disk is full: {e}. What was written is kept. Make room, and the '
      'same command goes on from the last checkpoint.'
    )


def start(
  function: Callable, define_flags: Callable[[flags.FlagValues], None]
) -> None:
  """Defines flags, reads the command line, and runs a main function.

  Args:
    function: A main function of absl's `app.run`.
    define_flags: Defines the flags of the command.
  """
  try:
    define_flags(flags.FLAGS)
  except UserError as e:  # Of plugins that do not go together.
    command_flags.refuse(str(e.renamed(command_flags.as_flag)))
  app.run(functools.partial(_run, function), flags_parser=command_flags.parse)


def _run(function: Callable, argv):
  if not flags.FLAGS['verbosity'].present:
    # TFF logs several lines a round, which would tear the progress bar.
    absl_logging.set_verbosity(absl_logging.WARNING)
    for other in ('matplotlib', 'tensorflow'):
      logging.getLogger(other).setLevel(logging.ERROR)
  if 'tensorflow_federated' in sys.modules:  # Else nothing is computed.
    import tensorflow_federated as tff

    from tff_fedsynth.experiments import tff_contexts

    of_flags = 'workers' in flags.FLAGS
    o = command_flags.read(WorkerOptions) if of_flags else WorkerOptions()
    tff.framework.set_default_context(
      tff_contexts.RemoteWorkers(o.workers, o.round_timeout_seconds)
      if o.workers
      else tff_contexts.LocalWorker(o.round_timeout_seconds)
    )
  return function(argv)
