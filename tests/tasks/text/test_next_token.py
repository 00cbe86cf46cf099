"""The tasks of text: from the wheels, and from TFF's files."""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.tasks import TASKS
from tff_fedsynth.tasks.federated import task as task_lib


@pytest.mark.parametrize(
  'name, model, clients, length',
  [
    ('plays_character', 'small_character_lstm', 824, 80),
    ('chat_word', 'small_word_lstm', 399, 20),
  ],
)
def test_stand_ins_of_the_wheels(name, model, clients, length):
  task = TASKS[name].build(seed=0, max_client_examples=12, test_examples=50)
  assert len(task.train_data.client_ids) == clients
  assert model in task.models
  batches = list(
    task_lib.client_batches(
      task, task.train_data.client_ids[3], epochs=2, batch_size=4, seed=0
    )
  )
  x, y = batches[0]
  assert x.shape == y.shape == (4, length) and len(batches) >= 5
  np.testing.assert_array_equal(x[:, 1:], y[:, :-1])
  assert sum(len(x) for x, _ in task.test_data) == 50
  # Most tokens are known words, not the last three special ones.
  size = len(task.token_names)
  seen = np.concatenate([np.ravel(y) for _, y in task.test_data])
  assert seen.max() < size
  unknown = np.mean(seen[seen > 0] == size - 3)
  assert unknown < 0.25


def _save(path, data, split_names):
  """A file in TFF's schema; `data` maps clients to columns."""
  tff.simulation.datasets.save_to_sql_client_data(
    list(data),
    lambda c: tf.data.Dataset.from_tensor_slices(
      collections.OrderedDict(data[c])
    ),
    str(path),
    split_names_by_client_id=split_names,
  )


def test_shakespeare_is_read_where_tff_keeps_it(tmp_path):
  data = {
    'ROLE': {'snippets': ['Hark!', 'What, ho!']},
    'LAST': {'snippets': ['Who is there?']},
  }
  splits = {'ROLE': 'train', 'LAST': 'test'}
  _save(tmp_path / 'shakespeare.sqlite', data, splits)
  task = TASKS['shakespeare_character'].build(
    seed=0, cache_dir=str(tmp_path), test_examples=5
  )
  assert task.train_data.client_ids == ['ROLE']
  ((x, y),) = task_lib.client_batches(
    task, 'ROLE', epochs=1, batch_size=4, seed=0
  )
  shown = [''.join(task.token_names[i] for i in row if i) for row in x]
  assert sorted(shown) == ['<bos>Hark!<eos>', '<bos>What, ho!<eos>']
  ((test_x, _),) = task.test_data
  assert test_x.shape == (1, 80)


def test_stackoverflow_is_tffs(monkeypatch):
  datasets = tff.simulation.datasets.stackoverflow
  data = datasets.get_synthetic()
  monkeypatch.setattr(
    datasets, 'load_data', lambda cache_dir: (data, data, data)
  )
  counts = datasets.get_synthetic_word_counts()
  monkeypatch.setattr(
    datasets, 'load_word_counts', lambda cache_dir, vocab_size: counts
  )
  task = TASKS['stackoverflow_word'].build(seed=0)
  assert len(task.token_names) == len(counts) + 4
  client = task.train_data.client_ids[0]
  ((x, _),) = task_lib.client_batches(
    task, client, epochs=1, batch_size=8, seed=0
  )
  assert x.shape == (3, 20)


def test_stackoverflow_is_read_where_tff_keeps_it(tmp_path, monkeypatch):
  datasets = tff.simulation.datasets.stackoverflow
  data = datasets.create_synthetic_data_dictionary()
  users = list(data)
  splits = dict(zip(users, ['train', 'heldout', 'test']))
  _save(tmp_path / 'stackoverflow.sqlite', data, splits)
  # Keras holds the counts of words against a hash, which only the real file has.
  (tmp_path / 'stackoverflow.word_count').write_text('the 30\ncss 20\nis 10\n')
  asked = []

  def get_file(name, cache_dir, **_):
    asked.append((name, cache_dir))
    return str(tmp_path / name)

  monkeypatch.setattr(tf.keras.utils, 'get_file', get_file)
  task = TASKS['stackoverflow_word'].build(
    seed=0, cache_dir=str(tmp_path), vocabulary_size=2, test_examples=2
  )
  assert asked == [('stackoverflow.word_count.tar.bz2', str(tmp_path))]
  assert task.token_names == ['<pad>', 'the', 'css', '<oov>', '<bos>', '<eos>']
  assert task.train_data.client_ids == users[:1]
  ((x, _),) = task_lib.client_batches(
    task, users[0], epochs=1, batch_size=8, seed=0
  )
  # "css3 does finally define the"; 5 is the end, 0 padding.
  assert [4, 3, 3, 3, 3, 1, 5] + [0] * 13 in x.numpy().tolist()
  assert x.shape == (3, 20)
  assert sum(len(x) for x, _ in task.test_data) == 2


@pytest.mark.parametrize(
  'name, file',
  [
    ('shakespeare_character', 'shakespeare.sqlite'),
    ('stackoverflow_word', 'stackoverflow.sqlite'),
  ],
)
def test_no_network_is_told(name, file, tmp_path, monkeypatch):
  def fail(cache_dir=None, **_):
    raise OSError('no route')

  datasets = tff.simulation.datasets
  monkeypatch.setattr(datasets.shakespeare, 'load_data', fail)
  monkeypatch.setattr(datasets.stackoverflow, 'load_data', fail)
  with pytest.raises(task_lib.TaskError, match=f'{tmp_path}/{file}.*no route'):
    TASKS[name].build(seed=0, cache_dir=str(tmp_path))
