"""Anybody's data, out of files that TFF writes."""

import federated_files
import numpy as np
import pytest

from tff_fedsynth.errors import OptionError
from tff_fedsynth.tasks import labeled
from tff_fedsynth.tasks import TASKS
from tff_fedsynth.tasks.federated import task as task_lib

SIZES = (20, 33, 1, 0, 5)


def _vectors(count, features=6, classes=3, seed=0):
  random = np.random.RandomState(seed)
  return {
    'age': random.normal(size=(count, features)).astype(np.float32),
    'kind': np.arange(count, dtype=np.int64) % classes,
  }


def _clients(sizes=SIZES, **kwargs):
  return {f'c{i}': _vectors(n, seed=i, **kwargs) for i, n in enumerate(sizes)}


def _write(directory, data=None, splits=None, name='own.sqlite'):
  data = _clients() if data is None else data
  return str(federated_files.save(directory / name, data, splits))


def _build(path, **kwargs):
  names = {'features': 'age', 'label': 'kind', **kwargs}
  given = {k: v for k, v in names.items() if v is not None}
  return TASKS['client_data'].make({'client_data': path, **given}, seed=0)


def _test(task):
  x, y = zip(*task.test_data.as_numpy_iterator())
  return np.concatenate(x), np.concatenate(y)


def test_a_share_of_the_clients_is_held_out(tmp_path):
  task = _build(_write(tmp_path), test_client_share=0.4)
  assert task.train_data.client_ids == ['c1', 'c2', 'c3']
  x, y = _test(task)
  held_out = [_clients()[c] for c in ('c0', 'c4')]
  np.testing.assert_array_equal(x, np.concatenate([c['age'] for c in held_out]))
  np.testing.assert_array_equal(
    y, np.concatenate([c['kind'] for c in held_out])
  )
  for client in ('c1', 'c2', 'c3'):
    own_x, own_y = task.examples(client)
    np.testing.assert_array_equal(own_x, _clients()[client]['age'])
    assert own_y.dtype == np.int32
  assert set(task.models) == {'mlp', 'wide_mlp'}
  assert task.models['mlp'](0).output_shape == (None, 3)


def test_the_splits_train_and_test_are_used(tmp_path):
  splits = dict(zip(_clients(), ['train', 'test', 'train', 'other', 'other']))
  task = _build(_write(tmp_path, splits=splits))
  assert task.train_data.client_ids == ['c0', 'c2']
  np.testing.assert_array_equal(_test(task)[0], _clients()['c1']['age'])


def test_another_file_may_be_the_test(tmp_path):
  other = {'stranger': _vectors(9, classes=4, seed=9)}
  splits = dict(zip(_clients(), ['train', 'test', 'train', 'train', 'train']))
  task = _build(
    _write(tmp_path, splits=splits),
    test_client_data=_write(tmp_path, other, name='test.sqlite'),
    test_examples=3,
  )
  assert task.train_data.client_ids == sorted(_clients())
  np.testing.assert_array_equal(_test(task)[0], other['stranger']['age'][::4])
  # Classes are those of both files.
  assert task.models['mlp'](0).output_shape == (None, 4)


def test_integers_are_divided(tmp_path):
  pixels = np.arange(2 * 48, dtype=np.int32).reshape(2, 4, 4, 3)
  data = {c: {'image': pixels, 'digit': [0, 1]} for c in 'ab'}
  task = _build(
    _write(tmp_path, data),
    features='image',
    label='digit',
    feature_divisor=255.0,
  )
  np.testing.assert_allclose(
    task.examples(task.train_data.client_ids[0])[0], pixels / 255, rtol=1e-6
  )


def test_large_inputs_are_warned_of(tmp_path, caplog):
  data = _clients()
  data['c1']['age'][3, 2] = 300
  _build(_write(tmp_path, data))
  assert 'as large as 300' in caplog.text


@pytest.mark.parametrize(
  'size, shape',
  [
    (784, (28, 28, 1)),
    (3072, (32, 32, 3)),
    (48, (4, 4, 3)),
    (10, (10,)),
    (1, (1,)),
    (3, (3,)),
  ],
)
def test_shapes_of_so_many_numbers(size, shape):
  assert labeled.image_shape(size) == shape


