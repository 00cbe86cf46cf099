"""Clients of a round: replayed as they were, weighted, clipped, or rejected."""

import functools

import conftest
import numpy as np
import pytest
import small_process
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import Defense
from tff_fedsynth import from_keras
from tff_fedsynth import ServerConfig
from tff_fedsynth import SyntheticPayload
from tff_fedsynth import SyntheticSpec
from tff_fedsynth.client import client_work
from tff_fedsynth.models import architectures
from tff_fedsynth.models.weights import model_weights_type
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload import forms
from tff_fedsynth.payload.replay import replay
from tff_fedsynth.server import averaging

SGD = tff.learning.optimizers.build_sgdm
MODEL = small_process.MODEL
WEIGHTS = tuple(map(tf.constant, MODEL.initial_weights[0])), ()
# With two steps, their sizes are fields of their own.
SPEC = SyntheticSpec((6,), (3,), steps=2)
# Messages of one step are decoded in chunks.
ONE_STEP = SyntheticSpec((6,), (3,), batch_size=12, bits=4)
TOKENS = 11


def _message(seed=0, **fields):
  variables = encoding.initialize(SPEC, tf.constant([seed, 0]), 1.0, 1.0)
  message = encoding.encode(SPEC, variables)
  for name, value in fields.items():
    message[name] = tf.fill(message[name].shape, np.float32(value))
  return message


def _stack(messages):
  return {k: tf.stack([m[k] for m in messages]) for k in messages[0]}


def _flat(update):
  return np.concatenate([np.ravel(u) for u in update])


def _named(reasons):
  return dict(zip(averaging.REASONS, np.array(reasons)))


def _average(messages, weights=None, **fields):
  """The mean of messages, and the rejected clients by reason."""
  weights = [1.0] * len(messages) if weights is None else weights
  update, reasons = tf.function(
    lambda: averaging.decode_and_average(
      SyntheticPayload(SPEC),
      MODEL,
      WEIGHTS,
      _stack(messages),
      tf.constant(weights, tf.float32),
      ServerConfig(Defense(**fields)),
    )
  )()
  return _flat(update), _named(reasons)


@functools.cache
def _one_alone(seed):
  return _average([_message(seed)])[0]


def _alone(*seeds):
  return np.stack([_one_alone(s) for s in seeds])


def test_client_and_server_replay_one_payload_bit_for_bit():
  process = small_process.process()
  state = process.initialize()
  synthesize = client_work.build_synthesis_computation(
    MODEL,
    config=small_process.CONFIG,
    client_optimizer=SGD(0.1),
    state_type=process.next.type_signature.parameter[0].member.client_work,
  )
  payload_type = synthesize.type_signature.result.payload
  weights_type = model_weights_type(MODEL)

  @tff.tensorflow.computation(weights_type, payload_type)
  def on_client(weights, message):
    data = encoding.decode(small_process.SPEC, message)
    return replay(MODEL, weights, data, small_process.SPEC.loss_fn)

  @tff.tensorflow.computation(weights_type, payload_type)
  def on_server(weights, message):
    update, _ = averaging.decode_and_average(
      small_process.CONFIG.payload,
      MODEL,
      weights,
      tf.nest.map_structure(lambda p: p[tf.newaxis], message),
      tf.ones([1]),
      ServerConfig(),
    )
    return update

  (client,) = small_process.clients(1)
  weights = state.global_model_weights
  result = synthesize(state.client_work, weights, client)
  update = on_client(weights, result.payload)
  for u, v in zip(update, on_server(weights, result.payload), strict=True):
    assert np.abs(u).max() > 0
    np.testing.assert_array_equal(u, v)
  # The whole round moves the model by that update.
  alone = small_process.trainable(process, process.next(state, [client]).state)
  for w0, u, w in zip(weights.trainable, update, alone, strict=True):
    np.testing.assert_allclose(w0 - u, w, rtol=1e-3, atol=1e-3)


def test_rejected_clients_do_not_count():
  process = small_process.process()
  state = process.initialize()
  good = process.next(state, small_process.clients(2))
  empty = conftest.make_dataset(MODEL).take(0)
  mixed = process.next(
    state, [*small_process.clients(2), small_process.nan_client(), empty]
  )
  assert mixed.metrics['finalizer']['rejected_clients'] == 2
  for a, b in zip(
    small_process.trainable(process, good.state),
    small_process.trainable(process, mixed.state),
    strict=True,
  ):
    # Another number of clients at once was seen to change the last bits.
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(
    mixed.metrics['client_work']['synthesis']['cosine'],
    good.metrics['client_work']['synthesis']['cosine'],
    rtol=1e-3,
  )


