"""Losses, masks and metrics have the values that Keras' `compile` gives them."""

import keras_models
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import build_fedsynth
from tff_fedsynth import build_spec
from tff_fedsynth import from_keras
from tff_fedsynth import SynthesisConfig
from tff_fedsynth import UnsupportedModelError

pytestmark = pytest.mark.usefixtures('same_initial_weights')

keras = tf.keras
L = keras.layers
SGD = tff.learning.optimizers.build_sgdm
RATE = 0.1
SPARSE = keras_models.SPARSE


def _masking(*layers):
  return keras_models.sequential(L.Masking(), *layers, L.Dense(3), shape=(6, 4))


def _masked_data():
  """Sequences of different lengths, zeros behind their ends."""
  x, y = keras_models.data((6, 4), 20)
  lengths = np.arange(20) % 6 + 1
  kept = np.arange(6) < lengths[:, np.newaxis]
  x[~kept] = 0
  labels = (y[:, np.newaxis] + np.arange(6)) % 3
  return x, labels.astype(np.int32)


def _tokens(*layers, mask_zero=True, table=None):
  embedding = L.Embedding(9, 4, mask_zero=mask_zero)
  model = keras_models.sequential(
    embedding, *layers, L.Dense(9), shape=(None,), dtype='int64'
  )
  if table is not None:
    embedding.set_weights([table])
  return model


def _token_data():
  random = np.random.RandomState(0)
  tokens = random.randint(1, 9, (20, 7))
  lengths = np.arange(20) % 6 + 1
  inputs = np.where(np.arange(6) < lengths[:, np.newaxis], tokens[:, :-1], 0)
  # Labels where inputs are padding: Keras leaves them out by its mask alone.
  return inputs, tokens[:, 1:]


_MODELS = {
  'Masking and Dense': (_masking, _masked_data, {}),
  'Masking, LSTM and Dense': (
    lambda: _masking(L.LSTM(5, return_sequences=True)),
    _masked_data,
    {},
  ),
  'Masking and a random layer': (
    lambda: _masking(L.Dropout(1e-9)),
    _masked_data,
    {},
  ),
  'Embedding, LSTM and Dense with a loss': (
    lambda: _tokens(L.LSTM(5, return_sequences=True)),
    _token_data,
    dict(loss=SPARSE),
  ),
  'Embedding and Dense with a loss': (
    lambda: _tokens(L.Dense(5, 'tanh')),
    _token_data,
    dict(loss=SPARSE),
  ),
  'Embedding without a mask': (
    lambda: _tokens(L.LSTM(5, return_sequences=True), mask_zero=False),
    _token_data,
    dict(loss=SPARSE),
  ),
}


def _keras_step(model, x, y, loss=SPARSE, metrics=('accuracy',)):
  """Loss and metrics of `evaluate`, and the update of one step of `fit`."""
  twin = keras.models.clone_model(model)
  twin.set_weights(model.get_weights())
  twin.compile(keras.optimizers.legacy.SGD(RATE), loss, list(metrics))
  measured = twin.evaluate(x, y, len(x), verbose=0, return_dict=True)
  before = [w.numpy() for w in twin.trainable_weights]
  twin.fit(x, y, len(x), verbose=0, shuffle=False)
  update = [b - w.numpy() for b, w in zip(before, twin.trainable_weights)]
  return measured, update


