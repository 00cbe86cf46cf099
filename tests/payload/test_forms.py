"""Synthetic text: parameterizations of inputs and labels, decoded and replayed."""

import conftest
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import build_fedsynth
from tff_fedsynth import build_spec
from tff_fedsynth import communication
from tff_fedsynth import from_keras
from tff_fedsynth import spec_for_budget
from tff_fedsynth import SynthesisConfig
from tff_fedsynth import SyntheticPayload
from tff_fedsynth import SyntheticSpecError
from tff_fedsynth.models import architectures
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload import forms
from tff_fedsynth.payload.replay import replay
from tff_fedsynth.payload.spec import SyntheticData
from tff_fedsynth.payload.spec import SyntheticSpec

TOKENS = 11
OF_TEXT = [f for f in forms.INPUTS if forms.INPUTS[f].size]
LABELS_OF_TEXT = [f for f in forms.LABELS if forms.LABELS[f].size]


@pytest.fixture(scope='module')
def model():
  return from_keras(
    architectures.word_lstm(TOKENS, units=6, embedding_size=4, seed=1)
  )


def _run(function):
  """Keras models of a FunctionalModel work in graphs only."""
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    return session.run(tf.function(function)())


def _weights(model):
  return tf.nest.map_structure(tf.constant, model.initial_weights)


def test_one_hot_soft_tokens_are_tokens(model):
  """Outputs, loss and gradients, of one model on both its paths."""
  tokens = np.array([[1, 2, 3, 9], [10, 4, 4, 5]])
  labels = np.array([[2, 3, 9, 1], [4, 4, 5, 6]])

  def both():
    trainable, frozen = _weights(model)
    results = []
    for path in ('tokens', 'distributions'):
      with tf.GradientTape() as tape:
        tape.watch(trainable)
        if path == 'tokens':
          outputs = model.predict_on_batch((trainable, frozen), tokens)
          loss = model.loss(outputs, labels)
        else:
          outputs = model.predict_on_distributions(
            (trainable, frozen), tf.one_hot(tokens, TOKENS)
          )
          one_hot = tf.one_hot(labels, TOKENS)
          loss = forms.cross_entropy(model, outputs, one_hot)
      gradients = [
        tf.convert_to_tensor(g) for g in tape.gradient(loss, trainable)
      ]
      results.append([outputs, loss, *gradients])
    return results

  for a, b in zip(*_run(both), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('steps', [1, 7])
def test_gradient_of_replay_with_an_lstm(model, steps):
  """Central differences, for inputs, labels and step sizes."""
  random = np.random.RandomState(0)
  shapes = [(steps, 2, 3, 4), (steps, 2, 3, TOKENS), (steps,)]
  values = [random.normal(size=s).astype(np.float32) for s in shapes]
  directions = [random.normal(size=s).astype(np.float32) for s in shapes]
  heads = [
    random.normal(size=w.shape).astype(np.float32)
    for w in model.initial_weights[0]
  ]
  loss_fn = forms.loss_of('embeddings', 'signed')
  epsilon = 1e-2

  def objective(inputs, labels, step_sizes):
    data = SyntheticData(inputs, labels, step_sizes, tf.constant(1.0))
    update = replay(model, _weights(model), data, loss_fn)
    return tf.add_n([tf.reduce_sum(u * h) for u, h in zip(update, heads)])

  def run():
    variables = [tf.constant(v) for v in values]
    with tf.GradientTape() as tape:
      tape.watch(variables)
      value = objective(*variables)
    gradients = tape.gradient(value, variables)
    slopes, differences = [], []
    for i, direction in enumerate(directions):
      slopes.append(tf.reduce_sum(gradients[i] * direction))
      moved = []
      for sign in (1, -1):
        v = list(variables)
        v[i] += sign * epsilon * direction
        moved.append(objective(*v))
      differences.append((moved[0] - moved[1]) / (2 * epsilon))
    return slopes, differences

  slopes, differences = _run(run)
  # float32: the model's weights are; the error is epsilon^2 and rounding.
  np.testing.assert_allclose(slopes, differences, rtol=0.02, atol=2e-3)
  assert np.abs(slopes).min() > 1e-4


@pytest.mark.parametrize(
  'input_form, label_form, bits',
  [
    *((form, 'signed', 4) for form in OF_TEXT),
    *(('token_queries', form, 4) for form in LABELS_OF_TEXT),
    ('token_queries', 'sparse', 32),
  ],
)
def test_client_learns_against_what_the_server_decodes(
  model, input_form, label_form, bits
):
  spec = SyntheticSpec(
    (3, forms.INPUTS[input_form].size(model)),
    (3, forms.LABELS[label_form].size(model)),
    input_form=input_form,
    label_form=label_form,
    batch_size=2,
    bits=bits,
    kept_labels=2,
  )

  def both():
    weights = _weights(model)
    variables = encoding.initialize(spec, tf.constant([1, 2]), 1.0, 1.0)
    message = encoding.encode(spec, variables)
    for name, expected in encoding.message_specs(spec).items():
      assert expected.is_compatible_with(message[name]), name
    return (
      encoding.decode(spec, message, model, weights),
      encoding.relax(spec, variables, model, weights),
    )

  decoded, relaxed = _run(both)
  for a, b in zip(decoded, relaxed, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  assert decoded.labels.shape == (1, 2, 3, TOKENS)
  if label_form == 'sparse':
    assert ((decoded.labels != 0).sum(axis=-1) <= 2).all()
    assert (decoded.labels != 0).any()


def test_sparse_payload_in_bytes_by_hand():
  spec = SyntheticSpec(
    (5, 4),
    (5, 1004),
    input_form='token_queries',
    label_form='sparse',
    bits=4,
    kept_labels=8,
  )
  # 20 queries and 40 labels in 4 bits, two ranges, 40 tokens in 10 bits.
  assert SyntheticPayload(spec).data_bytes == 10 + 20 + 2 * 4 + 50 + 4


def test_the_table_gets_no_update_from_embeddings_only(model):
  random = np.random.RandomState(0)
  labels = random.normal(size=(1, 1, 3, TOKENS)).astype(np.float32)

  def run():
    updates = []
    for form, size in (('embeddings', 4), ('soft_tokens', TOKENS)):
      x = random.uniform(size=(1, 1, 3, size)).astype(np.float32)
      data = SyntheticData(tf.constant(x), labels, tf.ones([1]), tf.ones([]))
      loss_fn = forms.loss_of(form, 'signed')
      updates.append(replay(model, _weights(model), data, loss_fn)[0])
    return updates

  bypassed, looked_up = _run(run)
  assert not bypassed.any()
  assert looked_up.any()


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'input_form': 'values'}, 'Choose one of'),
    ({'input_form': 'words'}, "Unknown input_form 'words'"),
    ({'label_form': 'targets'}, 'Choose one of'),
    ({'label_form': 'sparse', 'kept_labels': 12}, 'more than the 11 tokens'),
  ],
)
def test_forms_that_a_language_model_cannot_have_are_refused(
  model, fields, message
):
  with pytest.raises(SyntheticSpecError, match=message):
    build_spec(model, length=2, **fields)


