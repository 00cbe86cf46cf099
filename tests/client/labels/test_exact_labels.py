import dataclasses

import conftest
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import updates
from tff_fedsynth.client import synthesis
from tff_fedsynth.client.config import SynthesisConfig
from tff_fedsynth.client.labels import exact_labels
from tff_fedsynth.client.objectives import OBJECTIVES
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload import replay as replay_lib
from tff_fedsynth.payload.spec import SyntheticSpec

SPEC = SyntheticSpec(
  (6,), (3,), label_form='signed', steps=1, batch_size=4, bits=32
)
SPARSE = dataclasses.replace(
  SPEC, label_shape=(3,), label_form='sparse', kept_labels=2
)


@pytest.fixture
def weights(classifier):
  return tf.nest.map_structure(tf.constant, classifier.initial_weights)


def _start(spec, seed=0):
  return encoding.initialize(spec, tf.constant([seed, 1]), 1.0, 1.0)


def _target(weights):
  random = np.random.RandomState(3)
  return tuple(
    tf.constant(random.normal(size=w.shape), tf.float32) for w in weights[0]
  )


def _solve(model, weights, spec, steps, variables):
  solve = tf.function(
    lambda: exact_labels.solve(
      model, weights, variables, _target(weights), spec, steps
    )
  )
  return solve()


def _error(model, weights, spec, variables, is_rounded=True):
  """|update - target|^2, at the scale of the labels."""
  data = encoding.relax(spec, variables, model, weights)
  if not is_rounded:
    data = data._replace(labels=variables['labels'])
  update = replay_lib.replay(model, weights, data, spec.loss_fn)
  difference = [u - t for u, t in zip(update, _target(weights))]
  return float(updates.squared_norm(difference))


def _flat(tensors):
  return np.concatenate([np.ravel(t) for t in tensors])


def test_many_steps_give_the_labels_of_a_dense_solve(classifier, weights):
  variables = _start(SPEC)
  data = encoding.relax(SPEC, variables, classifier, weights)
  jacobian = []
  for i in range(12):
    labels = tf.reshape(tf.one_hot(i, 12), data.labels.shape)
    update = replay_lib.replay(
      classifier, weights, data._replace(labels=labels), SPEC.loss_fn
    )
    jacobian.append(_flat(update))
  jacobian = np.stack(jacobian, axis=1).astype(np.float64)
  expected, *_ = np.linalg.lstsq(jacobian, _flat(_target(weights)), rcond=1e-5)
  solved = _solve(classifier, weights, SPEC, 40, variables)
  # Labels themselves are not unique where the outputs' Jacobians are dependent.
  np.testing.assert_allclose(
    jacobian @ np.ravel(solved['labels']), jacobian @ expected, atol=0.01
  )
  np.testing.assert_array_equal(solved['inputs'], variables['inputs'])


@pytest.mark.parametrize('spec', [SPEC, SPARSE], ids=['signed', 'sparse'])
def test_each_step_lessens_the_error(classifier, weights, spec):
  variables = _start(spec)
  errors = []
  for steps in range(7):
    solved = _solve(classifier, weights, spec, steps, variables)
    errors.append(_error(classifier, weights, spec, solved))
  assert all(b < a for a, b in zip(errors, errors[1:])), errors


def test_inputs_are_taken_as_the_server_decodes_them(classifier, weights):
  spec = dataclasses.replace(SPEC, bits=2)
  variables = _start(spec)
  solved = _solve(classifier, weights, spec, 20, variables)
  best = _error(classifier, weights, spec, solved, is_rounded=False)
  # A minimum for the rounded inputs: no small move helps.
  for seed in range(5):
    noise = 0.1 * tf.random.stateless_normal([1, 4, 3], [seed, 0])
    moved = {**solved, 'labels': solved['labels'] + noise}
    assert best < _error(classifier, weights, spec, moved, is_rounded=False)


def test_of_sparse_labels_only_those_sent_change(classifier, weights):
  variables = _start(SPARSE)
  sent = encoding.relax(SPARSE, variables, classifier, weights).labels != 0
  solved = _solve(classifier, weights, SPARSE, 5, variables)['labels']
  assert int(tf.reduce_sum(tf.cast(sent, tf.int32))) == 8
  np.testing.assert_array_equal(solved != 0, sent)


def test_a_target_of_zeros_gives_labels_of_zero(classifier, weights):
  target = tf.nest.map_structure(tf.zeros_like, weights[0])
  solved = tf.function(
    lambda: exact_labels.solve(
      classifier, weights, _start(SPEC), target, SPEC, 3
    )
  )()
  np.testing.assert_array_equal(solved['labels'], np.zeros([1, 4, 3]))


@pytest.mark.parametrize('bits', [32, 4])
@pytest.mark.parametrize('objective', ['update_l2', 'update_cosine'])
def test_solving_never_costs_the_objective(
  classifier, weights, objective, bits
):
  spec = dataclasses.replace(SPEC, bits=bits)
  target = _target(weights)
  values = []
  for label_steps in (0, 5):
    config = SynthesisConfig(
      spec, objective=objective, iterations=8, label_steps=label_steps
    )
    learned = tf.function(
      lambda config=config: synthesis.learn(
        classifier, weights, None, target, config, None, tf.constant([0, 0])
      )
    )()
    data = encoding.relax(spec, learned, classifier, weights)
    update = replay_lib.replay(classifier, weights, data, spec.loss_fn)
    values.append(1 - float(updates.cosine(update, target)))
  assert values[1] < values[0] if bits == 32 else values[1] <= values[0]


@pytest.mark.parametrize(
  'changes, objective, applies',
  [
    ({}, 'update_l2', True),
    ({}, 'update_cosine', True),
    ({}, 'data_loss', False),
    (dict(steps=2), 'update_l2', False),
    (dict(label_form='distributions'), 'update_l2', False),
  ],
)
def test_labels_are_solved_for_where_they_can_be(changes, objective, applies):
  spec = dataclasses.replace(SPEC, **changes)
  assert exact_labels.applies_to(spec, OBJECTIVES[objective]) == applies
  assert SynthesisConfig(spec, objective=objective).solves_labels == applies
  assert not SynthesisConfig(
    spec, objective=objective, label_steps=0
  ).solves_labels


def test_learning_stops_where_nothing_is_gained(classifier):
  """With a rate of zero nothing is: the fourth look is the last."""
  dataset = conftest.make_dataset(classifier)
  looks = []

  class Counted(type(OBJECTIVES['update_l2'])):
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
  tf.function(
    lambda: synthesis.learn(
      classifier,
      tf.nest.map_structure(tf.constant, classifier.initial_weights),
      dataset,
      _target(classifier.initial_weights),
      config,
      None,
      tf.constant([0, 0]),
    )
  )()
  assert len(looks) == 4
