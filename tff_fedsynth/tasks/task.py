"""What a task is, and how a client's data become batches."""

import collections
from collections.abc import Callable
from collections.abc import Mapping
import dataclasses

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

_ROWS_AT_ONCE = 1000


class TaskError(ValueError):
  """A task that cannot be built as asked; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Task:
  """Federated data and the models that fit them.

  Attributes:
    name: As in `tasks.TASKS`.
    train_data: Elements are mappings from names to tensors.
    test_data: Batches `(x, y)`, preprocessed.
    preprocess: Maps a batch of elements of `train_data` to `(x, y)` as models
      take it.
    models: From a name to a function of a seed that builds a Keras model.
  """

  name: str
  train_data: tff.simulation.datasets.ClientData
  test_data: tf.data.Dataset
  preprocess: Callable[[Mapping[str, tf.Tensor]], tuple[tf.Tensor, tf.Tensor]]
  models: Mapping[str, Callable[[int], tf.keras.Model]]


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
  rows = task.train_data.create_tf_dataset_for_client(client_id)
  # Some ClientData do not know how many elements they have.
  parts = list(rows.batch(_ROWS_AT_ONCE))
  if not parts:
    # A client without data gives no batch, which methods must survive.
    return rows.batch(batch_size).map(task.preprocess)
  columns = tf.nest.map_structure(lambda *c: tf.concat(c, axis=0), *parts)
  num_rows = tf.nest.flatten(columns)[0].shape[0]
  random = np.random.RandomState(seed)
  order = np.concatenate([random.permutation(num_rows) for _ in range(epochs)])

  def batch(indices):
    return task.preprocess(
      {name: tf.gather(column, indices) for name, column in columns.items()}
    )

  return tf.data.Dataset.from_tensor_slices(order).batch(batch_size).map(batch)


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
