"""What all binaries share: clean errors, and no worker left behind."""

import errno
import functools
import os
import sys

from absl import flags
from absl import logging
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.communication import BudgetTooSmallError
from tff_fedsynth.experiments import worker
from tff_fedsynth.experiments import workers
from tff_fedsynth.experiments.settings import SettingsError
from tff_fedsynth.models.conversion import UnsupportedModelError
from tff_fedsynth.objectives import UnknownObjectiveError
from tff_fedsynth.options import OptionError
from tff_fedsynth.privacy import PrivacyError
from tff_fedsynth.synthetic_data import SyntheticSpecError
from tff_fedsynth.tasks.task import TaskError

# What a user can cause; anything else is a bug and shows its traceback.
USER_ERRORS = (
  BudgetTooSmallError,
  OptionError,
  PrivacyError,
  SettingsError,
  SyntheticSpecError,
  TaskError,
  UnknownObjectiveError,
  UnsupportedModelError,
  workers.WorkersLostError,
)

# They say where to compute, and are no part of what is computed.
flags.DEFINE_list(
  'workers', [], 'host:port of each TFF worker; one of our own if none.'
)
flags.DEFINE_float(
  'round_timeout_seconds',
  3600.0,
  'A worker that has not answered in this time is left out.',
  0.0,
)


def numbers(name: str, kind) -> tuple:
  """The value of a list flag as numbers.

  Raises:
    SettingsError: If something in it is none.
  """
  values = flags.FLAGS[name].value
  try:
    return tuple(map(kind, values))
  except ValueError as e:
    raise SettingsError(
      f'--{name} must be numbers between commas, found {",".join(values)}.'
    ) from e


def is_disk_full(error: Exception) -> bool:
  """Whether an error of Python or TensorFlow says that no space is left."""
  if isinstance(error, OSError):
    return error.errno == errno.ENOSPC
  full = os.strerror(errno.ENOSPC)
  return isinstance(error, tf.errors.OpError) and full in str(error)


def command(function):
  """Wraps a main function of absl's `app.run`."""

  @functools.wraps(function)
  def run(argv):
    if not flags.FLAGS['verbosity'].present:
      # TFF logs several lines a round, which would tear the progress bar.
      logging.set_verbosity(logging.WARNING)
      tf.get_logger().setLevel('WARNING')
    with worker.ending_workers():
      try:
        seconds = flags.FLAGS.round_timeout_seconds
        tff.framework.set_default_context(
          workers.RemoteWorkers(flags.FLAGS.workers, seconds)
          if flags.FLAGS.workers
          else workers.LocalWorker(seconds)
        )
        return function(argv)
      except USER_ERRORS as e:
        print(f'Error: {e}', file=sys.stderr)
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