def test_a_shape_may_be_named(tmp_path):
  task = _build(_write(tmp_path), feature_shape='2x3x1')
  assert task.models['mlp'](0).input_shape == (None, 2, 3, 1)
  np.testing.assert_array_equal(
    task.examples('c1')[0], _clients()['c1']['age'].reshape(-1, 2, 3, 1)
  )


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(client_data=None), 'client_data is required'),
    (dict(client_data='/nowhere.sqlite'), 'there is no such file'),
    (dict(client_data='/tmp'), 'there is no such file'),
    (dict(client_data=__file__), 'cannot be read .*save_to_sql_client_data'),
    (dict(test_client_data='/nowhere'), '^test_client_data=/nowhere: there is'),
    (
      dict(features=None),
      r'features must name a column of .*own.sqlite, found None. Its columns '
      r'are: .age. \(6 floats\), .kind. \(1 integers\).',
    ),
    (
      dict(label='age'),
      '.age. holds 6 floats, but a label must be one integer',
    ),
    (
      dict(label='sort'),
      'label must name a column of .*, found .sort.. Its col',
    ),
    (dict(feature_shape='2x2'), 'feature_shape must be of the 6 numbers .*2x2'),
    (dict(feature_shape='28,28'), "with an x between .*found '28,28'"),
    (dict(feature_divisor=0.0), 'feature_divisor must be above 0'),
    (
      dict(test_client_share=1.0),
      'test_client_share must be above 0 and below',
    ),
    (dict(test_examples=0), 'test_examples must be at least 1'),
  ],
)
def test_refusals_of_arguments(arguments, message, tmp_path):
  path = _write(tmp_path)
  with pytest.raises(OptionError, match=message) as caught:
    _build(
      **{'path': path, **arguments}
    ) if 'client_data' not in arguments else (
      TASKS['client_data'].make({**arguments, 'features': 'age'}, seed=0)
    )
  assert '\n' not in str(caught.value)


def _one(**columns):
  """Two clients; in the second one a column is another."""
  return {'a': _vectors(4), 'b': {**_vectors(4), **columns}}


def _labels(*labels):
  return {'kind': np.array(labels, np.int64)}


_TEXTS = {c: {'age': ['young', 'old'], 'kind': [0, 1]} for c in 'ab'}
_FLOAT_LABELS = {
  c: {'age': np.ones((2, 3), np.float32), 'kind': np.ones(2, np.float32)}
  for c in 'ab'
}


@pytest.mark.parametrize(
  'data, message',
  [
    (_TEXTS, '.age. holds 1 text, but inputs must be numbers'),
    (_FLOAT_LABELS, '.kind. holds 1 floats, but a label must be one integer'),
    ({'a': _vectors(4)}, 'has one client, and none can be held out'),
    ({'a': _vectors(0), 'b': _vectors(0)}, 'there is no example in it'),
    ({'a': _vectors(0), 'b': _vectors(4)}, 'held out .* have no examples'),
    (
      _one(**_labels(0, 1, -2, 1)),
      'numbers from 0 to 99999, but .* .kind. has -2',
    ),
    (_one(**_labels(0, 1, 2**40, 1)), '.kind. has 1099511627776'),
    (
      {c: {**_vectors(4), **_labels(0, 0, 0, 0)} for c in 'ab'},
      'All labels of the column .kind. are 0',
    ),
    (
      _one(age=np.full((4, 6), np.nan, np.float32)),
      '.age. holds numbers that are not finite',
    ),
  ],
)
def test_refusals_of_data(data, message, tmp_path):
  with pytest.raises(task_lib.TaskError, match=message) as caught:
    _build(_write(tmp_path, data))
  assert '\n' not in str(caught.value)


_INSERT = 'INSERT INTO examples VALUES (?, ?, ?)'


def _example(path, client, count):
  """An example of another file."""
  other = _write(path, {client: _vectors(1, features=count)}, name='o.sqlite')
  query = 'SELECT serialized_example_proto FROM examples'
  return federated_files.rows(other, query)[0][0]


def test_a_file_that_was_changed_is_refused(tmp_path):
  path = _write(tmp_path)
  federated_files.query(
    path, _INSERT, 'default_split', 'c1', _example(tmp_path, 'c1', 7)
  )
  with pytest.raises(
    task_lib.TaskError,
    match='.age. must hold 6 floats as in the first example, but one of client c1 '
    'has 7 floats',
  ):
    _build(path)
  federated_files.query(path, 'DELETE FROM examples WHERE rowid > 59')
  federated_files.query(path, _INSERT, 'default_split', 'c1', b'\xff\xff')
  with pytest.raises(task_lib.TaskError, match='of client c1 is broken'):
    _build(path)
  federated_files.query(path, 'DROP TABLE client_metadata')
  with pytest.raises(
    task_lib.TaskError, match='no such table: client_metadata'
  ):
    _build(path)
