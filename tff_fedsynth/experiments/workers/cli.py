"""What all binaries share: clean errors, and no worker left behind."""

from collections.abc import Callable
import dataclasses
import errno
import functools
import os
import sys

from absl import app
from absl import flags
from absl import logging
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import options
from tff_fedsynth.errors import UserError
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.workers import contexts
from tff_fedsynth.experiments.workers import ending
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


def is_disk_full(error: Exception) -> bool:
  """Whether an error of Python or TensorFlow says that no space is left."""
  if isinstance(error, OSError):
    return error.errno == errno.ENOSPC
  full = os.strerror(errno.ENOSPC)
  return isinstance(error, tf.errors.OpError) and full in str(error)


def _flag_of(name: str) -> str:
  """The flag of an option, if it is one."""
  return command_flags.as_flag(name) if name in flags.FLAGS else name


def define_worker_flags(flag_values: flags.FlagValues) -> None:
  """Defines the flags that say where to compute."""
  command_flags.define(options.fields(WorkerOptions), flag_values)


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
  app.run(command(function), flags_parser=command_flags.parse)


def command(function):
  """Wraps a main function of absl's `app.run`."""

  @functools.wraps(function)
  def run(argv):
    if not flags.FLAGS['verbosity'].present:
      # TFF logs several lines a round, which would tear the progress bar.
      logging.set_verbosity(logging.WARNING)
      tf.get_logger().setLevel('WARNING')
    with ending.ending_workers():
      try:
        if 'workers' in flags.FLAGS:  # Else nothing is computed here.
          seconds = flags.FLAGS.round_timeout_seconds
          tff.framework.set_default_context(
            contexts.RemoteWorkers(flags.FLAGS.workers, seconds)
            if flags.FLAGS.workers
            else contexts.LocalWorker(seconds)
          )
        return function(argv)
      except UserError as e:
        print(f'Error: {e.renamed(_flag_of)}', file=sys.stderr)
        return 2
      except (OSError, tf.errors.OpError) as e:
        if not is_disk_full(e):
          raise
        print(
          f'Error: the disk is full: {e}. What was written is kept. Make room, '
          'and the same command goes on from the last checkpoint.',
          file=sys.stderr,
        )
        return 2

  return run
