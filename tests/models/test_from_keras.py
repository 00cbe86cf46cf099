"""What users give to `from_keras`: it is right, or refused in one sentence."""

import collections

import conftest
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import build_fedsynth
from tff_fedsynth import build_spec
from tff_fedsynth import from_keras
from tff_fedsynth import Payload
from tff_fedsynth import spec_for_budget
from tff_fedsynth import SynthesisConfig
from tff_fedsynth import UnsupportedModelError
from tff_fedsynth.client import synthesis
from tff_fedsynth.client.training import local_training
from tff_fedsynth.models.functional import losses
from tff_fedsynth.models.functional.keras_model import seeded
from tff_fedsynth.payload import replay
from tff_fedsynth.payload.spec import SyntheticData

keras = tf.keras
L = keras.layers
SGD = tff.learning.optimizers.build_sgdm
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(autouse=True)
def same_initial_weights():
  keras.utils.set_random_seed(0)


def _sequential(*layers, shape=(4,), dtype=None):
  return keras.Sequential([keras.Input(shape, dtype=dtype), *layers])


def _data(shape, count=33, classes=3, seed=0):
  """Inputs that tell their class."""
  random = np.random.RandomState(seed)
  means = random.normal(size=(classes, *shape))
  y = random.randint(0, classes, count).astype(np.int32)
  x = means[y] + 0.3 * random.normal(size=(count, *shape))
  return x.astype(np.float32), y


def _dataset(x, y, batch_size=32):
  return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)


def _in_graph(function, *arrays):
  """What a function of tensors gives inside a graph, as in TFF."""
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    return session.run(tf.function(function)(*map(tf.constant, arrays)))


def _evaluate(model, dataset):
  evaluate = tff.learning.algorithms.build_fed_eval(model)
  metrics = evaluate.next(evaluate.initialize(), [dataset]).metrics
  return metrics['client_work']['eval']['current_round_metrics']


def _train(model, datasets, rounds=1, spec=None, **config):
  """Metrics of the last round of FedSynth, and its weights."""
  spec = spec or build_spec(model, batch_size=2, bits=4)
  config.setdefault('iterations', 30)
  process = build_fedsynth(
    model, SGD(0.1), config=SynthesisConfig(spec, **config)
  )
  state = process.initialize()
  for _ in range(rounds):
    output = process.next(state, datasets)
    state = output.state
  assert output.metrics['finalizer']['rejected_clients'] == 0
  return output.metrics['client_work'], process.get_model_weights(state)


# A1: losses of unequal batches.


def _loss_of_examples(model, x, y):
  return float(SPARSE(y, model(x)))


def test_the_loss_of_batches_of_32_and_1_is_that_of_the_33_examples():
  keras_model = _sequential(L.Dense(3))
  x, y = _data((4,))
  x[-1] *= 30  # One example that is very wrong weighs one in 33.
  expected = _loss_of_examples(keras_model, x, y)
  model = from_keras(keras_model)
  assert _evaluate(model, _dataset(x, y))['loss'] == pytest.approx(
    expected, rel=1e-5
  )
  # Nothing moves at rate 0, so that training sees the same loss.
  for process in (
    build_fedsynth(
      model,
      SGD(0.0),
      config=SynthesisConfig(
        build_spec(model, bits=4), iterations=1, diagnostics=True
      ),
    ),
    tff.learning.algorithms.build_weighted_fed_avg(model, SGD(0.0)),
  ):
    output = process.next(process.initialize(), [_dataset(x, y)])
    metrics = output.metrics['client_work']
    assert metrics['train']['loss'] == pytest.approx(expected, rel=1e-5)
    if 'synthesis' in metrics:
      measured = metrics['synthesis']['local_loss_before']
      assert measured == pytest.approx(expected, rel=1e-5)


def test_a_mean_over_tokens_is_over_tokens_in_the_diagnostics_too():
  keras_model = keras.Sequential(
    [
      keras.Input([None], dtype=tf.int64),
      L.Embedding(5, 4, mask_zero=True),
      L.Dense(5),
    ]
  )
  x = np.array([[1, 2, 3], [4, 0, 0], [2, 1, 0]])
  y = np.array([[2, 3, 4], [1, 0, 0], [1, 0, 0]])
  losses_of_tokens = tf.nn.sparse_softmax_cross_entropy_with_logits(
    y, keras_model(x)
  ).numpy()
  expected = losses_of_tokens[y > 0].mean()
  model = from_keras(keras_model)

  @tff.tensorflow.computation
  def mean_loss():
    weights = tf.nest.map_structure(tf.constant, model.initial_weights)
    return local_training.mean_loss(model, *weights, _dataset(x, y, 2))

  assert mean_loss() == pytest.approx(expected, rel=1e-5)
  assert _evaluate(model, _dataset(x, y, 2))['loss'] == pytest.approx(
    expected, rel=1e-5
  )