@pytest.mark.parametrize('name', _MODELS)
def test_training_and_evaluation_follow_keras_masks(name):
  make, data, arguments = _MODELS[name]
  model, (x, y) = make(), data()
  measured, expected = _keras_step(model, x, y)
  made = from_keras(model, metrics=['accuracy'], **arguments)
  batches = keras_models.dataset(x, y, len(x))
  found = keras_models.evaluate(made, batches)
  assert found['loss'] == pytest.approx(measured['loss'], rel=1e-5)
  assert found['accuracy'] == pytest.approx(measured['accuracy'], rel=1e-5)
  # In batches, too: the mean is over what counts.
  found = keras_models.evaluate(made, keras_models.dataset(x, y, 7))
  assert found['loss'] == pytest.approx(measured['loss'], rel=1e-5)

  fed_avg = tff.learning.algorithms.build_weighted_fed_avg(made, SGD(RATE))
  output = fed_avg.next(fed_avg.initialize(), [batches])
  train = output.metrics['client_work']['train']
  assert train['loss'] == pytest.approx(measured['loss'], rel=1e-4)
  after = fed_avg.get_model_weights(output.state).trainable
  for w, u, found in zip(made.initial_weights[0], expected, after):
    np.testing.assert_allclose(w - found, u, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
  'name', ['Masking and Dense', 'Embedding and Dense with a loss']
)
def test_fedsynth_trains_and_measures_the_loss_of_keras(name):
  make, data, arguments = _MODELS[name]
  model, (x, y) = make(), data()
  measured, _ = _keras_step(model, x, y)
  made = from_keras(model, **arguments)
  fields = {} if name.startswith('Masking') else dict(length=2)
  config = SynthesisConfig(
    build_spec(made, bits=4, **fields), iterations=2, diagnostics=True
  )
  process = build_fedsynth(made, SGD(RATE), config=config)
  batches = keras_models.dataset(x, y, len(x))
  output = process.next(process.initialize(), [batches])
  metrics = output.metrics['client_work']
  loss = measured['loss']
  assert metrics['train']['loss'] == pytest.approx(loss, rel=1e-4)
  before = metrics['synthesis']['local_loss_before']
  assert before == pytest.approx(loss, rel=1e-4)


def test_a_batch_of_nothing_but_padding_changes_nothing():
  model = _masking()
  made = from_keras(model)
  x, y = np.zeros([4, 6, 4], np.float32), np.zeros([4, 6], np.int32)
  fed_avg = tff.learning.algorithms.build_weighted_fed_avg(made, SGD(RATE))
  output = fed_avg.next(fed_avg.initialize(), [keras_models.dataset(x, y)])
  after = fed_avg.get_model_weights(output.state).trainable
  for w, found in zip(made.initial_weights[0], after):
    np.testing.assert_array_equal(w, found)


@pytest.mark.parametrize(
  'layers', [[], [L.LSTM(5, return_sequences=True)]], ids=['Dense', 'LSTM']
)
def test_a_token_whose_embedding_is_zero_is_no_padding(layers):
  table = np.random.RandomState(0).normal(size=(9, 4)).astype(np.float32)
  table[1] = 0
  model = _tokens(*layers, table=table)
  x, _ = _token_data()
  x[:, 0] = 1
  expected = model(x).numpy()
  made = from_keras(model)
  found = keras_models.in_graph(
    lambda x: made.predict_on_batch(made.initial_weights, x, False), x
  )
  np.testing.assert_allclose(found, expected, atol=1e-6)


def _one_hot(y):
  return np.eye(3, dtype=np.float32)[y]


# Outputs, the last activation, labels, their spec, a loss.
_LABELS = {
  'class numbers': (3, None, lambda y: y, [None], tf.int32, SPARSE),
  'class numbers in a column': (
    *(3, None, lambda y: y[:, np.newaxis], [None, 1], tf.int32, SPARSE),
  ),
  'one-hot': (
    *(3, None, _one_hot, [None, 3], tf.float32),
    keras.losses.CategoricalCrossentropy(True),
  ),
  'binary': (
    *(1, 'sigmoid', keras_models.binary, [None], tf.int32),
    keras.losses.BinaryCrossentropy(),
  ),
  'binary in a column': (
    *(1, 'sigmoid', lambda y: keras_models.binary(y)[:, np.newaxis]),
    *([None, 1], tf.int32, keras.losses.BinaryCrossentropy()),
  ),
  'targets': (
    2,
    None,
    lambda y: _one_hot(y)[:, :2],
    [None, 2],
    tf.float32,
    'mse',
  ),
}


def largest_error(labels, outputs):
  return tf.reduce_max(tf.abs(tf.cast(labels, outputs.dtype) - outputs), -1)


