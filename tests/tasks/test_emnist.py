"""Files where TFF keeps its EMNIST, of TFF's kind and of others."""

import federated_files
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.models import architectures
from tff_fedsynth.tasks import TASKS
from tff_fedsynth.tasks.federated import task as task_lib


@pytest.mark.parametrize(
  'name, split, classes',
  [('emnist_digits', 'digits_only', 10), ('emnist_character', 'all', 62)],
)
def test_it_is_read_where_tff_keeps_it(
  name, split, classes, tmp_path, monkeypatch
):
  monkeypatch.setenv('HOME', str(tmp_path))
  data = federated_files.write_emnist(tmp_path / '.tff')
  for arguments in ({}, {'cache_dir': str(tmp_path / '.tff')}):
    task = TASKS[name].build(seed=0, **arguments)
    assert task.name == name
    clients = [f'{split}_train_{i}' for i in range(3)]
    assert task.train_data.client_ids == clients
    (batch,) = task_lib.client_batches(
      task, clients[1], epochs=1, batch_size=10, seed=0
    )
    order = np.random.RandomState(0).permutation(8)
    expected = data[clients[1]]
    np.testing.assert_array_equal(
      batch[0], expected['pixels'][order][..., np.newaxis]
    )
    np.testing.assert_array_equal(batch[1], expected['label'][order])
    ((x, y),) = task.test_data
    assert x.shape == (7 + 8 + 9, 28, 28, 1) and y.dtype == tf.int32
    model = task.models['mlp'](0)
    assert model.output_shape == (None, classes)


@pytest.mark.parametrize(
  'shape, classes, input_shape',
  [((16, 16), 47, (16, 16, 1)), ((8, 8, 3), 5, (8, 8, 3))],
)
def test_the_model_follows_the_data(shape, classes, input_shape, tmp_path):
  data = federated_files.write_emnist(tmp_path, classes, shape)
  task = TASKS['emnist_character'].build(seed=0, cache_dir=str(tmp_path))
  for make in task.models.values():
    model = make(0)
    assert model.input_shape == (None, *input_shape)
    assert model.output_shape == (None, classes)
  x, _ = task.examples('all_train_2')
  np.testing.assert_array_equal(
    x, data['all_train_2']['pixels'].reshape(-1, *input_shape)
  )


def test_the_test_is_a_fixed_share_of_all_writers(tmp_path):
  data = federated_files.write_emnist(tmp_path)
  build = lambda seed: TASKS['emnist_character'].build(
    seed=seed, cache_dir=str(tmp_path), test_examples=6
  )
  ((x, y),) = build(0).test_data
  ((again, _),) = build(1).test_data
  np.testing.assert_array_equal(x, again)
  assert len(y) == 6
  writers = [
    next(i for i in range(3) if (data[f'all_test_{i}']['pixels'] == one).any())
    for one in x[..., 0].numpy()
  ]
  assert writers == [0, 0, 1, 1, 2, 2]


def test_preprocessing_is_that_of_tffs_baseline(tmp_path):
  spec = tff.simulation.baselines.ClientSpec(
    num_epochs=1, batch_size=4, shuffle_buffer_size=1
  )
  # Without a debug_seed, TFF hands out batches in the order they get ready in.
  baseline = tff.simulation.baselines.emnist.create_character_recognition_task(
    spec,
    model_id='cnn_dropout',
    only_digits=True,
    debug_seed=0,
    use_synthetic_data=True,
  )
  (client, *_) = baseline.datasets.train_data.client_ids
  rows = baseline.datasets.train_data.create_tf_dataset_for_client(client)
  columns = next(iter(rows.batch(100)))
  parts = {'digits_only_train': columns, 'digits_only_test': columns}
  federated_files.save(
    tmp_path / 'emnist_all.sqlite', parts, {part: part for part in parts}
  )
  task = TASKS['emnist_digits'].build(seed=0, cache_dir=str(tmp_path))
  ours = tf.data.Dataset.from_tensor_slices(task.examples('digits_only_train'))
  theirs = baseline.datasets.train_preprocess_fn(rows)
  for a, b in zip(theirs, ours.batch(4), strict=True):
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])
  # The CNN with dropout is theirs too, but for the softmax at its end.
  weights = baseline.model_fn().trainable_variables
  model = architectures.cnn_dropout((28, 28, 1), 10)
  assert [w.shape for w in model.weights] == [w.shape for w in weights]
  rates = [getattr(layer, 'rate', 0) for layer in model.layers]
  assert rates == [0, 0, 0, 0.25, 0, 0, 0.5, 0]


def test_a_missing_file_says_where_to_put_it(tmp_path, monkeypatch):
  def fail(*args, **kwargs):
    raise ConnectionError('no route')

  monkeypatch.setattr('urllib.request.urlopen', fail)
  place = f'{tmp_path}/emnist_all.sqlite'
  with pytest.raises(task_lib.TaskError, match=f'{place}.*cache_dir.*route'):
    TASKS['emnist_digits'].build(seed=0, cache_dir=str(tmp_path))
  assert not list(tmp_path.iterdir())


def test_a_download_that_broke_off_says_which_file_to_remove(tmp_path):
  federated_files.write_emnist(tmp_path)
  path = tmp_path / 'emnist_all.sqlite'
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  with pytest.raises(task_lib.TaskError, match=f'{path}.*remove it'):
    TASKS['emnist_digits'].build(seed=0, cache_dir=str(tmp_path))


def test_another_file_in_its_place_is_read_anew(tmp_path):
  build = lambda: TASKS['emnist_character'].build(
    seed=0, cache_dir=str(tmp_path)
  )
  federated_files.write_emnist(tmp_path, classes=62)
  assert build().models['mlp'](0).output_shape == (None, 62)
  (tmp_path / 'emnist_all.sqlite').unlink()
  federated_files.write_emnist(tmp_path, classes=30)
  assert build().models['mlp'](0).output_shape == (None, 30)
