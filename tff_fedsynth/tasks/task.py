"""What a task is, and how a client's data become batches."""

import collections
from collections.abc import Callable
from collections.abc import Mapping
import dataclasses

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff


class TaskError(ValueError):
  """A task that cannot be built as asked; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Task:
  """Federated data and the models that fit them.

  Attributes:
    name: As in `tasks.TASKS`.
    train_data: One client each; elements are `OrderedDict(x, y)`.
    test_data: Batches `(x, y)`, preprocessed.
    preprocess: Maps a batch of `(x, y)` as in `train_data` to what models take.
    models: From a name to a function of a seed that builds a Keras model.
  """

  name: str
  train_data: tff.simulation.datasets.ClientData
  test_data: tf.data.Dataset
  preprocess: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
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
  # A client without data gives no batch, which methods must survive.
  num_rows = int(rows.cardinality())
  if num_rows == 0:
    return rows.batch(batch_size).map(lambda r: task.preprocess(r['x'], r['y']))
  columns = rows.batch(num_rows).get_single_element()
  random = np.random.RandomState(seed)
  order = np.concatenate([random.permutation(num_rows) for _ in range(epochs)])
  return (
    tf.data.Dataset.from_tensor_slices(order)
    .batch(batch_size)
    .map(
      lambda rows: task.preprocess(
        tf.gather(columns['x'], rows), tf.gather(columns['y'], rows)
      )
    )
  )


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
