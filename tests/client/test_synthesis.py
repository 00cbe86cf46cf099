import conftest
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import updates
from tff_fedsynth.client import objectives
from tff_fedsynth.client import synthesis
from tff_fedsynth.client.config import SynthesisConfig
from tff_fedsynth.client.training import local_training
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload import replay
from tff_fedsynth.payload.spec import SyntheticSpec

SGD = tff.learning.optimizers.build_sgdm(0.1)


def _config(**kwargs):
  fields = dict(steps=kwargs.pop('steps', 1), batch_size=4)
  spec = SyntheticSpec((6,), (3,), bits=kwargs.pop('bits', 32), **fields)
  return SynthesisConfig(spec, **kwargs)


def _synthesize(model, dataset, config, weights=None, seed=0, rate=None):
  weights = model.initial_weights if weights is None else weights

  @tf.function
  def run():
    hparams = None if rate is None else {'learning_rate': tf.constant(rate)}
    return synthesis.synthesize(
      model,
      tf.nest.map_structure(tf.constant, weights),
      dataset,
      config=config,
      client_optimizer=SGD,
      client_hparams=hparams,
      synthesis_hparams=None,
      seed=tf.constant([seed, 0]),
    )

  return run()


def _measured(result, name):
  return float(result.measurements[name])


@pytest.mark.parametrize('steps', [1, 3])
@pytest.mark.parametrize('bits', [32, 4])
def test_update_l2_reaches_a_cosine_of_090(classifier, steps, bits):
  dataset = conftest.make_dataset(classifier)
  config = _config(steps=steps, bits=bits, iterations=150)
  result = _synthesize(classifier, dataset, config)
  cosine = _measured(result, 'cosine')
  assert cosine >= 0.9
  # With the best scale, error and cosine are two views of the same angle.
  np.testing.assert_allclose(
    _measured(result, 'relative_l2_error'), np.sqrt(1 - cosine**2), rtol=1e-3
  )


@pytest.mark.parametrize('objective', ['update_l2', 'update_cosine'])
def test_update_objectives_go_down(classifier, objective):
  dataset = conftest.make_dataset(classifier)
  cosines = [
    _measured(
      _synthesize(
        classifier,
        dataset,
        _config(objective=objective, iterations=iterations),
      ),
      'cosine',
    )
    for iterations in (1, 15, 100)
  ]
  assert cosines[0] < cosines[1] < cosines[2]


def test_more_iterations_are_never_worse(classifier):
  dataset = conftest.make_dataset(classifier)
  errors = []
  for iterations in (1, 2, 4, 8):
    # A learning rate that jumps about.
    optimizer = tff.learning.optimizers.build_adam(2.0)
    config = _config(iterations=iterations, optimizer=optimizer)
    result = _synthesize(classifier, dataset, config)
    errors.append(_measured(result, 'relative_l2_error'))
  np.testing.assert_array_less(np.diff(errors), 1e-5)
  assert errors[-1] < errors[0]


# A value that is rounded the other way moves a whole level.
@pytest.mark.parametrize('bits, tolerance', [(32, 1e-4), (4, 0.02)])
def test_xla_learns_the_same(classifier, bits, tolerance):
  dataset = conftest.make_dataset(classifier)
  cosines = [
    _measured(
      _synthesize(
        classifier, dataset, _config(bits=bits, iterations=10, use_xla=use_xla)
      ),
      'cosine',
    )
    for use_xla in (False, True)
  ]
  assert abs(cosines[0] - cosines[1]) < tolerance


def test_data_loss_goes_down(classifier):
  dataset = conftest.make_dataset(classifier).repeat(10)
  config = _config(objective='data_loss', steps=2, diagnostics=True)
  result = _synthesize(classifier, dataset, config)
  before = _measured(result, 'local_loss_before')
  assert _measured(result, 'local_loss_after_replay') < 0.8 * before
  assert _measured(result, 'local_loss_after_training') < before


def test_data_loss_takes_one_meta_step_a_real_batch(classifier):
  steps = []
  for batches in (2, 5):
    dataset = conftest.make_dataset(classifier, examples=4 * batches)
    config = _config(objective='data_loss', passes=1, proximal=0.0)
    variables = tf.function(
      lambda dataset=dataset, config=config: synthesis.learn(
        classifier,
        tf.nest.map_structure(tf.constant, classifier.initial_weights),
        dataset,
        None,
        config,
        None,
        tf.constant([0, 0]),
      )
    )()
    # Adam moves a coordinate by at most about its rate a step.
    rate = config.learning_rate
    steps.append(float(tf.abs(variables['step_sizes'][0] - 1.0)))
  assert 0 < steps[0] <= 2 * rate * 1.01
  assert steps[0] < steps[1] <= 5 * rate * 1.01


