"""Learning synthetic data against the loss on real batches."""

import functools

import conftest
import numpy as np
import pytest
import small_process
import tensorflow as tf

from tff_fedsynth import updates
from tff_fedsynth.client import synthesis
from tff_fedsynth.client.config import SynthesisConfig
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload.replay import replay
from tff_fedsynth.payload.spec import SyntheticSpec

MODEL = small_process.MODEL
WEIGHTS = small_process.WEIGHTS
DATASET = conftest.make_dataset(MODEL)


def _config(label_form='signed', **fields):
  spec = SyntheticSpec((6,), (3,), label_form=label_form, batch_size=4)
  fields = {'objective': 'data_loss', 'learning_rate': 0.01, **fields}
  return SynthesisConfig(spec, **fields)


@functools.cache
def _learning(config):
  """From batches to the variables learned, and the length of their update."""

  @tf.function
  def run(dataset):
    variables = synthesis.learn(
      MODEL, WEIGHTS, dataset, None, config, None, tf.constant([0, 0])
    )
    data = encoding.relax(config.spec, variables)
    update = replay(MODEL, WEIGHTS, data, config.spec.loss_fn)
    return variables, updates.norm(update)

  return run


def _cut(sizes, rows=None):
  """The examples of a client in batches of the sizes given."""
  (batch,) = conftest.make_dataset(MODEL, examples=33, batch_size=33)
  x, y = (t if rows is None else tf.gather(t, rows) for t in batch)
  batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(1)
  empty = batches.take(1).map(lambda x, y: (x[:0], y[:0]))
  cut, start = None, 0
  for size in sizes:
    part = batches.skip(start).take(size).unbatch().batch(8) if size else empty
    cut = part if cut is None else cut.concatenate(part)
    start += size
  return cut


def test_data_loss_goes_down():
  config = _config('distributions', learning_rate=0.15, diagnostics=True)
  measured = small_process.synthesize(config)(DATASET.repeat(10)).measurements
  before = float(measured['local_loss_before'])
  assert float(measured['local_loss_after_replay']) < 0.8 * before
  assert float(measured['local_loss_after_training']) < before


def test_the_first_update_is_zero():
  variables, length = _learning(_config())(DATASET.take(0))
  assert float(length) == 0.0
  assert float(tf.math.reduce_std(variables['inputs'])) > 0
  _, length = _learning(_config())(DATASET)
  assert float(length) > 0


def test_a_batch_takes_one_step_with_a_rate_of_its_own_for_labels():
  batch = DATASET.take(1)
  config = _config(passes=1, label_learning_rate=0.07)
  variables, _ = _learning(config)(batch)
  # Adam's first step moves every number by its rate.
  np.testing.assert_allclose(
    tf.abs(variables['labels']), np.full((1, 4, 3), 0.07), rtol=1e-3
  )


def test_each_epoch_takes_a_step_a_batch():
  twice, _ = _learning(_config(passes=2))(DATASET)
  expected, _ = _learning(_config(passes=1))(DATASET.repeat(2))
  np.testing.assert_allclose(twice['inputs'], expected['inputs'], rtol=1e-5)


def test_a_larger_proximal_term_makes_shorter_updates():
  lengths = [
    float(_learning(_config(proximal=mu))(DATASET.repeat(20))[1])
    for mu in (0.0, 0.5, 5.0)
  ]
  assert lengths[0] > 1.2 * lengths[1] > 2 * lengths[2] > 0


@pytest.mark.parametrize('objective', ['data_loss', 'update_l2'])
def test_empty_batches_change_nothing(objective):
  # The loss is a plain mean, NaN over no examples.
  if objective == 'update_l2':
    config = _config(objective=objective, iterations=3)
  else:
    config = _config()
  whole = small_process.synthesize(config)(_cut([8, 8, 8]))
  assert bool(whole.is_valid)
  for sizes in ([0, 8, 8, 8], [8, 0, 8, 0, 0, 8, 0]):
    other = small_process.synthesize(config)(_cut(sizes))
    tf.nest.map_structure(
      np.testing.assert_array_equal, whole.payload, other.payload
    )


def test_a_small_batch_changes_data_loss_by_its_share():
  config = _config(passes=1)

  def inputs(rows, sizes):
    batches = _cut(sizes, rows)
    return _learning(config)(batches)[0]['inputs']

  rows = list(range(24))
  without = inputs(rows, [8, 8, 8])
  one = inputs([*rows, 24], [8, 8, 8, 1])
  # Eight copies of it have the same mean loss.
  eight = inputs([*rows, *8 * [24]], [8, 8, 8, 8])
  np.testing.assert_allclose(one - without, (eight - without) / 8, rtol=1e-2)


def test_the_place_of_a_small_batch_hardly_matters_for_data_loss():
  config = _config(passes=1)
  lengths = [
    float(_learning(config)(_cut(sizes))[1])
    for sizes in ([8, 8, 8, 1], [1, 8, 8, 8], [8, 8, 8])
  ]
  assert max(lengths) < 1.3 * min(lengths)