def test_labels_that_a_loss_ignores_do_not_count():
  keras_model = _sequential(L.Dense(3), shape=(2, 4))
  x, _ = _data((2, 4), 3)
  y = np.array([[0, 1], [-1, 2], [-1, -1]], np.int32)
  loss = keras.losses.SparseCategoricalCrossentropy(True, ignore_class=-1)
  expected = float(loss(y, keras_model(x)))
  model = from_keras(keras_model, loss=loss)
  assert _evaluate(model, _dataset(x, y, 2))['loss'] == pytest.approx(
    expected, rel=1e-5
  )


def test_an_example_of_a_smaller_batch_weighs_as_much_for_data_loss():
  # With SGD on the synthetic data a step is as long as the loss is large: one of
  # four examples has a quarter of the gradient.
  model = conftest.make_classifier()
  spec = build_spec(model, label_form='distributions')
  x, y = _data((6,), 5)
  x[4], y[4] = x[0], y[0]
  weights = model.initial_weights

  def moved(rows, batch_size):
    config = SynthesisConfig(
      spec, objective='data_loss', optimizer=SGD(1.0), initial_stddev=0.1
    )
    dataset = _dataset(x[rows], y[rows], batch_size)

    @tf.function
    def learn():
      return synthesis.learn(
        model,
        tf.nest.map_structure(tf.constant, weights),
        dataset,
        None,
        config,
        None,
        tf.constant([0, 0]),
      )['inputs']

    return learn().numpy()

  start = moved([], 4)
  full = [0, 0, 0, 0]
  # A second batch of one example, against a second one of four like it.
  one = moved([*full, 4], 4) - moved(full, 4)
  four = moved([*full, *full], 4) - moved(full, 4)
  assert np.abs(start - moved(full, 4)).max() > 0
  np.testing.assert_allclose(one, four / 4, rtol=1e-3, atol=1e-7)


# A2: derivatives of derivatives.


