"""Learning synthetic data against the local update."""

import conftest
import numpy as np
import pytest
import small_process
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import updates
from tff_fedsynth.client import local_training
from tff_fedsynth.client import objectives
from tff_fedsynth.client.config import SynthesisConfig
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload.replay import replay
from tff_fedsynth.payload.spec import SyntheticSpec

MODEL = small_process.MODEL
WEIGHTS = small_process.WEIGHTS
DATASET = conftest.make_dataset(MODEL)


def _config(steps=1, bits=32, **kwargs):
  spec = SyntheticSpec((6,), (3,), bits=bits, steps=steps, batch_size=4)
  return SynthesisConfig(spec, **kwargs)


def _measured(result, name):
  return float(result.measurements[name])


@pytest.mark.parametrize('steps, bits', [(1, 4), (3, 32)])
def test_update_l2_reaches_a_cosine_of_090(steps, bits):
  config = _config(steps, bits, iterations=150)
  result = small_process.synthesize(config)(DATASET)
  cosine = _measured(result, 'cosine')
  assert cosine >= 0.9
  # With the best scale, error and cosine are two views of the same angle.
  np.testing.assert_allclose(
    _measured(result, 'relative_l2_error'), np.sqrt(1 - cosine**2), rtol=1e-3
  )


def test_update_cosine_goes_down():
  cosines = [
    _measured(
      small_process.synthesize(
        _config(objective='update_cosine', iterations=iterations)
      )(DATASET),
      'cosine',
    )
    for iterations in (1, 15, 100)
  ]
  assert cosines[0] < cosines[1] < cosines[2]


def test_more_iterations_are_never_worse():
  errors = []
  for iterations in (1, 2, 8):
    # A learning rate that jumps about.
    optimizer = tff.learning.optimizers.build_adam(2.0)
    config = _config(iterations=iterations, optimizer=optimizer)
    result = small_process.synthesize(config)(DATASET)
    errors.append(_measured(result, 'relative_l2_error'))
  np.testing.assert_array_less(np.diff(errors), 1e-5)
  assert errors[-1] < errors[0]


def test_xla_learns_the_same():
  cosines = [
    _measured(
      small_process.synthesize(_config(iterations=10, use_xla=use_xla))(
        DATASET
      ),
      'cosine',
    )
    for use_xla in (False, True)
  ]
  assert abs(cosines[0] - cosines[1]) < 1e-4


def test_an_objective_of_ones_own_is_minimized():
  class LastBias(objectives.UpdateL2):
    """Cares for the bias of the output layer alone."""

    def value(self, update, target, batch_loss):
      return super().value(update[-1:], target[-1:], batch_loss)

  own = LastBias()
  assert objectives.get_objective(own) is own
  result = small_process.synthesize(_config(objective=own, iterations=100))(
    DATASET
  )
  assert bool(result.is_valid)


def test_payload_decodes_to_the_update_that_was_measured():
  config = _config(bits=4, steps=2, iterations=5)
  result = small_process.synthesize(config)(DATASET)

  @tf.function
  def run():
    data = encoding.decode(config.spec, result.payload)
    update = replay(MODEL, WEIGHTS, data, config.spec.loss_fn)
    training = local_training.local_training(
      MODEL, WEIGHTS, DATASET, small_process.SGD(0.1)
    )
    return updates.cosine(update, training.update)

  np.testing.assert_allclose(run(), _measured(result, 'cosine'), rtol=1e-5)


def test_hyperparameters_replace_the_optimizers_own():
  config = _config(iterations=1, diagnostics=True)
  still = small_process.synthesize(config, rate=0.0)(DATASET)
  np.testing.assert_allclose(
    _measured(still, 'local_loss_after_training'),
    _measured(still, 'local_loss_before'),
    rtol=1e-6,
  )


@pytest.mark.parametrize('objective', list(objectives.OBJECTIVES))
def test_clients_without_data_or_that_diverge_are_not_valid(objective):
  config = _config(bits=4, objective=objective, diagnostics=True, iterations=2)
  nan = DATASET.map(lambda x, y: (x * np.nan, y))
  for bad, num_examples in ((DATASET.take(0), 0), (nan, 24)):
    result = small_process.synthesize(config)(bad)
    assert not bool(result.is_valid)
    assert int(result.num_examples) == num_examples
    for name, value in {**result.payload, **result.measurements}.items():
      np.testing.assert_array_equal(value, np.zeros(value.shape), err_msg=name)


def test_clients_of_a_round_start_from_different_noise():
  config = _config(iterations=1)
  a, b, again = (
    small_process.synthesize(config)(conftest.make_dataset(MODEL, seed=s))
    for s in (0, 1, 0)
  )
  np.testing.assert_array_equal(a.payload['inputs'], again.payload['inputs'])
  # One step of Adam moves by 0.1; independent noise differs by more.
  difference = a.payload['inputs'] - b.payload['inputs']
  assert float(tf.reduce_max(tf.abs(difference))) > 0.01


def test_a_data_set_that_never_ends_is_refused():
  with pytest.raises(tf.errors.InvalidArgumentError, match='never ends'):
    small_process.synthesize(_config(iterations=1))(DATASET.repeat())


def test_objectives_by_hand():
  a = (tf.constant([3.0, 0.0]), tf.constant([[4.0]]))
  b = (tf.constant([0.0, 5.0]), tf.constant([[5.0]]))
  get = objectives.get_objective
  assert float(get('data_loss').value(a, None, lambda u: u[1][0, 0])) == 4.0
  np.testing.assert_allclose(
    get('update_cosine').value(a, b, None), 1 - 20 / (5 * np.sqrt(50))
  )
  np.testing.assert_allclose(get('update_l2').value(a, b, None), 35 / 50)


@pytest.mark.parametrize(
  'steps, batch_size, iterations',
  [(1, 6, 40), (1, 7, 35), (2, 6, 20), (1, 32, 14)],
)
def test_iterations_follow_the_examples(steps, batch_size, iterations):
  spec = SyntheticSpec((4,), (2,), steps=steps, batch_size=batch_size)
  assert SynthesisConfig(spec).iterations == iterations
  assert SynthesisConfig(spec, iterations=3).iterations == 3


@pytest.mark.parametrize(
  'batch_size, length, iterations',
  [(1, 13, 40), (1, 20, 26), (2, 17, 15), (8, 20, 14)],
)
def test_iterations_on_text_follow_the_positions(
  batch_size, length, iterations
):
  spec = SyntheticSpec(
    (length, 4),
    (length, 9),
    input_form='token_queries',
    label_form='signed',
    batch_size=batch_size,
  )
  assert SynthesisConfig(spec).iterations == iterations


@pytest.mark.parametrize(
  'arguments, error, message',
  [
    (dict(iterations=0), ValueError, 'iterations must be at least 1'),
    (dict(objective='l3'), ValueError, "Unknown objective 'l3'.*update_l2"),
    (
      dict(objective=lambda update: 0.0),
      TypeError,
      'must be a name or an instance',
    ),
    (
      dict(optimizer=tf.keras.optimizers.Adam()),
      TypeError,
      'must come from tff.learning.optimizers',
    ),
  ],
)
def test_configs_that_cannot_be_are_refused(arguments, error, message):
  with pytest.raises(error, match=message):
    _config(**arguments)