def test_forms_of_text_are_refused_for_images(classifier):
  with pytest.raises(SyntheticSpecError, match='start with an embedding'):
    build_spec(classifier, input_form='token_queries')
  with pytest.raises(SyntheticSpecError, match='cannot be sparse'):
    build_spec(classifier, label_form='sparse')
  regression = conftest.make_linear_regression(inputs=30)
  with pytest.raises(
    SyntheticSpecError, match="one of \\['signed', 'targets'\\]"
  ):
    build_spec(regression, label_form='distributions')


def test_fedsynth_learns_text_through_tff(model):
  # Compiling takes the time, and grows with the length.
  spec = spec_for_budget(model, 400, length=2)
  config = SynthesisConfig(
    spec, objective='update_cosine', iterations=60, initial_stddev=1.0
  )
  process = build_fedsynth(
    model, tff.learning.optimizers.build_sgdm(0.5), config=config
  )
  uplink_bytes = communication.uplink_bytes(process)
  assert uplink_bytes == SyntheticPayload(spec).data_bytes + 4 <= 400
  random = np.random.RandomState(0)
  rows = random.randint(1, TOKENS, [8, 6])
  data = tf.data.Dataset.from_tensor_slices((rows[:, :-1], rows[:, 1:]))
  output = process.next(process.initialize(), [data.batch(4)] * 2)
  metrics = output.metrics['client_work']
  assert metrics['synthesis']['cosine'] > 0.8
  assert output.metrics['finalizer']['rejected_clients'] == 0
