"""Clients of a round: replayed as they were, weighted, or rejected."""

import conftest
import numpy as np
import pytest
import small_process
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import Payload
from tff_fedsynth import ServerConfig
from tff_fedsynth import SyntheticSpec
from tff_fedsynth.client import client_work
from tff_fedsynth.models.weights import model_weights_type
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload import replay
from tff_fedsynth.server import averaging

SGD = tff.learning.optimizers.build_sgdm


@pytest.fixture(scope='module')
def process():
  return small_process.build()


def test_client_and_server_replay_one_payload_bit_for_bit(process):
  state = process.initialize()
  synthesize = client_work.build_synthesis_computation(
    small_process.MODEL,
    config=small_process.CONFIG,
    client_optimizer=SGD(0.1),
    state_type=process.next.type_signature.parameter[0].member.client_work,
  )
  payload_type = synthesize.type_signature.result.payload
  weights_type = model_weights_type(small_process.MODEL)

  @tff.tensorflow.computation(weights_type, payload_type)
  def on_client(weights, payload):
    data = encoding.decode(small_process.SPEC, payload)
    return replay.replay(small_process.MODEL, weights, data)

  @tff.tensorflow.computation(weights_type, payload_type)
  def on_server(weights, payload):
    payloads = tf.nest.map_structure(lambda p: p[tf.newaxis], payload)
    update, _ = averaging.decode_and_average(
      small_process.CONFIG.payload,
      small_process.MODEL,
      weights,
      payloads,
      tf.ones([1]),
      ServerConfig(),
    )
    return update

  for client in small_process.clients(2):
    weights = state.global_model_weights
    result = synthesize(state.client_work, weights, client)
    update = on_client(weights, result.payload)
    for u, v in zip(update, on_server(weights, result.payload), strict=True):
      assert np.abs(u).max() > 0
      np.testing.assert_array_equal(u, v)
    # The whole round moves the model by that update.
    alone = small_process.trainable(
      process, process.next(state, [client]).state
    )
    for w0, u, w in zip(weights.trainable, update, alone, strict=True):
      np.testing.assert_allclose(w0 - u, w, rtol=1e-3, atol=1e-3)


def test_clients_are_weighted_by_examples(process):
  state = process.initialize()
  small = conftest.make_dataset(small_process.MODEL, examples=8, seed=1)
  large = conftest.make_dataset(small_process.MODEL, examples=24, seed=2)
  after = lambda clients: small_process.trainable(
    process, process.next(state, clients).state
  )
  for a, b, both in zip(
    after([small]), after([large]), after([small, large]), strict=True
  ):
    np.testing.assert_allclose(both, (8 * a + 24 * b) / 32, atol=1e-5)


def test_rejected_clients_do_not_count(process):
  state = process.initialize()
  good = process.next(state, small_process.clients(2))
  empty = conftest.make_dataset(small_process.MODEL).take(0)
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
  state = process.next(process.initialize(), small_process.clients()).state
  output = process.next(
    state, [small_process.nan_client(), small_process.nan_client()]
  )
  assert output.metrics['finalizer']['rejected_clients'] == 2
  tf.nest.map_structure(
    np.testing.assert_array_equal,
    (state.global_model_weights, state.finalizer),
    (output.state.global_model_weights, output.state.finalizer),
  )


def test_the_server_rejects_payloads_that_replay_to_nan():
  spec = SyntheticSpec((6,), (3,))
  variables = encoding.initialize(spec, tf.constant([0, 0]), 1.0, 1.0)
  good = encoding.encode(spec, variables)
  bad = dict(good, scale=tf.constant(np.nan))
  payloads = {k: tf.stack([good[k], bad[k], good[k]]) for k in good}
  weights = tuple(map(tf.constant, small_process.MODEL.initial_weights[0])), ()
  update, rejected = tf.function(
    lambda: averaging.decode_and_average(
      Payload(spec),
      small_process.MODEL,
      weights,
      payloads,
      tf.constant([1.0, 1.0, np.nan]),
      ServerConfig(),
    )
  )()
  np.testing.assert_array_equal(rejected, [1, 1, 0, 0])
  data = encoding.decode(spec, good)
  expected = tf.function(
    lambda: replay.replay(small_process.MODEL, weights, data)
  )()
  for u, e in zip(update, expected, strict=True):
    np.testing.assert_array_equal(u, e)
