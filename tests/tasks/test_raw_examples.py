"""Examples of other files are preprocessed as those that a task trains on."""

import federated_files
import numpy as np
import pytest
import tensorflow as tf

from tff_fedsynth.tasks import TASKS
from tff_fedsynth.tasks.federated import task as task_lib

_Y = np.arange(4) % 3
_FLAT = np.random.RandomState(0).randint(0, 17, (4, 64))
# 0 to 16, as the digits of scikit-learn.
_DIGITS = _FLAT.reshape(4, 8, 8)
_PIXELS = np.random.RandomState(0).randint(0, 256, (4, 28, 28))


def _client_data(directory, column, **options):
  data = {c: {'image': column, 'digit': _Y} for c in 'ab'}
  path = federated_files.save(directory / 'own.sqlite', data)
  fields = dict(client_data=str(path), features='image', label='digit')
  return TASKS['client_data'].make({**fields, **options}, seed=0)


def _emnist(directory):
  federated_files.write_emnist(directory)
  return TASKS['emnist_digits'].build(seed=0, cache_dir=str(directory))


def _mnist(directory):
  del directory
  return TASKS['mnist_digits'].build(seed=0)


def _check(task, x, expected):
  found, labels = task.preprocess_arrays(x, _Y)
  assert found.dtype == np.float32
  np.testing.assert_allclose(
    found, np.reshape(expected, found.shape), rtol=1e-6
  )
  np.testing.assert_array_equal(labels, _Y)


@pytest.mark.parametrize('column', [np.int64, np.float32])
@pytest.mark.parametrize('dtype', ['uint8', 'int64', 'float32', 'float64'])
def test_a_divisor_is_of_numbers_of_any_type(column, dtype, tmp_path):
  task = _client_data(tmp_path, _DIGITS.astype(column), feature_divisor=16.0)
  _check(task, _DIGITS.astype(dtype), _DIGITS / 16)
  # The same as in training, which reads the file.
  x, _ = task.examples('a')
  _check(task, _FLAT.astype(dtype), x.numpy())


@pytest.mark.parametrize('dtype', ['uint8', 'int64', 'float32'])
def test_integers_without_a_divisor_stay_as_they_are(dtype, tmp_path):
  task = _client_data(tmp_path, _DIGITS)
  _check(task, _DIGITS.astype(dtype), _DIGITS)


@pytest.mark.parametrize('make', [_mnist, _emnist])
@pytest.mark.parametrize('dtype', ['uint8', 'int64'])
def test_pixels_are_between_0_and_1(make, dtype, tmp_path):
  task = make(tmp_path)
  _check(task, _PIXELS.astype(dtype), _PIXELS / 255)
  for of_floats in (np.float32, np.float64):
    scaled = (_PIXELS / 255).astype(of_floats)
    _check(task, scaled, scaled)
    _check(task, scaled[..., np.newaxis], scaled)


def test_training_and_test_have_the_same_preprocessing(tmp_path):
  column = np.arange(4 * 64).reshape(4, 8, 8)
  task = _client_data(tmp_path, column, feature_divisor=16.0)
  ((x, _),) = task.test_data
  np.testing.assert_allclose(x[..., 0], column / 16, rtol=1e-6)
  x, y = task.preprocess_arrays(column, _Y)
  np.testing.assert_array_equal(x, task.examples('a')[0])
  assert y.dtype == task.examples('a')[1].numpy().dtype


_HALVES = _DIGITS / 2
_ONES = (_PIXELS > 100).astype(np.uint8)


@pytest.mark.parametrize(
  'make, x, message',
  [
    (
      _mnist,
      _PIXELS.astype(np.float32),
      'pixels, .* found float32 from 0 to 2',
    ),
    (_emnist, _PIXELS.astype(np.float32), 'pixels, as integers from 0 to 255'),
    # White may be 1 or 255.
    (_mnist, _ONES, 'pixels, .*; found uint8 from 0 to 1'),
    (_emnist, _ONES, 'pixels, .*; found uint8 from 0 to 1'),
    (_mnist, _PIXELS - 1, 'found int64 from -1 to'),
    (_mnist, _PIXELS[:, 1:] / 255, r'shape \[28, 28, 1\], .* have \[27, 28\]'),
    (
      lambda d: _client_data(d, _DIGITS),
      _HALVES,
      'whole numbers from -9223372036854775808 to .* float64 from 0 to 8',
    ),
    (
      lambda d: _client_data(d, _DIGITS, feature_divisor=16.0),
      _DIGITS / 16,
      'whole numbers .* float64 from 0 to 1',
    ),
    # Nobody knows whether to divide by 255.
    (
      lambda d: _client_data(d, (_DIGITS / 16).astype(np.float32)),
      _DIGITS.astype(np.uint8),
      'floats, as the data of the task are; found uint8 from 0 to 16',
    ),
    (
      lambda d: TASKS['chat_word'].build(seed=0),
      np.zeros((4, 20)),
      'do not stand in arrays',
    ),
  ],
)
def test_what_could_be_meant_otherwise_is_refused(make, x, message, tmp_path):
  with pytest.raises(task_lib.TaskError, match=message) as caught:
    make(tmp_path).preprocess_arrays(x, _Y)
  assert '\n' not in str(caught.value)


def test_a_plugin_task_names_its_columns():
  x, y = np.arange(12).reshape(4, 3), np.array([0, 1, 1, 0])
  data = task_lib.tff.simulation.datasets.TestClientData(
    {'a': {'length': x.astype(np.int32), 'sort': y}}
  )
  preprocess = lambda rows: (tf.sqrt(tf.cast(rows['length'], tf.float32)), y)
  task = task_lib.Task(
    'lengths',
    data,
    tf.data.Dataset.from_tensors((x, y)),
    preprocess,
    models={},
    columns=('length', 'sort'),
  )
  _check_x, _ = task.preprocess_arrays(x.astype(np.float64), y)
  np.testing.assert_allclose(_check_x, np.sqrt(x), rtol=1e-6)


def _never_ending(x, y):
  return tf.data.Dataset.from_tensor_slices(dict(x=x, y=y)).repeat()


def test_data_that_never_end_are_refused():
  x, y = np.ones((4, 3), np.float32), np.zeros(4, np.int32)
  finite = tf.data.Dataset.from_tensors((x, y))
  data = task_lib.tff.simulation.datasets.ClientData.from_clients_and_tf_fn(
    ['a'], lambda _: _never_ending(x, y)
  )
  of_columns = lambda rows: (rows['x'], rows['y'])
  task = task_lib.Task('endless', data, finite, of_columns, models={})
  with pytest.raises(task_lib.TaskError, match='never end.*local_epochs'):
    task.examples('a')
  with pytest.raises(
    task_lib.TaskError, match='The test data of the task endless never end'
  ):
    task_lib.Task('endless', data, finite.repeat(), of_columns, models={})