def test_a_round_of_rejected_clients_leaves_model_and_optimizer_alone():
  process = small_process.build(server_optimizer_fn=SGD(1.0, momentum=0.9))
  state = process.next(process.initialize(), small_process.clients(1)).state
  output = process.next(state, [small_process.nan_client()] * 2)
  assert output.metrics['finalizer']['rejected_clients'] == 2
  tf.nest.map_structure(
    np.testing.assert_array_equal,
    (state.global_model_weights, state.finalizer),
    (output.state.global_model_weights, output.state.finalizer),
  )


@pytest.mark.parametrize(
  'aggregation, clip', [('mean', 'adaptive'), ('median', 1.0)]
)
def test_every_field_is_checked(aggregation, clip):
  fields = dict(aggregation=aggregation, update_clip_norm=clip)
  names = ('inputs', 'labels', 'step_sizes', 'scale')
  not_finite = [
    _message(1, **{name: value})
    for name in names
    for value in (np.nan, np.inf, -np.inf)
  ]
  # Labels become distributions, whatever finite numbers they are.
  too_large = [
    _message(1, **{name: value})
    for name in names
    for value in (1e30, -1e30)
    if name != 'labels'
  ]
  update, reasons = _average([*not_finite, _message(), *too_large], **fields)
  alone, _ = _average([_message()], **fields)
  assert np.isfinite(update).all() and np.abs(update).max() > 0
  np.testing.assert_allclose(update, alone, rtol=1e-6)
  assert reasons == {
    'weight': 0,
    'non_finite_payload': 12,
    'out_of_bounds': 6,
    'non_finite_update': 0,
  }


def test_replays_that_blow_up_are_rejected():
  bounds = dict(max_value=1e38, max_step_size=1e38, max_scale=1e38)
  bad = _message(1, step_sizes=1e30, scale=1e30)
  update, reasons = _average([_message(), bad], **bounds)
  assert reasons['non_finite_update'] == 1
  np.testing.assert_array_equal(update, _alone(0)[0])


def test_weights_are_checked():
  messages = [_message(i) for i in range(5)]
  update, reasons = _average(messages, [2.0, 0.0, -1.0, np.nan, np.inf])
  assert reasons['weight'] == 4
  np.testing.assert_allclose(update, _alone(0)[0], rtol=1e-6)


@pytest.mark.parametrize('aggregation', ['mean', 'median', 'trimmed_mean'])
def test_a_round_of_malicious_clients_gives_no_update(aggregation):
  bad = [_message(i, scale=np.nan) for i in range(3)]
  update, reasons = _average(bad, aggregation=aggregation)
  assert np.isnan(update).all() and reasons['non_finite_payload'] == 3


def test_a_weight_is_capped():
  a, b = _alone(0, 1)
  update, _ = _average(
    [_message(0), _message(1)], [3.0, 1e9], max_client_weight=5.0
  )
  np.testing.assert_allclose(update, (3 * a + 5 * b) / 8, rtol=1e-5, atol=1e-8)


def test_updates_are_clipped_to_a_norm_or_to_twice_the_median():
  a, b = _alone(0, 1)
  norm = np.linalg.norm
  huge = _message(1, scale=100.0)
  clip_to = 0.5 * norm(a)
  update, _ = _average([_message(0), huge], update_clip_norm=clip_to)
  expected = (0.5 * a + clip_to * b / norm(b)) / 2
  np.testing.assert_allclose(update, expected, rtol=1e-4, atol=1e-8)
  # Norms |a|, |a| and 100 |b|: twice the median is 2 |a|.
  update, _ = _average(
    [_message(0), _message(0), huge], update_clip_norm='adaptive'
  )
  expected = (2 * a + 2 * norm(a) * b / norm(b)) / 3
  np.testing.assert_allclose(update, expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize('count', [1, 2, 5])
def test_robust_means_by_hand(count):
  updates = _alone(*range(count))
  messages = [_message(i) for i in range(count)]
  # Weights have no part in them.
  weights = list(range(1, count + 1))
  update, _ = _average(messages, weights, aggregation='median')
  np.testing.assert_allclose(
    update, np.median(updates, axis=0), rtol=1e-5, atol=1e-8
  )
  update, _ = _average(messages, weights, aggregation='trimmed_mean', trim=0.4)
  left_out = int(0.4 * count)
  kept = np.sort(updates, axis=0)[left_out : count - left_out]
  np.testing.assert_allclose(update, kept.mean(axis=0), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(max_scale=0.0), 'max_scale must be above 0'),
    (dict(update_clip_norm=-1.0), 'must be above 0, or adaptive'),
    (
      dict(aggregation='mode'),
      "Unknown aggregation 'mode'. Choose one of mean",
    ),
    (dict(trim=0.5), 'trim must be at least 0 and below 0.5'),
  ],
)
def test_defenses_that_cannot_be_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    Defense(**fields)


