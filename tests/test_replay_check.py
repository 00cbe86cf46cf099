"""What is differentiated wrongly is named, and nothing else is."""

import conftest
import keras_models
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import build_fedsynth
from tff_fedsynth import build_spec
from tff_fedsynth import from_keras
from tff_fedsynth import replay_check
from tff_fedsynth import SynthesisConfig
from tff_fedsynth import UnsupportedModelError

pytestmark = pytest.mark.usefixtures('same_initial_weights')

keras = tf.keras
L = keras.layers
SGD = tff.learning.optimizers.build_sgdm


def _check(keras_model, **arguments):
  model = from_keras(keras_model, **arguments)
  replay_check.check_replay(model, build_spec(model, bits=4))


class _Quadratic(keras.losses.Loss):
  """A loss whose gradient in the labels a user forgot."""

  def call(self, y_true, y_pred):
    return tf.reduce_mean((tf.stop_gradient(y_true) - y_pred) ** 2, -1)


# Made in the test: what other tests make in graphs spoils older layers.
@pytest.mark.parametrize(
  'layers, shape, message',
  [
    (
      lambda: [
        L.Conv2D(2, 3),
        L.UpSampling2D(name='up'),
        L.Flatten(),
        L.Dense(3),
      ],
      (6, 6, 1),
      r"Layer 'up' \(UpSampling2D\) cannot be replayed.*ResizeNearestNeighbor",
    ),
    (
      lambda: [
        L.Conv2D(2, 3),
        L.UpSampling2D(interpolation='bilinear', name='up'),
        L.Flatten(),
        L.Dense(3),
      ],
      (6, 6, 1),
      r"Layer 'up' \(UpSampling2D\) cannot be replayed.*ResizeBilinear",
    ),
    (
      lambda: [L.Dense(4, 'softsign', name='soft'), L.Dense(3)],
      (4,),
      r"Layer 'soft' \(Dense\).*no derivative of the op SoftsignGrad",
    ),
    (
      lambda: [
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
      lambda: [
        L.Dense(4),
        L.Lambda(lambda x: _wrong(x), name='wrong'),
        L.Dense(3),
      ],
      (4,),
      r"Layer 'wrong' \(Lambda\).*not the one that a finite difference has",
    ),
  ],
)
def test_layers_that_are_differentiated_wrongly_are_named(
  layers, shape, message
):
  with pytest.raises(UnsupportedModelError, match=message):
    _check(keras_models.sequential(*layers(), shape=shape))


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
    _check(
      keras_models.sequential(L.Dense(9, 'tanh'), L.Dense(3)),
      loss=loss,
      label_spec=tf.TensorSpec([None, 3]),
    )


def test_a_loss_that_no_label_changes_is_refused_unless_labels_are_signed():
  model = from_keras(
    keras_models.sequential(L.Dense(5, 'tanh'), L.Dense(2)),
    loss='mae',
    label_spec=tf.TensorSpec([None, 2]),
  )
  x, _ = keras_models.data((4,))
  data = [keras_models.dataset(x, x[:, :2])]
  with pytest.raises(UnsupportedModelError, match="label_form='signed'"):
    keras_models.train(model, data)
  spec = build_spec(model, label_form='signed', bits=4)
  metrics, _ = keras_models.train(model, data, spec=spec)
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
  _check(
    keras_models.sequential(
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
    _check(keras_models.sequential(*layers, shape=(20,)))


@pytest.mark.parametrize('seed', range(3))
def test_models_of_tff_with_kinks_are_not_refused(seed):
  # TFF's own conversion computes in float32 alone.
  keras.utils.set_random_seed(seed)
  spec = (tf.TensorSpec([None, 8, 8, 1]), tf.TensorSpec([None], tf.int32))
  model = tff.learning.models.functional_model_from_keras(
    keras_models.sequential(
      L.Conv2D(8, 3, activation='relu'),
      L.MaxPool2D(),
      L.Flatten(),
      L.Dense(3),
      shape=(8, 8, 1),
    ),
    keras_models.SPARSE,
    spec,
  )
  config = SynthesisConfig(build_spec(model, bits=4, resolution=4))
  build_fedsynth(model, SGD(0.1), config=config)
