"""Classification of labeled examples in a file of clients."""

from collections.abc import Callable
import dataclasses
import functools
import logging
import math

import numpy as np
import tensorflow as tf

from tff_fedsynth.models import architectures
from tff_fedsynth.tasks.federated import task as task_lib
from tff_fedsynth.tasks.federated.client_file import ClientFile
from tff_fedsynth.tasks.federated.client_file import FileClients

_LOGGER = logging.getLogger(__name__)
_TEST_BATCH = 500
_TEST_EXAMPLES = 10_000
_MAX_CLASSES = 100_000
# Beyond it, gradients of the first step blow up.
_LARGE = 20


def image_shape(size: int) -> tuple[int, ...]:
  """The shape of so many numbers: a square of 1 or 3 channels, or a vector."""
  for channels in (1, 3):
    side = math.isqrt(size // channels)
    if channels * side * side == size and side > 1:
      return (side, side, channels)
  return (size,)


@dataclasses.dataclass(frozen=True)
class Columns:
  """Where a file has its examples.

  Attributes:
    features: The column of inputs.
    label: The column of class numbers.
    shape: Of one input.
    dtype: Of the inputs in the file.
    divisor: Of the inputs.
  """

  features: str
  label: str
  shape: tuple[int, ...]
  dtype: tf.DType = tf.float32
  divisor: float = 1.0

  def preprocess(self, columns) -> tuple[tf.Tensor, tf.Tensor]:
    """float32 inputs, and int32 labels."""
    x = tf.cast(columns[self.features], tf.float32) / self.divisor
    return x, tf.cast(columns[self.label], tf.int32)


def columns_of(
  file: ClientFile,
  features: str | None,
  label: str | None,
  shape: tuple[int, ...] | None = None,
  divisor: float = 1.0,
) -> Columns:
  """The columns of a file, with the shape of an input.

  Args:
    file: Where they are.
    features: Name of the column of inputs.
    label: Name of the column of labels.
    shape: Of one input; that of `image_shape` if `None`.
    divisor: Of the inputs.

  Raises:
    TaskError: If they are not in the file, hold no numbers, or do not have the
      shape.
  """
  inputs = file.column(features, 'features')
  labels = file.column(label, 'label')
  if inputs.dtype == tf.string or not inputs.size:
    raise file.error(
      f'the column {features!r} holds {inputs}, but inputs must be numbers.'
    )
  if labels.dtype != tf.int64 or labels.size != 1:
    raise file.error(
      f'the column {label!r} holds {labels}, but a label must be one integer.'
    )
  shape = shape or image_shape(inputs.size)
  if math.prod(shape) != inputs.size:
    raise task_lib.TaskError(
      f'feature_shape must be of the {inputs.size} numbers that the column '
      f'{features!r} holds, found {"x".join(map(str, shape))}.',
      'feature_shape',
    )
  return Columns(features, label, shape, inputs.dtype, divisor)


@functools.lru_cache
def read(
  file: ClientFile, columns: Columns, split: str | None
) -> tuple[FileClients, int]:
  """The clients of a split, and one more than their largest label.

  All examples are looked at; the next time, what was found is known.

  Raises:
    TaskError: If an example is not as `columns` has it, or an input is not
      finite, or a label is no class number.
  """
  lowest, highest, largest = 0, -1, 0.0

  def look(rows):
    nonlocal lowest, highest, largest
    x = columns.preprocess(rows)[0].numpy()
    y = rows[columns.label].numpy()
    if not np.isfinite(x).all():
      raise file.error(
        f'the column {columns.features!r} holds numbers that are not finite.'
      )
    lowest, highest = min(lowest, y.min()), max(highest, y.max())
    largest = max(largest, np.abs(x).max())

  specs = {
    columns.features: tf.TensorSpec(columns.shape, columns.dtype),
    columns.label: tf.TensorSpec([], tf.int64),
  }
  clients = file.read_clients(specs, split, look)
  if highest < 0:
    raise file.error(f'there are no examples in {split or "it"}.')
  if lowest < 0 or highest >= _MAX_CLASSES:
    raise file.error(
      f'labels must be class numbers from 0 to {_MAX_CLASSES - 1}, but the '
      f'column {columns.label!r} has {lowest if lowest < 0 else highest}.'
    )
  if largest > _LARGE:
    _LOGGER.warning(
      '%s: inputs are as large as %g, and training may diverge. The option '
      'feature_divisor makes them smaller.',
      file.path,
      largest,
    )
  return clients, int(highest) + 1


def build(
  name: str,
  columns: Columns,
  train: tuple[FileClients, int],
  test: tuple[FileClients, int],
  test_examples: int | None,
  to_raw: Callable[[np.ndarray, tf.DType], np.ndarray] = task_lib.as_in_column,
) -> task_lib.Task:
  """A task whose models have as many classes as the labels need.

  Args:
    name: Of the task.
    columns: Of the files.
    train: Clients that train, and how many classes they have.
    test: The same of the test.
    test_examples: At most so many, at even distances; 10,000 if `None`.
    to_raw: Of the `Task`.

  Raises:
    TaskError: If there is but one class.
  """
  clients, held_out = train[0], test[0]
  num_classes = max(train[1], test[1])
  if num_classes < 2:
    raise task_lib.TaskError(
      f'All labels of the column {columns.label!r} are 0: there is nothing to learn.',
      'label',
    )
  rows = [n for c in held_out.client_ids for n in held_out.find(c)]
  if not rows:
    raise task_lib.TaskError(
      'The clients that are held out for the test have no examples. Raise '
      'test_client_share, or name a file as test_client_data.',
      'test_client_share',
      'test_client_data',
    )
  rows = task_lib.spread(rows, test_examples or _TEST_EXAMPLES)
  examples = columns.preprocess(held_out.read(rows))
  return task_lib.Task(
    name=name,
    train_data=clients,
    test_data=tf.data.Dataset.from_tensor_slices(examples).batch(_TEST_BATCH),
    preprocess=columns.preprocess,
    models=architectures.models(columns.shape, num_classes),
    columns=(columns.features, columns.label),
    to_raw=to_raw,
  )