_METRICS = ['accuracy', 'acc', 'ce', 'crossentropy', 'mae', largest_error]


@pytest.mark.parametrize('labels', _LABELS)
def test_metrics_mean_what_they_mean_in_compile(labels):
  outputs, activation, make_labels, shape, dtype, loss = _LABELS[labels]
  model = keras_models.sequential(L.Dense(outputs, activation))
  x, y = keras_models.data((4,))
  y = make_labels(y)
  measured, _ = _keras_step(model, x, y, loss, _METRICS)
  made = from_keras(
    model, loss=loss, label_spec=tf.TensorSpec(shape, dtype), metrics=_METRICS
  )
  found = keras_models.evaluate(made, keras_models.dataset(x, y, len(x)))
  assert list(found) == list(measured)
  for name, value in measured.items():
    assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_metrics_that_are_none_are_refused():
  for metric, message in (('l7', 'knows no metric'), (7, 'must be a')):
    with pytest.raises(UnsupportedModelError, match=message):
      from_keras(keras_models.sequential(L.Dense(3)), metrics=[metric])


class _Wrong(keras.losses.Loss):
  """Pairs each label with each output if labels are not brought to their rank."""

  def call(self, y_true, y_pred):
    return tf.reduce_mean((y_true - y_pred) ** 2, axis=-1)


def test_a_loss_of_ones_own_gets_labels_of_the_rank_of_outputs():
  model = keras_models.sequential(L.Dense(1))
  x, _ = keras_models.data((4,))
  y = x[:, 0]
  measured, _ = _keras_step(model, x, y, _Wrong(), [])
  assert measured['loss'] == pytest.approx(
    ((model(x).numpy()[:, 0] - y) ** 2).mean(), rel=1e-5
  )
  made = from_keras(model, loss=_Wrong(), label_spec=tf.TensorSpec([None]))
  found = keras_models.evaluate(made, keras_models.dataset(x, y))
  assert found['loss'] == pytest.approx(measured['loss'], rel=1e-5)


def test_metrics_that_need_other_labels_are_refused():
  def difference(labels, outputs):
    return tf.reduce_mean(labels - outputs[:, :2], axis=-1)

  with pytest.raises(UnsupportedModelError, match='cannot be computed'):
    from_keras(
      keras_models.sequential(L.Dense(3)),
      loss='mse',
      label_spec=tf.TensorSpec([None, 3]),
      metrics=[difference],
    )


_NON_NEGATIVE = keras.constraints.NonNeg()


class _Own(L.Layer):
  def build(self, shape):
    self.w = self.add_weight('w', (shape[-1],), constraint=_NON_NEGATIVE)

  def call(self, inputs):
    return inputs * self.w


@pytest.mark.parametrize(
  'make',
  [
    lambda: [L.Dense(4, kernel_constraint=_NON_NEGATIVE)],
    lambda: [L.Dense(4, bias_constraint=keras.constraints.MaxNorm(1))],
    lambda: [
      L.LSTM(4, return_sequences=True, recurrent_constraint=_NON_NEGATIVE)
    ],
    lambda: [L.TimeDistributed(L.Dense(4, kernel_constraint=_NON_NEGATIVE))],
    lambda: [L.Conv1D(4, 1, kernel_constraint=keras.constraints.UnitNorm())],
    lambda: [L.LayerNormalization(gamma_constraint=_NON_NEGATIVE)],
    lambda: [_Own()],
    lambda: [
      keras_models.sequential(
        L.Dense(4, kernel_constraint=_NON_NEGATIVE), shape=(6, 4)
      )
    ],
  ],
)
def test_constraints_are_refused(make):
  with pytest.raises(UnsupportedModelError, match='has a constraint on'):
    from_keras(
      keras_models.sequential(*make(), L.Flatten(), L.Dense(3), shape=(6, 4))
    )


def test_constraints_of_embeddings_are_refused():
  embedding = L.Embedding(9, 4, embeddings_constraint=_NON_NEGATIVE)
  model = keras_models.sequential(
    embedding, L.Dense(9), shape=(None,), dtype='int64'
  )
  with pytest.raises(UnsupportedModelError, match='has a constraint on'):
    from_keras(model)


