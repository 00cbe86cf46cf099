import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import build_spec
from tff_fedsynth import from_keras
from tff_fedsynth import Payload
from tff_fedsynth import SyntheticSpecError
from tff_fedsynth.models import architectures

MLP = from_keras(architectures.mlp((28, 28, 1), 10))


def test_build_spec_takes_shapes_from_the_model():
  spec = build_spec(MLP, steps=2, batch_size=3, bits=8, resolution=7)
  assert spec.input_shape == (28, 28, 1)
  assert spec.label_shape == (10,)
  assert spec.label_form == 'signed'
  # 49 + 10 bytes of values, two ranges of 4.
  assert Payload(spec).data_bytes == 6 * (49 + 10 + 8) + 2 * 4 + 4


def test_refuses_a_payload_larger_than_the_model():
  with pytest.raises(SyntheticSpecError, match='the model itself 636040'):
    build_spec(MLP, batch_size=300)


def test_refuses_integer_inputs():
  model = tff.learning.models.FunctionalModel(
    initial_weights=((), ()),
    predict_on_batch_fn=tf.function(lambda weights, x, training: x),
    loss_fn=lambda output, label, sample_weight=None: 0.0,
    input_spec=(
      tf.TensorSpec([None, 3], tf.int64),
      tf.TensorSpec([None], tf.int32),
    ),
  )
  with pytest.raises(SyntheticSpecError, match='must take one float tensor'):
    build_spec(model)
