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


def stack_rows(dataset: tf.data.Dataset) -> Mapping[str, tf.Tensor]:
  """All elements of a data set, one below the other."""
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

  `examples(client_id)` are a client's `(x, y)`, preprocessed.
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

  def __post_init__(self):
    # Frozen: clients come again in later rounds, and are read once.
    read = functools.lru_cache(_CACHED_CLIENTS)(self._read)
    object.__setattr__(self, 'examples', read)

  def _read(self, client_id: str):
    dataset = self.train_data.create_tf_dataset_for_client(client_id)
    return self.preprocess(self.load(dataset))


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