def _label_gradient(model, x, y, direction, adjoint):
  """Of <replay, adjoint> along a direction of the labels, and by difference."""

  def product(labels):
    data = SyntheticData(
      tf.constant(x)[tf.newaxis],
      labels[tf.newaxis],
      tf.ones([1]),
      tf.constant(1.0),
    )
    weights = tf.nest.map_structure(tf.constant, model.initial_weights)
    update = replay.replay(model, weights, data)
    return sum(tf.reduce_sum(u * a) for u, a in zip(update, adjoint))

  def run(labels):
    with tf.GradientTape() as tape:
      tape.watch(labels)
      value = product(labels)
    return value, tape.gradient(value, labels)

  _, gradient = _in_graph(run, y)
  step = 1e-2
  values = [_in_graph(run, y + s * step * direction)[0] for s in (1, -1)]
  return np.sum(gradient * direction), (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize('from_logits', [True, False])
def test_float_one_hot_labels_have_a_right_gradient(from_logits):
  activation = None if from_logits else 'softmax'
  keras_model = _sequential(L.Dense(5, 'tanh'), L.Dense(3, activation))
  loss = keras.losses.CategoricalCrossentropy(from_logits, label_smoothing=0.1)
  model = from_keras(
    keras_model, loss=loss, label_spec=tf.TensorSpec([None, 3])
  )
  random = np.random.RandomState(0)
  x, y = _data((4,), 6)
  one_hot = np.eye(3, dtype=np.float32)[y]
  # The replaced loss has the values of Keras' own.
  found = _in_graph(model.loss, keras_model(x), one_hot)
  assert found == pytest.approx(float(loss(one_hot, keras_model(x))), rel=1e-5)
  adjoint = [
    random.normal(size=w.shape).astype(np.float32)
    for w in model.initial_weights[0]
  ]
  direction = random.normal(size=one_hot.shape).astype(np.float32)
  gradient, difference = _label_gradient(model, x, one_hot, direction, adjoint)
  assert abs(difference) > 0.01
  assert gradient == pytest.approx(difference, rel=1e-2)
  # The labels learn.
  metrics, _ = _train(
    model,
    [_dataset(x, one_hot, 3)],
    spec=build_spec(model, batch_size=1, bits=8),
    iterations=100,
  )
  assert metrics['synthesis']['cosine'] > 0.75


class _Quadratic(keras.losses.Loss):
  """A loss whose gradient in the labels a user forgot."""

  def call(self, y_true, y_pred):
    return tf.reduce_mean((tf.stop_gradient(y_true) - y_pred) ** 2, -1)


@pytest.mark.parametrize(
  'layers, shape, message',
  [
    (
      [L.Conv2D(2, 3), L.UpSampling2D(name='up'), L.Flatten(), L.Dense(3)],
      (6, 6, 1),
      r"Layer 'up' \(UpSampling2D\) cannot be replayed.*ResizeNearestNeighbor",
    ),
    (
      [
        L.Conv2D(2, 3),
        L.UpSampling2D(interpolation='bilinear', name='up'),
        L.Flatten(),
        L.Dense(3),
      ],
      (6, 6, 1),
      r"Layer 'up' \(UpSampling2D\) cannot be replayed.*ResizeBilinear",
    ),
    (
      [L.Dense(4, 'softsign', name='soft'), L.Dense(3)],
      (4,),
      r"Layer 'soft' \(Dense\).*no derivative of the op SoftsignGrad",
    ),
    (
      [
        L.Conv2D(2, 3),
        L.Lambda(tf.nn.local_response_normalization, name='lrn'),
        L.Flatten(),
        L.Dense(3),
      ],
      (6, 6, 1),
      "Layer 'lrn'.*LRNGrad",
    ),
    (
      # A derivative that is there, and wrong.
      [L.Dense(4), L.Lambda(lambda x: _wrong(x), name='wrong'), L.Dense(3)],
      (4,),
      r"Layer 'wrong' \(Lambda\).*not the one that a finite difference has",
    ),
  ],
)
def test_layers_that_are_differentiated_wrongly_are_named(
  layers, shape, message
):
  with pytest.raises(UnsupportedModelError, match=message):
    from_keras(_sequential(*layers, shape=shape))


@tf.custom_gradient
def _wrong(x):
  return x**3, lambda upstream: upstream * tf.stop_gradient(3 * x**2)


@pytest.mark.parametrize(
  'loss',
  [
    lambda y, p: tf.nn.softmax_cross_entropy_with_logits(y, p),
    _Quadratic(name='quadratic'),
  ],
)
def test_losses_that_are_differentiated_wrongly_are_named(loss):
  with pytest.raises(UnsupportedModelError, match='The loss .* cannot be'):
    from_keras(
      _sequential(L.Dense(3)), loss=loss, label_spec=tf.TensorSpec([None, 3])
    )


def test_a_loss_that_no_label_changes_is_refused_unless_labels_are_signed():
  model = from_keras(
    _sequential(L.Dense(5, 'tanh'), L.Dense(2)),
    loss='mae',
    label_spec=tf.TensorSpec([None, 2]),
  )
  x, _ = _data((4,))
  data = [_dataset(x, x[:, :2])]
  with pytest.raises(UnsupportedModelError, match="label_form='signed'"):
    _train(model, data)
  spec = build_spec(model, label_form='signed', bits=4)
  metrics, _ = _train(model, data, spec=spec)
  assert metrics['synthesis']['cosine'] > 0.5


def test_models_that_are_not_of_keras_are_checked_when_fedsynth_is_built():
  @tf.function
  def predict(model_weights, x, training):
    del training
    return tf.nn.softsign(x @ model_weights[0][0]) @ model_weights[0][1]

  model = tff.learning.models.FunctionalModel(
    initial_weights=(
      (np.ones([6, 9], np.float32), np.ones([9, 3], np.float32)),
      (),
    ),
    predict_on_batch_fn=predict,
    loss_fn=conftest.make_classifier().loss,
    input_spec=conftest.make_classifier().input_spec,
  )
  spec = build_spec(model, bits=4)
  with pytest.raises(UnsupportedModelError, match='SoftsignGrad'):
    build_fedsynth(model, SGD(0.1), config=SynthesisConfig(spec))


# A3: labels per position.


@pytest.mark.parametrize('batch_size', [1, 8])
@pytest.mark.parametrize(
  'label_spec', [None, tf.TensorSpec([None, 8], tf.int64)]
)
def test_labels_for_each_position(label_spec, batch_size):
  keras_model = _sequential(
    L.Conv1D(24, 3, padding='same', activation='relu'),
    L.Dense(24, 'relu'),
    L.Dense(3),
    shape=(8, 4),
  )
  model = from_keras(keras_model, label_spec=label_spec)
  x, y = _data((8, 4))
  labels = (y[:, np.newaxis] + np.arange(8)) % 3
  labels = labels.astype(np.int64 if label_spec else np.int32)
  spec = build_spec(model, batch_size=batch_size, bits=4)
  assert spec.label_shape == (8, 3)
  metrics, _ = _train(model, [_dataset(x, labels, 8)], spec=spec)
  # As many examples as positions would pair label i with position i.
  assert metrics['synthesis']['cosine'] > 0.5


def test_labels_that_do_not_belong_to_the_outputs_are_refused():
  for label_spec in (
    tf.TensorSpec([None, 8], tf.int32),
    tf.TensorSpec([None, 3], tf.int32),
  ):
    with pytest.raises(UnsupportedModelError, match='labels of shape'):
      from_keras(_sequential(L.Dense(3)), label_spec=label_spec)
  with pytest.raises(UnsupportedModelError, match='needs labels of shape'):
    from_keras(
      _sequential(L.Dense(3)), loss='mse', label_spec=tf.TensorSpec([None, 1])
    )


# A4: probabilities and logits.


@pytest.mark.parametrize(
  'layers, loss, message',
  [
    ([L.Dense(3, activation=tf.nn.softmax)], None, 'applies a softmax'),
    ([L.Dense(3), L.Lambda(tf.nn.softmax)], None, 'applies a softmax'),
    ([_sequential(L.Dense(3, 'softmax'))], None, 'applies a softmax'),
    (
      [L.Dense(3), L.Activation('softmax')],
      'sparse_categorical_crossentropy',
      'Return logits',
    ),
    ([L.Dense(3)], 'sparse_categorical_crossentropy', 'outputs logits'),
    (
      [L.Dense(3)],
      keras.losses.SparseCategoricalCrossentropy,
      'outputs logits.*from_logits=True',
    ),
    (
      [L.Dense(1, 'sigmoid')],
      keras.losses.BinaryCrossentropy(True),
      'applies a sigmoid',
    ),
    ([L.Dense(1)], 'binary_crossentropy', 'outputs logits'),
    # No class at all, or one that is always right.
    ([L.Dense(1)], None, 'always 0'),
  ],
)
def test_what_a_model_outputs_must_be_what_the_loss_takes(
  layers, loss, message
):
  with pytest.raises(UnsupportedModelError, match=message):
    from_keras(_sequential(*layers), loss=loss)


def test_logits_that_start_alike_are_no_probabilities():
  last = L.Dense(2, kernel_initializer='zeros', bias_initializer='ones')
  halves = L.Lambda(lambda x: x / 2)  # One half each, at first.
  from_keras(_sequential(last, halves))


# A5: what layers add to the loss.


class _Adds(L.Layer):
  def call(self, inputs):
    self.add_loss(tf.reduce_mean(inputs**2))
    return inputs


@pytest.mark.parametrize(
  'layer',
  [
    lambda: L.Dense(4, kernel_regularizer=keras.regularizers.L2(10.0)),
    lambda: L.Dense(4, bias_regularizer='l1'),
    lambda: L.Dense(4, activity_regularizer='l2'),
    lambda: L.ActivityRegularization(0.1),
    _Adds,
    lambda: _sequential(L.Dense(4, kernel_regularizer='l2')),
  ],
)
def test_terms_that_layers_add_to_the_loss_are_refused(layer):
  with pytest.raises(UnsupportedModelError, match='add to the loss'):
    from_keras(_sequential(layer(), L.Dense(3)))


def test_terms_of_recurrent_layers_and_models_are_refused_too():
  layer = L.LSTM(3, recurrent_regularizer='l2')
  with pytest.raises(UnsupportedModelError, match='add to the loss'):
    from_keras(_sequential(layer, L.Dense(3), shape=(3, 4)))
  model = _sequential(L.Dense(3))
  model.add_loss(lambda: tf.reduce_sum(model.layers[0].kernel))
  with pytest.raises(UnsupportedModelError, match='add to the loss'):
    from_keras(model)


# B1: randomness and recurrent layers.


def _random_layers():
  return _sequential(
    L.RandomFlip('horizontal'),
    L.RandomTranslation(0.1, 0.1),
    L.Conv2D(4, 3, activation='relu'),
    L.SpatialDropout2D(0.2),
    L.Flatten(),
    L.Dense(12, 'relu'),
    L.Dropout(0.5),
    L.GaussianNoise(0.1),
    L.GaussianDropout(0.1),
    L.AlphaDropout(0.1),
    L.Dense(3),
    shape=(8, 8, 1),
  )


def test_random_layers_draw_in_training_alone_and_from_the_seed():
  keras_model = _random_layers()
  model = from_keras(keras_model)
  x, _ = _data((8, 8, 1), 6)
  weights = model.initial_weights

  def predict(training, seed):
    def run(x, seed):
      view = seeded(model, seed)
      return view.predict_on_batch(weights, x, training=training)

    return _in_graph(run, x, np.array([seed, 0], np.int32))

  plain = keras_model(x, training=False).numpy()
  np.testing.assert_allclose(predict(False, 0), plain, atol=1e-5)
  trained = predict(True, 0)
  assert np.abs(trained - plain).max() > 0.1
  np.testing.assert_array_equal(trained, predict(True, 0))
  assert np.abs(trained - predict(True, 1)).max() > 0.1
  # Another batch, or other weights, as in the next step: other numbers.
  dropped = _sequential(L.Dropout(0.5), L.Dense(2))
  model = from_keras(dropped)
  ones = np.ones([1, 4], np.float32)
  kept = set()
  for shift in range(20):
    weights = (tuple(w + shift for w in model.initial_weights[0]), ())
    outputs = _in_graph(
      lambda x, w=weights: model.predict_on_batch(w, x, training=True), ones
    )
    all_kept = _in_graph(
      lambda x, w=weights: model.predict_on_batch(w, x, training=False), ones
    )
    kept.add(bool(np.abs(outputs - all_kept).max() < 1e-6))
    kept.add(tuple(np.round(outputs[0] / all_kept[0], 2)))
  assert len(kept) > 5


def test_dropout_keeps_its_share():
  model = from_keras(_sequential(L.Dropout(0.25), L.Dense(1000), shape=(1000,)))
  weights = ((np.eye(1000, dtype=np.float32), np.zeros(1000, np.float32)), ())
  ones = np.ones([4, 1000], np.float32)
  outputs = _in_graph(
    lambda x: model.predict_on_batch(weights, x, training=True), ones
  )
  # Of 4000, 1000 with a standard deviation of 27.
  assert abs((outputs == 0).sum() - 1000) < 5 * 27
  np.testing.assert_allclose(outputs[outputs != 0], 4 / 3, rtol=1e-5)
  # Examples of a batch are not dropped alike.
  assert (outputs[0] != outputs[1]).any()


def test_a_round_with_dropout_repeats_with_its_seed_and_follows_it():
  model = from_keras(
    _sequential(L.Dense(20, 'relu'), L.Dropout(0.5), L.Dense(3))
  )
  x, y = _data((4,))
  config = SynthesisConfig(
    build_spec(model, batch_size=2, bits=4), iterations=5
  )

  def weights(seed):
    process = build_fedsynth(model, SGD(0.1), config=config, seed=seed)
    output = process.next(process.initialize(), [_dataset(x, y, 8)])
    train = output.metrics['client_work']['train']
    return process.get_model_weights(output.state).trainable, train['loss']

  first, again, other = weights(0), weights(0), weights(1)
  for a, b in zip(first[0], again[0]):
    np.testing.assert_array_equal(a, b)
  # The loss of local training, on the same data: dropout alone differs.
  assert first[1] == again[1] != other[1]
  fed_avg = tff.learning.algorithms.build_weighted_fed_avg(model, SGD(0.1))
  output = fed_avg.next(fed_avg.initialize(), [_dataset(x, y, 8)])
  assert np.isfinite(output.metrics['client_work']['train']['loss'])


@pytest.mark.parametrize(
  'layer',
  [
    lambda: L.LSTM(6),
    lambda: L.GRU(6, recurrent_dropout=0.1),
    lambda: L.Bidirectional(L.SimpleRNN(4)),
  ],
)
def test_recurrent_layers_on_float_inputs_train(layer):
  keras_model = _sequential(layer(), L.Dense(3), shape=(5, 4))
  x, y = _data((5, 4))
  before = keras_model(x).numpy()
  model = from_keras(keras_model)
  found = _in_graph(
    lambda x: model.predict_on_batch(model.initial_weights, x, training=False),
    x,
  )
  np.testing.assert_allclose(found, before, atol=1e-5)
  metrics, _ = _train(model, [_dataset(x, y, 8)])
  assert metrics['synthesis']['cosine'] > 0.6


@pytest.mark.parametrize(
  'layers, message',
  [
    (
      [L.Lambda(lambda x: x + tf.random.normal(tf.shape(x))), L.Dense(3)],
      'draws from a state of its own',
    ),
    ([L.LSTM(3, stateful=True), L.Dense(3)], 'stateful=False'),
    ([L.Flatten(), L.Dense(3), L.BatchNormalization()], 'batch normalisation'),
    ([L.Lambda(lambda x: 0.0 * x)], 'no weights to train'),
    (
      [L.Dense(4, dtype='float64'), L.Flatten(), L.Dense(3)],
      'computes in float64',
    ),
    (
      [L.Dense(4, dtype='mixed_float16'), L.Flatten(), L.Dense(3)],
      'computes in float16',
    ),
  ],
)
def test_layers_that_cannot_be_trained_are_refused(layers, message):
  model = keras.Sequential([keras.Input((5, 4), batch_size=2), *layers])
  with pytest.raises(UnsupportedModelError, match=message):
    from_keras(model)


# B2: the Keras model stays usable.


def test_the_keras_model_stays_as_it_was_and_gets_the_trained_weights():
  keras_model = _sequential(
    _sequential(L.Dense(8, 'relu')), L.Dropout(0.2), L.Dense(3)
  )
  keras_model.compile('sgd', SPARSE, ['accuracy'])
  x, y = _data((4,))
  before = keras_model(x).numpy()
  model = from_keras(keras_model)
  _, weights = _train(model, [_dataset(x, y, 8)], rounds=2)
  np.testing.assert_array_equal(keras_model(x), before)
  assert keras_model.predict(x, verbose=0).shape == (33, 3)
  assert len(tff.learning.models.ModelWeights.from_model(keras_model)[0]) == 4
  weights.assign_weights_to(keras_model)
  for w, trained in zip(keras_model.trainable_weights, weights.trainable):
    np.testing.assert_array_equal(w, trained)
  loss, accuracy = keras_model.evaluate(x, y, verbose=0)
  trained = from_keras(keras_model)
  metrics = _evaluate(trained, _dataset(x, y))
  assert metrics['loss'] == pytest.approx(loss, rel=1e-4)
  assert metrics['accuracy'] == pytest.approx(accuracy, rel=1e-4)


def test_what_others_make_in_graphs_does_not_break_a_model():
  keras_model = _sequential(L.Dense(3))
  model = from_keras(keras_model)
  with tf.Graph().as_default():
    _sequential(L.Dense(3))  # As any model_fn of TFF's does.
  x, _ = _data((4,))
  _in_graph(
    lambda x: model.predict_on_batch(model.initial_weights, x, training=False),
    x,
  )
  assert keras_model(x).shape == (33, 3)


def test_layers_may_be_shared_and_hold_weights_in_any_way():
  class Own(L.Layer):
    def __init__(self):
      super().__init__()
      self.parts = [L.Dense(4), L.Dense(4)]
      self.by_name = {'scale': tf.Variable(2.0)}

    def build(self, shape):
      self.offset = self.add_weight('offset', (4,), initializer='ones')
      super().build(shape)

    def call(self, inputs):
      for part in self.parts:
        inputs = part(inputs) * self.by_name['scale'] + self.offset
      return inputs

  own = Own()
  inputs = keras.Input((4,))
  keras_model = keras.Model(inputs, L.Dense(3)(own(own(inputs))))
  x, _ = _data((4,), 3)
  expected = keras_model(x).numpy()
  model = from_keras(keras_model)
  assert len(model.initial_weights[0]) == len(keras_model.trainable_weights)
  found = _in_graph(
    lambda x: model.predict_on_batch(model.initial_weights, x, training=False),
    x,
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)


# B3: shapes of inputs.


@pytest.mark.parametrize(
  'shape, resolution',
  [((1, 12, 12), 6), ((3, 10, 10), 5), ((1, 40, 2), None), ((12, 12, 1), 6)],
)
def test_images_of_any_layout_are_learned(shape, resolution):
  keras_model = _sequential(
    L.Flatten(), L.Dense(9, 'relu'), L.Dense(3), shape=shape
  )
  model = from_keras(keras_model)
  sides = resolution or 1
  learned = (
    int(np.prod(shape))
    if resolution is None
    else sides * sides * int(np.prod(shape)) // (shape[1] * shape[1])
  )
  budget = 4 + 4 + 2 * (-(-learned // 2) + 2 + 8)
  spec = spec_for_budget(model, budget, batch_size=2)
  assert spec.resolution == resolution
  assert Payload(spec).data_bytes + 4 == budget
  x, y = _data(shape)
  metrics, _ = _train(model, [_dataset(x, y, 8)], spec=spec)
  assert metrics['synthesis']['cosine'] > 0.3


# B4: what else TFF's FedAvg takes.


def _binary(y):
  return (y > 0).astype(np.int32)


@pytest.mark.parametrize(
  'outputs, loss, label_spec, labels, metrics',
  [
    (3, None, tf.TensorSpec([None], tf.int64), lambda y: y.astype(np.int64), 1),
    (
      3,
      None,
      tf.TensorSpec([None, 1], tf.int32),
      lambda y: y[:, np.newaxis],
      1,
    ),
    (
      3,
      keras.losses.CategoricalCrossentropy(True),
      tf.TensorSpec([None, 3], tf.int32),
      lambda y: np.eye(3, dtype=np.int32)[y],
      1,
    ),
    (3, SPARSE, tf.TensorSpec([None]), lambda y: y.astype(np.float32), 1),
    (1, 'mse', tf.TensorSpec([None], tf.int32), lambda y: y, 0),
    (
      1,
      keras.losses.BinaryCrossentropy(True),
      tf.TensorSpec([None], tf.int32),
      _binary,
      1,
    ),
    (
      2,
      lambda y, p: tf.reduce_mean((y - p) ** 2),
      tf.TensorSpec([None, 2]),
      lambda y: np.stack([y, -y], 1).astype(np.float32),
      0,
    ),
  ],
)
def test_labels_and_losses_that_fed_avg_takes(
  outputs, loss, label_spec, labels, metrics
):
  keras_model = _sequential(L.Dense(20, 'relu'), L.Dense(outputs))
  x, y = _data((4,))
  y = labels(y)
  model = from_keras(keras_model, loss=loss, label_spec=label_spec)
  measured = _evaluate(model, _dataset(x, y))
  assert len(measured) == 1 + metrics
  resolved = losses.resolve(loss or SPARSE)
  expected = float(resolved(tf.constant(y), keras_model(x)))
  assert measured['loss'] == pytest.approx(expected, rel=1e-4)
  trained, weights = _train(model, [_dataset(x, y, 8)])
  assert trained['synthesis']['cosine'] > 0.3
  after = (weights.trainable, ())
  loss_after = _in_graph(
    lambda x, y: model.loss(model.predict_on_batch(after, x, False), y), x, y
  )
  assert loss_after < expected


def test_accuracies_that_go_with_a_loss_are_right():
  x, y = _data((4,))
  binary = _sequential(L.Dense(1))
  right = (binary(x).numpy()[:, 0] > 0) == (y > 0)
  measured = _evaluate(
    from_keras(
      binary,
      loss=keras.losses.BinaryCrossentropy(True),
      label_spec=tf.TensorSpec([None], tf.int32),
    ),
    _dataset(x, _binary(y)),
  )
  assert measured['accuracy'] == pytest.approx(right.mean())
  classes = _sequential(L.Dense(3))
  right = classes(x).numpy().argmax(axis=1) == y
  measured = _evaluate(
    from_keras(
      classes,
      loss=keras.losses.CategoricalCrossentropy(True),
      label_spec=tf.TensorSpec([None, 3], tf.int32),
    ),
    _dataset(x, np.eye(3, dtype=np.int32)[y]),
  )
  assert measured['accuracy'] == pytest.approx(right.mean())


def test_batches_as_mappings():
  spec = collections.OrderedDict(
    x=tf.TensorSpec([None, 4]), y=tf.TensorSpec([None], tf.int32)
  )
  x, y = _data((4,))
  keras_model = _sequential(L.Dense(20, 'relu'), L.Dense(3))
  model = from_keras(keras_model, input_spec=spec)
  data = tf.data.Dataset.from_tensor_slices(dict(x=x, y=y)).batch(8)
  expected = _loss_of_examples(keras_model, x, y)
  assert _evaluate(model, data)['loss'] == pytest.approx(expected, rel=1e-5)
  metrics, _ = _train(model, [data])
  assert metrics['synthesis']['cosine'] > 0.5
  for wrong in (
    (tf.TensorSpec([None, 5]), spec['y']),
    (tf.TensorSpec([None, 4], tf.int32), spec['y']),
  ):
    with pytest.raises(UnsupportedModelError, match='but the model takes'):
      from_keras(keras_model, input_spec=wrong)


@pytest.mark.parametrize('dtype', [tf.int32, tf.int64])
def test_tokens_are_of_the_type_of_the_input(dtype):
  keras_model = _sequential(
    L.Embedding(12, 8), L.Dense(12), shape=(5,), dtype=dtype
  )
  model = from_keras(keras_model)
  assert [s.dtype for s in model.input_spec] == [dtype, dtype]
  tokens = np.random.RandomState(0).randint(0, 12, (16, 6))
  tokens = tokens.astype(dtype.as_numpy_dtype)
  data = [_dataset(tokens[:, :-1], tokens[:, 1:], 8)]
  spec = build_spec(model, length=2, bits=4)
  metrics, _ = _train(model, data, spec=spec)
  assert metrics['synthesis']['cosine'] > 0.2


def test_metrics_may_be_instances_names_and_constructors():
  x, y = _data((4,))
  model = from_keras(
    _sequential(L.Dense(3)),
    metrics=[
      keras.metrics.SparseTopKCategoricalAccuracy(2, name='top_2'),
      'sparse_categorical_accuracy',
      lambda: keras.metrics.SparseCategoricalCrossentropy(
        'crossentropy', from_logits=True
      ),
    ],
  )
  measured = _evaluate(model, _dataset(x, y))
  assert list(measured) == [
    'loss',
    'top_2',
    'sparse_categorical_accuracy',
    'crossentropy',
  ]
  assert measured['crossentropy'] == pytest.approx(measured['loss'], rel=1e-5)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(loss='l7'), 'knows no loss'),
    (dict(loss=7), 'a name or a function'),
    (
      dict(
        loss=keras.losses.SparseCategoricalCrossentropy(True, reduction='none')
      ),
      'reduction NONE',
    ),
    (
      dict(metrics=[keras.metrics.Accuracy('a'), keras.metrics.Mean('a')]),
      "named 'a'",
    ),
    (dict(metrics=[lambda: keras.metrics.Mean('loss')]), "named 'loss'"),
    (dict(ignored_labels=(0,)), 'ignored_labels are tokens'),
    (
      dict(
        input_spec=(tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int32)),
        label_spec=tf.TensorSpec([None], tf.int32),
      ),
      'Leave out label_spec',
    ),
    (
      dict(loss=lambda y, p: tf.stack([1.0, 2.0]) * tf.reduce_mean(p)),
      'cannot be computed',
    ),
  ],
)
def test_arguments_that_do_not_go_together(arguments, message):
  with pytest.raises(UnsupportedModelError, match=message):
    from_keras(_sequential(L.Dense(3)), **arguments)


