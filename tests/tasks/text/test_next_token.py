"""The tasks of text: from the wheels, and from TFF's files."""

import federated_files
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.tasks import TASKS
from tff_fedsynth.tasks.federated import client_file
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


def test_shakespeare_is_read_where_tff_keeps_it(tmp_path):
  data = {
    'ROLE': {'snippets': ['Hark!', 'What, ho!']},
    'LAST': {'snippets': ['Who is there?']},
  }
  splits = {'ROLE': 'train', 'LAST': 'test'}
  federated_files.save(tmp_path / 'shakespeare.sqlite', data, splits)
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


@pytest.mark.parametrize('has_index', [False, True])
def test_clients_are_found_with_an_index_and_without(
  tmp_path, monkeypatch, has_index
):
  federated_files.write_shakespeare(tmp_path)
  path = tmp_path / 'shakespeare.sqlite'
  # One more at the end, behind those of others.
  federated_files.query(
    path,
    'INSERT INTO examples SELECT * FROM examples WHERE client_id = ? LIMIT 1',
    'train_BERNARDO',
  )
  if has_index:
    federated_files.query(path, 'CREATE INDEX by_id ON examples (client_id)')
  asked = []
  rows_of = client_file.ClientFile._rows

  def count(self, query, values=()):
    asked.append(query)
    return rows_of(self, query, values)

  monkeypatch.setattr(client_file.ClientFile, '_rows', count)
  specs = {'snippets': tf.TensorSpec([], tf.string)}
  file = client_file.ClientFile(path, '--client_data')
  clients = file.clients(specs, 'train')
  asked.clear()
  # HAMLET was written first, then BERNARDO: three rows each.
  assert clients.find('train_BERNARDO') == [4, 5, 6, 13]
  assert clients.find('train_HAMLET') == [1, 2, 3]
  assert clients.find('test_HAMLET') == []
  assert len(asked) == (3 if has_index else 1)


@pytest.fixture
def no_network(monkeypatch):
  def fail(*args, **kwargs):
    raise OSError('no route')

  monkeypatch.setattr(tf.keras.utils, 'get_file', fail)
  monkeypatch.setattr('urllib.request.urlopen', fail)


def _stackoverflow(directory, **options):
  return TASKS['stackoverflow_word'].build(
    seed=0, cache_dir=str(directory), **options
  )


def test_words_beside_the_data_are_used(tmp_path, no_network):
  datasets = tff.simulation.datasets.stackoverflow
  data = datasets.create_synthetic_data_dictionary()
  users = list(data)
  splits = dict(zip(users, ['train', 'heldout', 'test']))
  federated_files.save(tmp_path / 'stackoverflow.sqlite', data, splits)
  words = tmp_path / 'stackoverflow.word_count'
  words.write_text('the 30\ncss 20\nis 10\n')
  task = _stackoverflow(tmp_path, vocabulary_size=2, test_examples=2)
  assert task.token_names == ['<pad>', 'the', 'css', '<oov>', '<bos>', '<eos>']
  assert task.train_data.client_ids == users[:1]
  ((x, _),) = task_lib.client_batches(
    task, users[0], epochs=1, batch_size=8, seed=0
  )
  # "css3 does finally define the"; 5 is the end, 0 padding.
  assert [4, 3, 3, 3, 3, 1, 5] + [0] * 13 in x.numpy().tolist()
  assert x.shape == (3, 20)
  assert sum(len(x) for x, _ in task.test_data) == 2
  for text, message in (
    ('the 30\ncss\n', 'line 2 is no word and its count'),
    ('', 'word_count without words'),
    ('the many\n', 'line 1 is no word'),
  ):
    words.write_text(text)
    with pytest.raises(task_lib.TaskError, match=message):
      _stackoverflow(tmp_path)


def test_tffs_own_words_are_used(tmp_path, monkeypatch):
  federated_files.write_stackoverflow(tmp_path)
  (tmp_path / 'datasets').mkdir()
  asked = []

  # Keras holds the archive against a hash, which only the real one has.
  def get_file(name, cache_dir, **_):
    asked.append((name, cache_dir))
    path = tmp_path / 'datasets' / 'stackoverflow.word_count'
    path.write_text('a 30\nlot 20\n')
    return str(path.with_suffix('.tar.bz2'))

  monkeypatch.setattr(tf.keras.utils, 'get_file', get_file)
  task = _stackoverflow(tmp_path)
  assert asked == [('stackoverflow.word_count.tar.bz2', str(tmp_path))]
  assert task.token_names[1:3] == ['a', 'lot']


