"""Federated EMNIST, one client a writer, from TFF's simulation data sets.

Data, split and preprocessing are those of TFF's own baseline task
(`tff.simulation.baselines.emnist.create_character_recognition_task`): pixels
are float32 with a background of 1, and only get a channel axis. Another file in
the place of TFF's may have other classes, sizes of images and channels.
"""

import dataclasses
import functools

import tensorflow_federated as tff

from tff_fedsynth.tasks import labeled
from tff_fedsynth.tasks.federated import downloads
from tff_fedsynth.tasks.federated import task as task_lib

FILE = 'emnist_all.sqlite'


@dataclasses.dataclass(frozen=True)
class Options(downloads.DownloadOptions, task_lib.EvaluationOptions):
  """Flags of the tasks."""


def build(*, only_digits: bool, seed: int, **fields) -> task_lib.Task:
  """Builds the task.

  Args:
    only_digits: 10 classes and 3,383 writers, or 62 and 3,400, in TFF's file.
    seed: Not used: the split is that of the writers.
    **fields: Of `Options`.

  Raises:
    TaskError: If the data cannot be had, or are no images with class numbers.
  """
  del seed
  o = Options(**fields)
  load = functools.partial(
    tff.simulation.datasets.emnist.load_data, only_digits
  )
  file = downloads.open_file(load, FILE, o.cache_dir)
  columns = labeled.columns_of(file, 'pixels', 'label')
  splits = 'digits_only' if only_digits else 'all'
  return labeled.build(
    'emnist_digits' if only_digits else 'emnist_character',
    columns,
    labeled.read(file, columns, f'{splits}_train'),
    labeled.read(file, columns, f'{splits}_test'),
    o.test_examples,
    # White is 1 in TFF's file; what it is in another one of integers only that
    # file knows.
    task_lib.as_pixels if columns.dtype.is_floating else task_lib.as_in_column,
  )
