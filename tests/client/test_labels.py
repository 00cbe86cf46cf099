"""Labels by conjugate gradients, and when learning stops."""

import dataclasses

import conftest
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import updates
from tff_fedsynth.client import objectives
from tff_fedsynth.client import synthesis
from tff_fedsynth.client.config import SynthesisConfig
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload.replay import replay
from tff_fedsynth.payload.spec import SyntheticSpec

MODEL = conftest.make_classifier()
WEIGHTS = tf.nest.map_structure(tf.constant, MODEL.initial_weights)
SPEC = SyntheticSpec((6,), (3,), label_form='signed', batch_size=4)
SPARSE = dataclasses.replace(SPEC, label_form='sparse', kept_labels=2)
_RANDOM = np.random.RandomState(3)
TARGET = tuple(
  tf.constant(_RANDOM.normal(size=w.shape), tf.float32) for w in WEIGHTS[0]
)


def _start(spec):
  return encoding.initialize(spec, tf.constant([0, 1]), 1.0, 1.0)


def _solve(spec, steps, target=TARGET):
  return tf.function(
    lambda: synthesis.solve_labels(
      MODEL, WEIGHTS, _start(spec), target, spec, steps
    )
  )()


def _error(spec, variables, is_rounded=True):
  """|update - target|^2, at the scale of the labels."""
  data = encoding.relax(spec, variables)
  if not is_rounded:
    data = data._replace(labels=variables['labels'])
  update = replay(MODEL, WEIGHTS, data, spec.loss_fn)
  difference = [u - t for u, t in zip(update, TARGET)]
  return float(updates.squared_norm(difference))


def _flat(tensors):
  return np.concatenate([np.ravel(t) for t in tensors])


def test_many_steps_give_the_labels_of_a_dense_solve():
  variables = _start(SPEC)
  data = encoding.relax(SPEC, variables)
  jacobian = []
  for i in range(12):
    labels = tf.reshape(tf.one_hot(i, 12), data.labels.shape)
    moved = data._replace(labels=labels)
    jacobian.append(_flat(replay(MODEL, WEIGHTS, moved, SPEC.loss_fn)))
  jacobian = np.stack(jacobian, axis=1).astype(np.float64)
  expected, *_ = np.linalg.lstsq(jacobian, _flat(TARGET), rcond=1e-5)
  solved = _solve(SPEC, 40)
  # Labels themselves are not unique where the outputs' Jacobians are dependent.
  np.testing.assert_allclose(
    jacobian @ np.ravel(solved['labels']), jacobian @ expected, atol=0.01
  )
  np.testing.assert_array_equal(solved['inputs'], variables['inputs'])


@pytest.mark.parametrize('spec', [SPEC, SPARSE], ids=['signed', 'sparse'])
def test_each_step_lessens_the_error(spec):
  errors = [_error(spec, _solve(spec, steps)) for steps in (0, 1, 2, 3, 6)]
  assert all(b < a for a, b in zip(errors, errors[1:])), errors


def test_inputs_are_taken_as_the_server_decodes_them():
  spec = dataclasses.replace(SPEC, bits=2)
  solved = _solve(spec, 20)
  best = _error(spec, solved, is_rounded=False)
  # A minimum for the rounded inputs: no small move helps.
  for seed in range(5):
    noise = 0.1 * tf.random.stateless_normal([1, 4, 3], [seed, 0])
    moved = {**solved, 'labels': solved['labels'] + noise}
    assert best < _error(spec, moved, is_rounded=False)


def test_of_sparse_labels_only_those_sent_change():
  sent = encoding.relax(SPARSE, _start(SPARSE)).labels != 0
  solved = _solve(SPARSE, 5)['labels']
  assert int(tf.reduce_sum(tf.cast(sent, tf.int32))) == 8
  np.testing.assert_array_equal(solved != 0, sent)


def test_a_target_of_zeros_gives_labels_of_zero():
  solved = _solve(SPEC, 3, tf.nest.map_structure(tf.zeros_like, TARGET))
  np.testing.assert_array_equal(solved['labels'], np.zeros([1, 4, 3]))


def _learn(config):
  return tf.function(
    lambda: synthesis.learn(
      MODEL, WEIGHTS, None, TARGET, config, None, tf.constant([0, 0])
    )
  )()


@pytest.mark.parametrize('bits', [32, 4])
def test_solving_never_costs_the_objective(bits):
  spec = dataclasses.replace(SPEC, bits=bits)
  values = []
  for label_steps in (0, 5):
    config = SynthesisConfig(spec, iterations=8, label_steps=label_steps)
    data = encoding.relax(spec, _learn(config))
    update = replay(MODEL, WEIGHTS, data, spec.loss_fn)
    values.append(1 - float(updates.cosine(update, TARGET)))
  assert values[1] < values[0] if bits == 32 else values[1] <= values[0]


@pytest.mark.parametrize(
  'changes, objective, solves',
  [
    ({}, 'update_l2', True),
    ({}, 'update_cosine', True),
    ({}, 'data_loss', False),
    (dict(steps=2), 'update_l2', False),
    (dict(label_form='distributions'), 'update_l2', False),
  ],
)
def test_labels_are_solved_for_where_they_can_be(changes, objective, solves):
  spec = dataclasses.replace(SPEC, **changes)
  config = SynthesisConfig(spec, objective=objective)
  assert config.solves_labels == solves
  assert not dataclasses.replace(config, label_steps=0).solves_labels


def test_learning_stops_where_nothing_is_gained():
  """With a rate of zero nothing is: the fourth look is the last."""
  looks = []

  class Counted(objectives.UpdateL2):
    def value(self, update, target, batch_loss):
      count = lambda: looks.append(1)
      tf.py_function(count, [], [])
      return super().value(update, target, batch_loss)

  config = SynthesisConfig(
    SPEC,
    objective=Counted(),
    optimizer=tff.learning.optimizers.build_sgdm(0.0),
    iterations=50,
    minimum_gain=0.01,
    label_steps=0,
  )
  _learn(config)
  assert len(looks) == 4
