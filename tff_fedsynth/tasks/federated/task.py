"""What a task is, and how a client's data become batches."""

import collections
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import errors
from tff_fedsynth import options
from tff_fedsynth.options import option

_ROWS_AT_ONCE = 1000
_CACHED_CLIENTS = 1000
_WHITE = 255


class TaskError(errors.OptionError):
  """A task that cannot be built as asked; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
  """Flags of tasks that have more test data than are needed."""

  test_examples: int | None = option(
    None,
    'Limits the test examples or sequences; which ones is the same for all '
    'methods and seeds.',
    group='Data',
    default_text='2000 of text, 10000 of others',
    minimum=1,
  )

  def __post_init__(self):
    options.check(self)


def spread(items: Sequence[Any], most: int) -> Sequence[Any]:
  """At most so many of some items, at even distances."""
  if len(items) <= most:
    return items
  return [items[i] for i in np.linspace(0, len(items) - 1, most).astype(int)]


def check_ends(dataset: tf.data.Dataset, what: str) -> None:
  """Raises `TaskError` for a data set that says it never ends."""
  if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
    raise TaskError(
      f'{what} never end. Leave repeat() out: how often a client goes through '
      'its data is what local_epochs says.',
      'local_epochs',
    )


def as_in_column(x: np.ndarray, dtype: tf.DType) -> np.ndarray:
  """Takes whole numbers for a column of integers, floats for one of floats.

  Raises:
    ValueError: For others, which may be on another scale; it says what `x` must
      hold.
  """
  if dtype.is_integer:
    if (x != np.round(x)).any() or x.min() < dtype.min or x.max() > dtype.max:
      raise ValueError(f'whole numbers from {dtype.min} to {dtype.max}')
  elif not np.issubdtype(x.dtype, np.floating):
    raise ValueError('floats, as the data of the task are')
  return x.astype(dtype.as_numpy_dtype)


def as_pixels(x: np.ndarray, dtype: tf.DType) -> np.ndarray:
  """Takes pixels, integers of 0 to 255 or floats of 0 to 1, for either.

  Raises:
    ValueError: For others; it says what `x` must hold.
  """
  is_integer = np.issubdtype(x.dtype, np.integer)
  white = _WHITE if is_integer else 1
  # Of integers up to 1 nobody knows what white is.
  if x.min() < 0 or x.max() > white or (is_integer and x.max() <= 1):
    raise ValueError(
      f'pixels, as integers from 0 to {_WHITE} or floats from 0 to 1'
    )
  if is_integer == dtype.is_integer:
    return x
  if is_integer:
    return x.astype(np.float32) / np.float32(_WHITE)
  return x * _WHITE


def stack_rows(dataset: tf.data.Dataset) -> Mapping[str, tf.Tensor]:
  """Stacks all elements of a data set.

  Raises:
    TaskError: If it says that it never ends.
  """
  check_ends(dataset, 'The examples of a client')
  # Some ClientData do not know how many elements they have.
  parts = list(dataset.batch(_ROWS_AT_ONCE))
  if parts:
    return tf.nest.map_structure(lambda *c: tf.concat(c, axis=0), *parts)
  return tf.nest.map_structure(
    lambda spec: tf.zeros([0, *spec.shape], spec.dtype), dataset.element_spec
  )


@dataclasses.dataclass(frozen=True)
class Task:
  """Federated data and the models that fit them.

  Attributes:
    name: As in `tasks.TASKS`.
    train_data: Elements are mappings from names to tensors.
    test_data: Batches `(x, y)`, preprocessed.
    preprocess: Maps elements of `train_data`, stacked, to `(x, y)` as models take
      it.
    models: From a name to a function of a seed that builds a Keras model.
    load: Reads a client's data set into columns, which `preprocess` gets.
    ignored_labels: Labels that do not count for the accuracy.
    token_names: For text: what to show for each token.
    is_public: Whether anybody may see the test data; pictures then show means.
    columns: Names of inputs and labels in an element of `train_data`.
    to_raw: From inputs of other files, and the type of that column, to what the
      column holds; raises `ValueError` with what they must be.

  `examples(client_id)` are a client's `(x, y)`, preprocessed.

  Raises:
    TaskError: If the test data say that they never end.
  """

  name: str
  train_data: tff.simulation.datasets.ClientData
  test_data: tf.data.Dataset
  preprocess: Callable[[Mapping[str, tf.Tensor]], tuple[tf.Tensor, tf.Tensor]]
  models: Mapping[str, Callable[[int], tf.keras.Model]]
  load: Callable[[tf.data.Dataset], Mapping[str, tf.Tensor]] = stack_rows
  ignored_labels: tuple[int, ...] = ()
  token_names: Sequence[str] | None = None
  is_public: bool = False
  columns: tuple[str, str] = ('x', 'y')
  to_raw: Callable[[np.ndarray, tf.DType], np.ndarray] = as_in_column

  def __post_init__(self):
    check_ends(self.test_data, f'The test data of the task {self.name}')
    # Frozen: clients come again in later rounds, and are read once.
    read = functools.lru_cache(_CACHED_CLIENTS)(self._read)
    object.__setattr__(self, 'examples', read)

  def _read(self, client_id: str):
    dataset = self.train_data.create_tf_dataset_for_client(client_id)
    return self.preprocess(self.load(dataset))

  def preprocess_arrays(
    self, x: np.ndarray, y: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Preprocesses examples of another file as those of clients.

    Args:
      x: [examples, ...], raw. An axis of one channel may be left out, and all
        numbers of an example may be in one row.
      y: int [examples], class numbers.

    Returns:
      Inputs as models take them, and labels.

    Raises:
      TaskError: If the task has other inputs, or none that stand in an array.
    """
    specs = self.train_data.element_type_structure
    if not set(self.columns) <= set(specs):
      raise TaskError(
        f'Examples of the task {self.name} do not stand in arrays of inputs and '
        'class numbers. Evaluate a run of another task.'
      )
    inputs, labels = (specs[name] for name in self.columns)
    if x.shape[1:] != inputs.shape:
      if x[0].size != inputs.shape.num_elements() or not (
        x.ndim == 2 or (*x.shape[1:], 1) == inputs.shape
      ):
        raise TaskError(
          f'Inputs of the task {self.name} have the shape {[*inputs.shape]}, '
          f'but the examples have {[*x.shape[1:]]}.'
        )
      x = x.reshape([-1, *inputs.shape])
    try:
      raw = self.to_raw(x, inputs.dtype)
    except ValueError as e:
      raise TaskError(
        f'For the task {self.name} x must hold {e}; found {x.dtype} from '
        f'{x.min():g} to {x.max():g}.'
      ) from e
    y = y.astype(labels.dtype.as_numpy_dtype)
    return tuple(
      map(np.asarray, self.preprocess(dict(zip(self.columns, (raw, y)))))
    )