def _linear_config(**fields):
  spec = SyntheticSpec((6,), (3,), label_form='signed', batch_size=4)
  return SynthesisConfig(
    spec, objective='data_loss', **{'learning_rate': 0.01, **fields}
  )


def _learn(model, config, dataset):
  weights = tf.nest.map_structure(tf.constant, model.initial_weights)

  @tf.function
  def run():
    variables = synthesis.learn(
      model, weights, dataset, None, config, None, tf.constant([0, 0])
    )
    data = encoding.relax(config.spec, variables)
    update = replay.replay(model, weights, data, config.spec.loss_fn)
    return variables, updates.norm(update)

  return run()


def test_the_first_update_for_real_batches_is_zero(classifier):
  dataset = conftest.make_dataset(classifier)
  variables, length = _learn(classifier, _linear_config(), dataset.take(0))
  assert float(length) == 0.0
  assert float(tf.math.reduce_std(variables['inputs'])) > 0
  _, length = _learn(classifier, _linear_config(), dataset)
  assert float(length) > 0


def _cut(model, sizes, rows=None):
  """The examples of a client in batches of the sizes given."""
  (batch,) = conftest.make_dataset(model, examples=33, batch_size=33)
  x, y = (t if rows is None else tf.gather(t, rows) for t in batch)
  batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(1)
  empty = batches.take(1).map(lambda x, y: (x[:0], y[:0]))
  cut, start = None, 0
  for size in sizes:
    part = batches.skip(start).take(size).unbatch().batch(8) if size else empty
    cut = part if cut is None else cut.concatenate(part)
    start += size
  return cut


@pytest.mark.parametrize('objective', ['data_loss', 'update_l2'])
@pytest.mark.parametrize(
  'sizes', [[0, 8, 8, 8], [8, 0, 8, 0, 0, 8], [8, 8, 8, 0]]
)
def test_empty_batches_change_nothing(objective, sizes):
  # Its loss is a plain mean, NaN over no examples.
  model = conftest.make_classifier()
  config = _config(objective=objective, iterations=3)
  whole = _synthesize(model, _cut(model, [8, 8, 8]), config)
  other = _synthesize(model, _cut(model, sizes), config)
  assert bool(whole.is_valid)
  tf.nest.map_structure(
    np.testing.assert_array_equal, whole.payload, other.payload
  )


def test_a_data_set_that_never_ends_is_refused(classifier):
  dataset = conftest.make_dataset(classifier).repeat()
  with pytest.raises(tf.errors.InvalidArgumentError, match='never ends'):
    _synthesize(classifier, dataset, _config(iterations=1))


def test_a_small_batch_changes_data_loss_by_its_share(classifier):
  config = _linear_config(passes=1)

  def inputs(rows, sizes):
    batches = _cut(classifier, sizes, rows)
    return _learn(classifier, config, batches)[0]['inputs']

  rows = list(range(24))
  without = inputs(rows, [8, 8, 8])
  one = inputs([*rows, 24], [8, 8, 8, 1])
  # Eight copies of it have the same mean loss.
  eight = inputs([*rows, *8 * [24]], [8, 8, 8, 8])
  np.testing.assert_allclose(one - without, (eight - without) / 8, rtol=1e-2)


def test_the_place_of_a_small_batch_hardly_matters_for_data_loss(classifier):
  config = _linear_config(passes=1)
  lengths = [
    float(_learn(classifier, config, _cut(classifier, sizes))[1])
    for sizes in ([8, 8, 8, 1], [1, 8, 8, 8], [8, 8, 8])
  ]
  assert max(lengths) < 1.3 * min(lengths)


def test_labels_have_a_learning_rate_of_their_own(classifier):
  batch = conftest.make_dataset(classifier).take(1)
  config = _linear_config(passes=1, label_learning_rate=0.07)
  variables, _ = _learn(classifier, config, batch)
  # Adam's first step moves every number by its rate.
  np.testing.assert_allclose(
    tf.abs(variables['labels']), np.full((1, 4, 3), 0.07), rtol=1e-3
  )


def test_a_larger_proximal_term_makes_shorter_updates(classifier):
  dataset = conftest.make_dataset(classifier).repeat(20)
  lengths = [
    float(_learn(classifier, _linear_config(proximal=mu), dataset)[1])
    for mu in (0.0, 0.5, 5.0)
  ]
  assert lengths[0] > 1.2 * lengths[1] > 2 * lengths[2] > 0