def _messages(spec, number):
  """Messages of clients with different data and scales, as arrays."""
  messages = []
  for i in range(number):
    variables = encoding.initialize(spec, tf.constant([i, 0]), 1.0, 1.0 + i)
    messages.append(encoding.encode(spec, variables))
  return {k: v.numpy() for k, v in _stack(messages).items()}


def _in_chunks(spec, model, messages, client_weights, **fields):
  """The mean, those of each alone, and the rejected by reason."""
  payload = SyntheticPayload(spec)

  def run():
    weights = tf.nest.map_structure(tf.constant, model.initial_weights)
    mean, reasons = averaging.decode_and_average(
      payload,
      model,
      weights,
      {k: tf.constant(v) for k, v in messages.items()},
      tf.constant(client_weights, tf.float32),
      ServerConfig(Defense(**fields)),
    )
    alone = [
      payload.decode(
        {k: tf.constant(v[i]) for k, v in messages.items()}, model, weights
      ).update
      for i in range(len(client_weights))
    ]
    return mean, alone, reasons

  # Keras models inside a FunctionalModel work in graphs only.
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    mean, alone, reasons = session.run(tf.function(run)())
  return _flat(mean), np.stack([_flat(u) for u in alone]), _named(reasons)


def _assert_is_mean(mean, alone, weights):
  expected = np.average(alone, axis=0, weights=weights)
  np.testing.assert_allclose(mean, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
  'label_form, most', [('signed', None), ('distributions', 2.0)]
)
def test_chunks_and_the_rest_have_the_mean_of_each_alone(label_form, most):
  spec = SyntheticSpec((6,), (3,), label_form=label_form, batch_size=12, bits=4)
  # Two chunks of four, and one more.
  weights = 1.0 + np.arange(9) % 4
  mean, alone, reasons = _in_chunks(
    spec, MODEL, _messages(spec, 9), weights, max_client_weight=most
  )
  _assert_is_mean(mean, alone, np.minimum(weights, most or np.inf))
  assert not any(reasons.values())


@pytest.mark.parametrize(
  'name, value, reason',
  [
    ('scale', np.nan, 'non_finite_payload'),
    ('scale', 1e7, 'out_of_bounds'),
    ('weight', 0.0, 'weight'),
  ],
)
def test_one_that_is_rejected_takes_no_other_of_its_chunk_along(
  name, value, reason
):
  messages, weights, bad = _messages(ONE_STEP, 8), np.ones(8), 1
  changed = weights if name == 'weight' else messages[name]
  changed[bad] = value
  mean, alone, reasons = _in_chunks(ONE_STEP, MODEL, messages, weights)
  good = np.arange(8) != bad
  _assert_is_mean(mean, alone[good], weights[good])
  assert reasons == {r: int(r == reason) for r in averaging.REASONS}


def test_text_is_decoded_in_chunks_too():
  model = from_keras(
    architectures.word_lstm(TOKENS, units=6, embedding_size=4, seed=1)
  )
  spec = SyntheticSpec(
    (3, forms.INPUTS['token_queries'].size(model)),
    (3, TOKENS),
    'token_queries',
    'sparse',
    batch_size=20,
    bits=8,
    kept_labels=2,
  )
  assert SyntheticPayload(spec).chunk_size == 2
  mean, alone, _ = _in_chunks(spec, model, _messages(spec, 3), [1.0, 3.0, 2.0])
  _assert_is_mean(mean, alone, [1, 3, 2])