def client_batches(
  task: Task, client_id: str, *, epochs: int, batch_size: int, seed: int
) -> tf.data.Dataset:
  """One client's batches for one round: all epochs, each in an order of its own.

  The order is drawn here, not by `Dataset.shuffle`, whose result changes with
  how often a method reads the data: every method sees the same batches.

  Args:
    task: The `Task`.
    client_id: Of `task.train_data`.
    epochs: Passes over the client's data.
    batch_size: Examples in a batch; the last batch may be smaller.
    seed: Of the order.
  """
  examples = task.examples(client_id)
  num_rows = tf.nest.flatten(examples)[0].shape[0]
  random = np.random.RandomState(seed)
  order = np.concatenate([random.permutation(num_rows) for _ in range(epochs)])
  # In order already: a `Dataset.map` would be traced for every client and round.
  rows = tf.nest.map_structure(lambda t: tf.gather(t, order), examples)
  return tf.data.Dataset.from_tensor_slices(rows).batch(batch_size)


def client_data(
  x: np.ndarray, y: np.ndarray, parts: list[np.ndarray]
) -> tff.simulation.datasets.ClientData:
  """Splits arrays over clients, given each one's rows."""
  return tff.simulation.datasets.TestClientData(
    {
      f'client_{i:04d}': collections.OrderedDict(x=x[rows], y=y[rows])
      for i, rows in enumerate(parts)
    }
  )
