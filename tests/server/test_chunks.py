"""Messages of one step are decoded in chunks, with the mean that each alone gives."""

import conftest
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from baselines.random_mask import RandomMask
from tff_fedsynth import from_keras
from tff_fedsynth import learning_process
from tff_fedsynth import Payload
from tff_fedsynth import ServerConfig
from tff_fedsynth import SyntheticSpec
from tff_fedsynth.client.config import SynthesisConfig
from tff_fedsynth.fitting import replay_check
from tff_fedsynth.models import architectures
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload.forms import registry as forms
from tff_fedsynth.payload.payload import CodecPayload
from tff_fedsynth.payload.sketch import Sketch
from tff_fedsynth.server import averaging
from tff_fedsynth.server import defense as defense_lib
from tff_fedsynth.server.defense import Defense

CLASSIFIER = conftest.make_classifier()
SPEC = SyntheticSpec((6,), (3,), batch_size=12, bits=4)
TOKENS = 11


def _messages(spec, number):
  """Of clients with different data and scales, a first axis of clients."""
  messages = []
  for i in range(number):
    variables = encoding.initialize(spec, tf.constant([i, 0]), 1.0, 1.0 + i)
    messages.append(encoding.encode(spec, variables))
  return {k: tf.stack([m[k] for m in messages]) for k in messages[0]}


def _average(payload, model, messages, client_weights, **fields):
  """The mean, flat, and that of decoding each alone; the rejected, by reason."""
  client_weights = np.float32(client_weights)

  def run():
    weights = tf.nest.map_structure(tf.constant, model.initial_weights)
    arguments = (payload, model, weights, messages)
    mean, reasons = averaging.decode_and_average(
      *arguments, tf.constant(client_weights), ServerConfig(Defense(**fields))
    )
    alone = [
      payload.decode(
        {k: v[i] for k, v in messages.items()}, model, weights
      ).update
      for i in range(len(client_weights))
    ]
    return mean, alone, reasons

  flat = lambda update: np.concatenate([np.ravel(u) for u in update])
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    messages = {k: tf.constant(v) for k, v in messages.items()}
    mean, alone, reasons = session.run(tf.function(run)())
  named = dict(zip(defense_lib.REASONS, reasons))
  return flat(mean), np.stack([flat(u) for u in alone]), named


def _weighted(alone, weights):
  return np.average(alone, axis=0, weights=weights)


def _numpy(messages):
  return {k: v.numpy() for k, v in messages.items()}


@pytest.mark.parametrize('label_form', ['signed', 'distributions'])
@pytest.mark.parametrize('most', [None, 2.0])
def test_chunks_and_the_rest_have_the_mean_of_each_alone(label_form, most):
  spec = SyntheticSpec((6,), (3,), label_form=label_form, batch_size=12, bits=4)
  payload = Payload(spec)
  number = 2 * payload.chunk_size + 1
  assert payload.chunk_size > 1
  weights = 1.0 + np.arange(number) % 4
  mean, alone, reasons = _average(
    payload,
    CLASSIFIER,
    _numpy(_messages(spec, number)),
    weights,
    max_client_weight=most,
  )
  expected = _weighted(alone, np.minimum(weights, most or np.inf))
  np.testing.assert_allclose(mean, expected, atol=1e-5 * np.abs(expected).max())
  assert not any(reasons.values())


@pytest.mark.parametrize(
  'name, value, reason',
  [
    ('scale', np.nan, 'non_finite_payload'),
    ('scale', 1e7, 'out_of_bounds'),
    ('inputs_range', np.inf, 'non_finite_payload'),
    ('weight', 0.0, 'weight'),
  ],
)
def test_one_that_is_rejected_takes_no_other_of_its_chunk_along(
  name, value, reason
):
  payload = Payload(SPEC)
  number, bad = 2 * payload.chunk_size, 1
  messages, weights = _numpy(_messages(SPEC, number)), np.ones(number)
  changed = weights if name == 'weight' else messages[name]
  changed[bad] = value
  mean, alone, reasons = _average(payload, CLASSIFIER, messages, weights)
  good = np.arange(number) != bad
  expected = _weighted(alone[good], weights[good])
  np.testing.assert_allclose(mean, expected, atol=1e-5 * np.abs(expected).max())
  assert reasons == {r: int(r == reason) for r in defense_lib.REASONS}


@pytest.mark.parametrize(
  'input_form, label_form',
  [('token_queries', 'sparse'), ('embeddings', 'output_vectors')],
)
def test_text_is_decoded_in_chunks_too(input_form, label_form):
  model = from_keras(
    architectures.word_lstm(TOKENS, units=6, embedding_size=4, seed=1)
  )
  size = forms.LABELS[label_form].size(model)
  spec = SyntheticSpec(
    (3, forms.INPUTS[input_form].size(model)),
    (3, size),
    input_form,
    label_form,
    batch_size=20,
    bits=8,
    kept_labels=2,
  )
  payload = Payload(spec)
  assert payload.chunk_size == 2
  mean, alone, _ = _average(
    payload, model, _numpy(_messages(spec, 3)), [1.0, 3.0, 2.0]
  )
  expected = _weighted(alone, [1, 3, 2])
  np.testing.assert_allclose(mean, expected, atol=1e-5 * np.abs(expected).max())


def test_what_is_not_a_sum_over_examples_is_decoded_alone():
  shape = dict(input_shape=(6,), label_shape=(3,))
  several_steps = SyntheticSpec(**shape, steps=2)
  regression = SyntheticSpec(**shape, label_form='targets')
  for payload in (
    Payload(several_steps),
    Payload(regression),
    Payload(SyntheticSpec(**shape), Sketch(RandomMask(16))),
    CodecPayload(RandomMask(16)),
  ):
    assert payload.chunk_size == 1


def _with_batch_mean(model):
  """The same model, after the mean of the batch is taken off the inputs."""

  @tf.function
  def predict(weights, x, training):
    x -= tf.reduce_mean(x, axis=0, keepdims=True)
    return model.predict_on_batch(weights, x, training=training)

  return tff.learning.models.FunctionalModel(
    initial_weights=model.initial_weights,
    predict_on_batch_fn=predict,
    loss_fn=model.loss,
    input_spec=model.input_spec,
  )


def test_a_model_that_looks_at_the_whole_batch_is_told_apart():
  assert replay_check.has_independent_examples(CLASSIFIER, SPEC)
  coupled = _with_batch_mean(CLASSIFIER)
  assert not replay_check.has_independent_examples(coupled, SPEC)
  assert Payload(SPEC, examples_at_once=1).chunk_size == 1


def test_messages_of_such_a_model_are_decoded_alone(monkeypatch):
  used = []
  monkeypatch.setattr(
    learning_process, '_compose', lambda *arguments: used.append(arguments[3])
  )
  for model in (CLASSIFIER, _with_batch_mean(CLASSIFIER)):
    learning_process.build_fedsynth(
      model,
      tff.learning.optimizers.build_sgdm(0.1),
      config=SynthesisConfig(SPEC),
    )
  assert [payload.chunk_size for payload in used] == [4, 1]
