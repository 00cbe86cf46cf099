"""Messages in one of two ways: the one that misses less, in the same bytes."""

import collections

import conftest
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from baselines.cross_polytope import CrossPolytope
from baselines.drive import Drive
from baselines.random_mask import RandomMask
from baselines.top_k import TopK
from tff_fedsynth import build_fedsynth
from tff_fedsynth import communication
from tff_fedsynth import Sketch
from tff_fedsynth import SynthesisConfig
from tff_fedsynth import SyntheticSpec
from tff_fedsynth.fitting import split as split_lib
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload.choice import packing
from tff_fedsynth.payload.sketch import ResidualError

SGD = tff.learning.optimizers.build_sgdm
MODEL = conftest.make_classifier()
WEIGHTS = tf.nest.map_structure(tf.constant, MODEL.initial_weights)
SHAPES = [tuple(w.shape) for w in MODEL.initial_weights[0]]
SPEC = SyntheticSpec((6,), (3,), bits=4)


def _config(codec, alone, scale=1.0):
  residual = Sketch(codec, scale, alone)
  return SynthesisConfig(SPEC, iterations=10, residual=residual)


def test_packed_messages_come_back_with_zeros_behind_them():
  message = collections.OrderedDict(
    z=tf.constant([[1.5, -2.0]]),
    a=collections.OrderedDict(
      bits=tf.constant([3, 255], tf.uint8), seed=tf.constant(-7)
    ),
    half=tf.constant([0.5], tf.float16),
    none=tf.zeros([0]),
  )
  packed = packing.pack(message, 20)
  assert packed.dtype == tf.uint8
  # Fields by name: 2 + 4 bytes of a, 2 of half, none of none, 8 of z.
  assert packed[:2].numpy().tolist() == [3, 255]
  assert packed[8:12].numpy().tobytes() == np.float32(1.5).tobytes()
  assert packed[16:].numpy().tolist() == [0] * 4
  specs = tf.nest.map_structure(tf.TensorSpec.from_tensor, message)
  tf.nest.map_structure(
    np.testing.assert_array_equal, message, packing.unpack(packed, specs)
  )


def _encoded(payload, target):
  variables = encoding.initialize(SPEC, tf.constant([1, 2]), 0.5, 1.0)
  return payload.encode(
    variables,
    MODEL,
    WEIGHTS,
    target=target,
    fits_scale=True,
    seed=tf.constant([3, 4]),
  )


@pytest.mark.parametrize(
  'codec, scale, alone',
  [
    (RandomMask(16), 1.0, CrossPolytope(10, 2)),
    # The scale is no reason to send synthetic data: its bias is not counted.
    (Drive(40), 0.3, Drive(50)),
  ],
  ids=str,
)
def test_a_client_sends_what_misses_less(codec, scale, alone):
  config = _config(codec, alone, scale)
  learned = _encoded(config.payload, _update(1.0)).replayed
  of_both = codec.relative_error(SHAPES)
  of_alone = alone.relative_error(SHAPES)
  noise = _update(1.0)
  across = tf.nest.map_structure(
    lambda n, u: n - _dot(noise, learned) / _dot(learned, learned) * u,
    noise,
    learned,
  )
  # At this share of what synthetic data miss, both errors are equal.
  share = of_alone / of_both
  assert 0 < share < 1
  for factor, is_alone in ((0.9, 0), (1.1, 1)):
    tangent = np.sqrt(factor * share / (1 - factor * share))
    length = tangent * np.sqrt(_dot(learned, learned) / _dot(across, across))
    target = tuple(u + length * a for u, a in zip(learned, across))
    encoded = _encoded(config.payload, target)
    assert encoded.message['is_alone'] == is_alone
    decoded = config.payload.decode(encoded.message, MODEL, WEIGHTS)
    for mine, servers in zip(encoded.update, decoded.update):
      np.testing.assert_allclose(mine, servers, rtol=1e-5, atol=1e-6)
    # Nothing of a sketch alone is compared with bounds on synthetic data.
    largest = max(np.abs(t).max() for t in tf.nest.flatten(decoded.parts))
    assert (largest == 0) == is_alone


def _update(stddev):
  random = np.random.RandomState(0)
  return tuple(
    tf.constant(random.normal(0, stddev, s), tf.float32) for s in SHAPES
  )


def _dot(a, b):
  return sum(float(tf.reduce_sum(x * y)) for x, y in zip(a, b))


@pytest.mark.parametrize(
  'alone, sends_data', [(RandomMask(40), 0), (RandomMask(1), 1)], ids=str
)
def test_a_round(alone, sends_data):
  config = _config(RandomMask(16), alone)
  process = build_fedsynth(MODEL, SGD(0.1), config=config)
  data_bytes = config.payload.data_bytes
  of_codec = lambda codec: codec.message_bytes(SHAPES)
  assert communication.uplink_bytes(process) == (
    1 + max(data_bytes + of_codec(RandomMask(16)), of_codec(alone)) + 4
  )
  state = process.initialize()
  w0 = process.get_model_weights(state).trainable
  output = process.next(state, [conftest.make_dataset(MODEL)])
  measured = output.metrics['client_work']['synthesis']
  assert measured['sends_synthetic_data'] == sends_data
  w1 = process.get_model_weights(output.state).trainable
  assert any(np.any(a != b) for a, b in zip(w0, w1))
  assert all(np.isfinite(w).all() for w in w1)


def test_biased_codecs_are_refused():
  config = _config(Drive(40), TopK(5))
  with pytest.raises(ResidualError, match='Choose an unbiased'):
    build_fedsynth(MODEL, SGD(0.1), config=config)
  with pytest.raises(ResidualError, match='Choose an unbiased'):
    split_lib.relative_error(0.5, config.residual, SHAPES)


@pytest.mark.parametrize('scale', [1.0, 0.5])
def test_the_error_is_of_what_a_client_sends(scale):
  codec, alone = RandomMask(16), Drive(50)
  sketch = Sketch(codec, scale, alone)
  error = lambda square: split_lib.relative_error(square, sketch, SHAPES, 3)
  of_codec = codec.relative_error(SHAPES) / 3
  of_alone = alone.relative_error(SHAPES) / 3
  equal = 1 - of_alone / of_codec
  assert 0 < equal < 0.9
  assert error(0.0) == of_alone
  assert error(equal - 0.01) == of_alone
  for square in (equal + 0.01, 0.99):
    left = (1 - scale) ** 2 + scale**2 * of_codec
    assert error(square) == pytest.approx((1 - square) * left)