def test_inputs_of_unknown_size_are_refused():
  model = _sequential(
    L.Conv1D(3, 2), L.GlobalMaxPool1D(), L.Dense(3), shape=(None, 4)
  )
  with pytest.raises(UnsupportedModelError, match='Give tf.keras.Input every'):
    from_keras(model)


@pytest.mark.parametrize(
  'layer',
  [
    lambda: L.LayerNormalization(),
    lambda: L.GroupNormalization(2),
    lambda: L.Conv2DTranspose(2, 3, activation='swish'),
    lambda: L.SeparableConv2D(2, 3, activation='gelu'),
    lambda: L.Activation('selu'),
    lambda: L.AveragePooling2D(),
  ],
)
def test_layers_that_are_right_are_not_refused(layer):
  from_keras(
    _sequential(
      L.Conv2D(4, 3, activation='relu'),
      layer(),
      L.Flatten(),
      L.Dense(3),
      shape=(6, 6, 2),
    )
  )


@tf.custom_gradient
def _a_little_wrong(x):
  slope = 3 * x**2
  return (
    x**3,
    lambda upstream: upstream * (0.9 * slope + 0.1 * tf.stop_gradient(slope)),
  )


def test_a_derivative_that_is_off_by_a_tenth_is_named():
  layers = [L.Dense(4), L.Lambda(_a_little_wrong, name='off'), L.Dense(3)]
  with pytest.raises(UnsupportedModelError, match="'off'.*finite difference"):
    from_keras(_sequential(*layers))


@pytest.mark.parametrize('seed', range(3))
def test_models_of_tff_with_kinks_are_not_refused(seed):
  # TFF's own conversion computes in float32 alone.
  keras.utils.set_random_seed(seed)
  spec = (tf.TensorSpec([None, 8, 8, 1]), tf.TensorSpec([None], tf.int32))
  model = tff.learning.models.functional_model_from_keras(
    _sequential(
      L.Conv2D(8, 3, activation='relu'),
      L.MaxPool2D(),
      L.Flatten(),
      L.Dense(3),
      shape=(8, 8, 1),
    ),
    SPARSE,
    spec,
  )
  config = SynthesisConfig(build_spec(model, bits=4, resolution=4))
  build_fedsynth(model, SGD(0.1), config=config)