def test_else_words_are_counted_on_the_clients_that_train(
  tmp_path, no_network, caplog
):
  federated_files.write_stackoverflow(tmp_path)
  task = _stackoverflow(tmp_path, vocabulary_size=5)
  # Those of three sentences, by number and then by name.
  assert task.token_names[1:-3] == ['a', 'sort', '!', '.', '?']
  assert 'words are counted on the training clients' in caplog.text
  assert 'no route' in caplog.text


@pytest.mark.parametrize(
  'name, file',
  [
    ('shakespeare_character', 'shakespeare.sqlite'),
    ('stackoverflow_word', 'stackoverflow.sqlite'),
  ],
)
def test_no_network_is_told(name, file, tmp_path, no_network):
  with pytest.raises(task_lib.TaskError, match=f'{tmp_path}/{file}.*no route'):
    TASKS[name].build(seed=0, cache_dir=str(tmp_path))


def test_a_file_of_something_else_is_told(tmp_path):
  federated_files.write_emnist(tmp_path)
  (tmp_path / 'emnist_all.sqlite').rename(tmp_path / 'shakespeare.sqlite')
  with pytest.raises(
    task_lib.TaskError,
    match='must name a column .*found .snippets.. Its columns',
  ):
    TASKS['shakespeare_character'].build(seed=0, cache_dir=str(tmp_path))


def test_the_test_is_a_fixed_choice_of_texts(tmp_path):
  data = {
    f'{split}_{i}': {'snippets': [f'{split} {i}.{j}' for j in range(40)]}
    for split in ('train', 'test')
    for i in range(9)
  }
  federated_files.save(
    tmp_path / 'shakespeare.sqlite', data, {c: c.split('_')[0] for c in data}
  )
  for most, count in ((30, 30), (500, 360)):
    first, second = (
      TASKS['shakespeare_character'].build(
        seed=seed, cache_dir=str(tmp_path), test_examples=most
      )
      for seed in (0, 1)
    )
    x, again = (
      np.concatenate([x for x, _ in task.test_data]) for task in (first, second)
    )
    np.testing.assert_array_equal(x, again)
    assert len(np.unique(x, axis=0)) == len(x) == count


def test_anybodys_texts(tmp_path):
  texts = ['the cat sat', 'the cat', 'the dog']
  data = {f'c{i}': {'said': texts} for i in range(4)}
  data['c9'] = {'said': ['another word']}
  path = str(federated_files.save(tmp_path / 'own.sqlite', data))
  task = TASKS['client_words'].make(
    {'client_data': path, 'features': 'said', 'vocabulary_size': 2}, seed=0
  )
  assert task.train_data.client_ids == ['c1', 'c2', 'c3', 'c9']
  assert task.token_names[1:-3] == ['the', 'cat']
  assert len(task.examples('c1')[0]) == 3
  assert 'small_word_lstm' in task.models
  for arguments, message in (
    ({'features': 'heard'}, 'found .heard.. Its columns are: .said. .1 text.'),
    ({}, 'found None'),
  ):
    with pytest.raises(task_lib.TaskError, match=message):
      TASKS['client_words'].make({'client_data': path, **arguments}, seed=0)


def test_anybodys_characters(tmp_path):
  data = {f'c{i}': {'said': ['да!', 'b']} for i in range(4)}
  data['c9'] = {'said': ['z']}
  path = str(federated_files.save(tmp_path / 'own.sqlite', data))
  task = TASKS['client_characters'].make(
    {'client_data': path, 'features': 'said'}, seed=0
  )
  # The bytes of training clients, in UTF-8, between the special tokens.
  assert task.token_names[1:-3] == [
    *('!', 'b', 'z'),
    *(chr(byte) for byte in sorted(set('да'.encode()))),
  ]
  rows = task.examples('c1')[0]
  assert len(rows) == 2
  names = [task.token_names[i] for i in rows[0][:7]]
  assert names[0] == '<bos>' and names[-1] == '<eos>'
  assert ''.join(names[1:-1]).encode('latin-1').decode() == 'да!'
  assert 'small_character_lstm' in task.models


def test_numbers_are_no_texts(tmp_path):
  federated_files.write_emnist(tmp_path)
  path = str(tmp_path / 'emnist_all.sqlite')
  with pytest.raises(task_lib.TaskError, match='784 floats, but not one text'):
    TASKS['client_words'].make(
      {'client_data': path, 'features': 'pixels'}, seed=0
    )
