"""Clients of very different sizes: each example weighs the same in a round."""

import conftest
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from baselines.random_mask import RandomMask
from tff_fedsynth import build_codec_fed_avg
from tff_fedsynth import build_fedsynth
from tff_fedsynth import SynthesisConfig
from tff_fedsynth import SyntheticSpec
from tff_fedsynth.tasks.federated import task as task_lib

SGD = tff.learning.optimizers.build_sgdm
MODEL = conftest.make_classifier()
SIZES = (20, 33, 200, 0, 1)
EPOCHS, BATCH = 2, 20
SPEC = SyntheticSpec((6,), (3,), batch_size=4, bits=4)
PROCESSES = {
  'fedavg': lambda: tff.learning.algorithms.build_weighted_fed_avg(
    MODEL, SGD(0.1)
  ),
  'codec': lambda: build_codec_fed_avg(MODEL, SGD(0.1), codec=RandomMask(53)),
  'fedsynth': lambda: build_fedsynth(
    MODEL, SGD(0.1), config=SynthesisConfig(SPEC, iterations=5)
  ),
}


@pytest.fixture(scope='module')
def task():
  (batch,) = conftest.make_dataset(MODEL, sum(SIZES), batch_size=sum(SIZES))
  x, y = (t.numpy() for t in batch)
  parts = np.split(np.arange(len(x)), np.cumsum(SIZES)[:-1])
  return task_lib.Task(
    name='sizes',
    train_data=task_lib.client_data(x, y, parts),
    test_data=tf.data.Dataset.from_tensors((x, y)),
    preprocess=lambda columns: (columns['x'], columns['y']),
    models={},
  )


@pytest.fixture(scope='module')
def clients(task):
  return [
    task_lib.client_batches(
      task, client, epochs=EPOCHS, batch_size=BATCH, seed=i
    )
    for i, client in enumerate(task.train_data.client_ids)
  ]


def test_the_last_batch_is_smaller_and_nothing_is_left_out(task, clients):
  for client, size, batches in zip(task.train_data.client_ids, SIZES, clients):
    sizes = [len(y) for _, y in batches]
    full, rest = divmod(EPOCHS * size, BATCH)
    assert sizes == [BATCH] * full + [rest] * (rest > 0)
    seen = [x for batch, _ in batches for x in batch.numpy().tolist()]
    own = task.examples(client)[0].numpy().tolist()
    assert sorted(seen) == sorted(EPOCHS * own)


def _moved(process, clients):
  """The update of a round, in one vector."""
  state = process.initialize()
  new = process.next(state, clients).state
  before, after = (
    np.concatenate(
      [np.ravel(w) for w in process.get_model_weights(s).trainable]
    )
    for s in (state, new)
  )
  return before - after


@pytest.mark.parametrize('name', PROCESSES)
def test_an_example_weighs_the_same_wherever_it_is(name, clients):
  process = PROCESSES[name]()
  moved = _moved(process, clients)
  single = [
    size * _moved(process, [client])
    for size, client in zip(SIZES, clients)
    if size
  ]
  assert np.abs(moved).max() > 0.01
  np.testing.assert_allclose(moved, sum(single) / sum(SIZES), atol=1e-5)


@pytest.mark.parametrize('name', PROCESSES)
def test_a_client_without_examples_changes_nothing(name, clients):
  process = PROCESSES[name]()
  np.testing.assert_allclose(
    _moved(process, clients[:2] + clients[3:4]),
    _moved(process, clients[:2]),
    atol=1e-6,
  )
  np.testing.assert_array_equal(_moved(process, [clients[3]]), np.zeros(53))