def test_each_pass_takes_a_step_a_batch(classifier):
  dataset = conftest.make_dataset(classifier)
  twice, _ = _learn(classifier, _linear_config(passes=2), dataset)
  repeated = _linear_config(passes=1)
  expected, _ = _learn(classifier, repeated, dataset.repeat(2))
  np.testing.assert_allclose(twice['inputs'], expected['inputs'], rtol=1e-5)


def test_own_objective(classifier):
  class LastBias(objectives.UpdateL2):
    """Cares for the bias of the output layer alone."""

    def value(self, update, target, batch_loss):
      return super().value(update[-1:], target[-1:], batch_loss)

  dataset = conftest.make_dataset(classifier)
  config = _config(objective=LastBias(), iterations=100)
  result = _synthesize(classifier, dataset, config)
  assert bool(result.is_valid)


def test_payload_decodes_to_the_update_that_was_measured(classifier):
  dataset = conftest.make_dataset(classifier)
  config = _config(bits=4, steps=2)
  result = _synthesize(classifier, dataset, config)
  weights = tf.nest.map_structure(tf.constant, classifier.initial_weights)
  data = encoding.decode(config.spec, result.payload)
  update = tf.function(lambda: replay.replay(classifier, weights, data))()
  target = tf.function(
    lambda: (
      local_training.local_training(classifier, weights, dataset, SGD).update
    )
  )()
  np.testing.assert_allclose(
    updates.cosine(update, target),
    _measured(result, 'cosine'),
    rtol=1e-5,
  )


def test_local_training_is_sgd(classifier):
  dataset = conftest.make_dataset(classifier, examples=10, batch_size=4)
  weights = tf.nest.map_structure(tf.constant, classifier.initial_weights)
  training = tf.function(
    lambda: local_training.local_training(classifier, weights, dataset, SGD)
  )()
  w = [tf.Variable(v) for v in classifier.initial_weights[0]]
  for x, y in dataset:
    with tf.GradientTape() as tape:
      loss = classifier.loss(
        classifier.predict_on_batch((tuple(w), ()), x, training=True), y
      )
    for v, g in zip(w, tape.gradient(loss, w), strict=True):
      v.assign_sub(0.1 * g)
  assert int(training.num_examples) == 10
  for u, v0, v in zip(training.update, weights[0], w, strict=True):
    np.testing.assert_allclose(u, v0 - v, atol=1e-6)


def test_hyperparameters_replace_the_optimizers_own(classifier):
  dataset = conftest.make_dataset(classifier)
  config = _config(iterations=1, diagnostics=True)
  still = _synthesize(classifier, dataset, config, rate=0.0)
  np.testing.assert_allclose(
    _measured(still, 'local_loss_after_training'),
    _measured(still, 'local_loss_before'),
    rtol=1e-6,
  )


def test_a_client_without_data_is_not_valid(classifier):
  dataset = conftest.make_dataset(classifier).take(0)
  for objective in objectives.OBJECTIVES:
    config = _config(objective=objective, diagnostics=True)
    result = _synthesize(classifier, dataset, config)
    assert not bool(result.is_valid), objective
    assert int(result.num_examples) == 0
    for name, value in {**result.payload, **result.measurements}.items():
      np.testing.assert_array_equal(value, np.zeros(value.shape), err_msg=name)


@pytest.mark.parametrize('bits', [32, 4])
@pytest.mark.parametrize('objective', list(objectives.OBJECTIVES))
def test_a_client_that_diverges_is_not_valid(classifier, objective, bits):
  dataset = conftest.make_dataset(classifier).map(lambda x, y: (x * np.nan, y))
  config = _config(objective=objective, bits=bits)
  result = _synthesize(classifier, dataset, config)
  assert not bool(result.is_valid)
  for value in result.payload.values():
    np.testing.assert_array_equal(value, np.zeros(value.shape))


def test_clients_of_a_round_start_from_different_noise(classifier):
  config = _config(iterations=1)
  a, b, again = (
    _synthesize(classifier, conftest.make_dataset(classifier, seed=s), config)
    for s in (0, 1, 0)
  )
  np.testing.assert_array_equal(a.payload['inputs'], again.payload['inputs'])
  # One step of Adam moves by 0.1; independent noise differs by more.
  difference = a.payload['inputs'] - b.payload['inputs']
  assert float(tf.reduce_max(tf.abs(difference))) > 0.01


@pytest.mark.parametrize(
  'arguments, error, message',
  [
    (dict(iterations=0), ValueError, 'iterations must be at least 1'),
    (dict(objective='l3'), ValueError, 'Unknown objective'),
    (
      dict(optimizer=tf.keras.optimizers.Adam()),
      TypeError,
      'must come from tff.learning.optimizers',
    ),
  ],
)
def test_config_refusals(arguments, error, message):
  with pytest.raises(error, match=message):
    _config(**arguments)
