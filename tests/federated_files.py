"""Small files of federated data, in TFF's format, where TFF looks for its own."""

import collections
import sqlite3

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

_SNIPPETS = ('To be, or not to be.', 'Who is there?', 'Hark! What, ho!')
_TOKENS = (
  'how do i sort a list ?',
  'use the function sort .',
  'thanks a lot !',
)


def save(path, data, splits=None):
  """Writes a file; `data` maps clients to columns, `splits` to their splits."""
  path.parent.mkdir(exist_ok=True)
  tff.simulation.datasets.save_to_sql_client_data(
    list(data),
    lambda client: tf.data.Dataset.from_tensor_slices(
      collections.OrderedDict(data[client])
    ),
    str(path),
    split_names_by_client_id=splits,
  )
  return path


def query(path, statement, *values):
  """Changes a file."""
  with sqlite3.connect(path) as connection:
    connection.execute(statement, values)


def images(count, classes=10, shape=(28, 28), seed=0):
  """Images whose brightness tells their class, and labels; the last one is there."""
  random = np.random.RandomState(seed)
  label = np.append(random.randint(0, classes, count - 1), classes - 1)
  noise = random.uniform(0, 0.1, (count, *shape))
  pixels = noise + (label / classes).reshape(-1, *(1 for _ in shape))
  return {
    'label': label.astype(np.int32),
    'pixels': pixels.astype(np.float32),
  }


def write_emnist(directory, classes=62, shape=(28, 28), sizes=(7, 8, 9)):
  """A file of a few writers; returns their columns."""
  splits, data = {}, {}
  for split, labels in (
    ('digits_only_train', 10),
    ('digits_only_test', 10),
    ('all_train', classes),
    ('all_test', classes),
  ):
    for i, size in enumerate(sizes):
      splits[f'{split}_{i}'] = split
      data[f'{split}_{i}'] = images(size, labels, shape, seed=i)
  save(directory / 'emnist_all.sqlite', data, splits)
  return data


def write_shakespeare(directory):
  """A file of two roles."""
  data = {
    f'{split}_{role}': {'snippets': list(_SNIPPETS)}
    for split in ('train', 'test')
    for role in ('HAMLET', 'BERNARDO')
  }
  splits = {client: client.split('_')[0] for client in data}
  save(directory / 'shakespeare.sqlite', data, splits)


def write_stackoverflow(directory):
  """A file of two users, and none of the counts of words."""
  data = {
    f'{split}_{user}': {
      'creation_date': ['2010-01-01 00:00:00 UTC'] * 3,
      'score': np.zeros(3, np.int64),
      'tags': ['python'] * 3,
      'title': [''] * 3,
      'tokens': list(_TOKENS),
      'type': ['answer'] * 3,
    }
    for split in ('train', 'heldout', 'test')
    for user in ('u1', 'u2')
  }
  splits = {client: client.split('_')[0] for client in data}
  save(directory / 'stackoverflow.sqlite', data, splits)


def rows(path, statement):
  """What a query gives."""
  with sqlite3.connect(path) as connection:
    return connection.execute(statement).fetchall()
