"""Federated EMNIST, one client a writer, from TFF's simulation data sets.

Data, split and preprocessing are those of TFF's own baseline task
(`tff.simulation.baselines.emnist.create_character_recognition_task`): pixels
are float32 with a background of 1, and only get a channel axis.
"""

import dataclasses

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.models import image
from tff_fedsynth.options import option
from tff_fedsynth.tasks import task as task_lib

_TEST_BATCH = 500
_URL = (
  'https://storage.googleapis.com/tff-datasets-public/emnist_all.sqlite.lzma'
)


@dataclasses.dataclass(frozen=True)
class Options:
  """Flags of the task."""

  cache_dir: str | None = option(
    None, "Directory that holds TFF's data, or gets them. Default: ~/.tff."
  )


def preprocess(batch) -> tuple[tf.Tensor, tf.Tensor]:
  """Images with a channel axis, and labels."""
  return tf.expand_dims(batch['pixels'], axis=-1), batch['label']


def _load(only_digits, cache_dir):
  try:
    return tff.simulation.datasets.emnist.load_data(only_digits, cache_dir)
  except Exception as e:
    place = cache_dir or '~/.tff'
    raise task_lib.TaskError(
      f'TFF could not provide EMNIST. It downloads {_URL} the first time and '
      f'unpacks it to {place}/emnist_all.sqlite. On a machine without network, '
      'put the unpacked file there, or name its directory with --cache_dir; if '
      'a file is there already, it is broken: remove it. The cause was: '
      f'{type(e).__name__}: {e}'
    ) from e


def build(*, only_digits: bool, seed: int, **fields) -> task_lib.Task:
  """Builds the task.

  Args:
    only_digits: 10 classes and 3,383 writers, or 62 and 3,400.
    seed: Not used: the split is that of the writers.
    **fields: Of `Options`.

  Raises:
    TaskError: If the data cannot be had.
  """
  del seed
  train, test = _load(only_digits, Options(**fields).cache_dir)
  return task_lib.Task(
    name='emnist_digits' if only_digits else 'emnist_character',
    train_data=train,
    test_data=test.create_tf_dataset_from_all_clients(seed=0)
    .batch(_TEST_BATCH)
    .map(preprocess),
    preprocess=preprocess,
    models=image.models((28, 28, 1), 10 if only_digits else 62),
  )