class _Scaled(L.Embedding):
  def call(self, inputs):
    return 3.0 * super().call(inputs)


@pytest.mark.parametrize(
  'embedding, message',
  [
    (lambda: _Scaled(9, 4), 'other outputs than the Keras model'),
    (lambda: L.Embedding(9, 4, activity_regularizer='l2'), 'add to the loss'),
    (lambda: L.Embedding(9, 4, embeddings_regularizer='l2'), 'add to the loss'),
  ],
)
def test_embeddings_that_do_more_than_look_up_are_refused(embedding, message):
  model = keras_models.sequential(
    embedding(), L.Dense(9), shape=(None,), dtype='int64'
  )
  with pytest.raises(UnsupportedModelError, match=message):
    from_keras(model)


class _OwnStep(keras.Model):
  def train_step(self, data):
    return super().train_step(data)


class _OwnLoss(keras.Model):
  def compute_loss(self, *args, **kwargs):
    return 2 * super().compute_loss(*args, **kwargs)


@pytest.mark.parametrize('cls', [_OwnStep, _OwnLoss])
def test_models_that_train_in_a_way_of_their_own_are_refused(cls):
  inputs = keras.Input((4,))
  with pytest.raises(UnsupportedModelError, match='of its own, which neither'):
    from_keras(cls(inputs, L.Dense(3)(inputs)))


@pytest.mark.parametrize(
  'make, message',
  [
    (
      lambda: keras.Model({'a': (x := keras.Input((4,)))}, L.Dense(3)(x)),
      'input of the Keras model is in a dict',
    ),
    (
      lambda: keras.Model(x := keras.Input((4,)), {'b': L.Dense(3)(x)}),
      'output of the Keras model is in a dict',
    ),
  ],
)
def test_tensors_in_a_structure_are_refused(make, message):
  with pytest.raises(UnsupportedModelError, match=message):
    from_keras(make())


@pytest.mark.parametrize(
  'spec',
  [
    3 * (tf.TensorSpec([None, 4]),),
    dict(a=tf.TensorSpec([None, 4]), y=tf.TensorSpec([None], tf.int32)),
  ],
)
def test_batches_of_other_parts_are_refused(spec):
  with pytest.raises(UnsupportedModelError, match='must be a pair of inputs'):
    from_keras(keras_models.sequential(L.Dense(3)), input_spec=spec)


class _WithHelper(L.Layer):
  """Computes in a method and in an attribute that are a `tf.function`."""

  def build(self, shape):
    self.w = self.add_weight('w', (shape[-1],), initializer='ones')
    self.shift = tf.function(lambda x: x + self.w)

  @tf.function
  def scaled(self, inputs):
    if tf.reduce_sum(inputs) > 0:
      return inputs * self.w
    return -inputs * self.w

  def call(self, inputs):
    return self.shift(self.scaled(inputs))


class _CallIsAFunction(_WithHelper):
  @tf.function
  def call(self, inputs):
    return super().call(inputs)


@pytest.mark.parametrize(
  'layer',
  [
    lambda: L.Resizing(4, 4),
    lambda: L.UpSampling2D(interpolation='bilinear'),
    lambda: L.RandomCrop(5, 5),
    _WithHelper,
    _CallIsAFunction,
  ],
)
def test_what_is_checked_is_what_is_run(layer):
  model = keras_models.sequential(
    layer(), L.Flatten(), L.Dense(5, 'tanh'), L.Dense(3), shape=(6, 6, 1)
  )
  x, y = keras_models.data((6, 6, 1))
  expected = model(x, training=False).numpy()
  made = from_keras(model)
  found = keras_models.in_graph(
    lambda x: made.predict_on_batch(made.initial_weights, x, False), x
  )
  np.testing.assert_allclose(found, expected, atol=1e-5)
  metrics, _ = keras_models.train(
    made, [keras_models.dataset(x, y, 8)], rounds=2, iterations=5
  )
  assert metrics['synthesis']['cosine'] > 0.1
