"""Federated EMNIST, one client a writer, from TFF's simulation data sets.

Data, split and preprocessing are those of TFF's own baseline task
(`tff.simulation.baselines.emnist.create_character_recognition_task`): pixels
are float32 with a background of 1, and only get a channel axis.
"""

import functools

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.models.architectures import image_classifiers
from tff_fedsynth.tasks.federated import task as task_lib

_TEST_BATCH = 500


def preprocess(batch) -> tuple[tf.Tensor, tf.Tensor]:
  """Images with a channel axis, and labels."""
  return tf.expand_dims(batch['pixels'], axis=-1), batch['label']


def build(*, only_digits: bool, seed: int, **fields) -> task_lib.Task:
  """Builds the task.

  Args:
    only_digits: 10 classes and 3,383 writers, or 62 and 3,400.
    seed: Not used: the split is that of the writers.
    **fields: Of `task.DownloadOptions`.

  Raises:
    TaskError: If the data cannot be had.
  """
  del seed
  train, test = task_lib.load_from_tff(
    functools.partial(tff.simulation.datasets.emnist.load_data, only_digits),
    'emnist_all.sqlite',
    task_lib.DownloadOptions(**fields).cache_dir,
  )
  return task_lib.Task(
    name='emnist_digits' if only_digits else 'emnist_character',
    train_data=train,
    test_data=test.create_tf_dataset_from_all_clients(seed=0)
    .batch(_TEST_BATCH)
    .map(preprocess),
    preprocess=preprocess,
    models=image_classifiers.models((28, 28, 1), 10 if only_digits else 62),
  )
