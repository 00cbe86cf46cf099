import numpy as np
import pytest
import tensorflow as tf

from tff_fedsynth import Payload
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload.spec import SUPPORTED_BITS
from tff_fedsynth.payload.spec import SyntheticSpec


def _variables(spec, seed=0):
  return encoding.initialize(spec, tf.constant([seed, 0]), 1.0, 0.5)


def _encode(spec, variables):
  return encoding.encode(spec, variables)


def test_hand_computed_four_bit_payload():
  spec = SyntheticSpec((3,), (2,), bits=4)
  variables = dict(
    inputs=tf.constant([[[0.0, 15.0, 4.0]]]),
    labels=tf.constant([[[-1.0, 2.0]]]),
    step_sizes=tf.constant([0.5]),
  )
  payload = _encode(spec, variables)
  # Levels 0, 15, 4: two a byte, the first in the low half, padded with 0.
  np.testing.assert_array_equal(payload['inputs'], [[[0 + 15 * 16, 4]]])
  np.testing.assert_array_equal(payload['inputs_range'], [[[0.0, 15.0]]])
  np.testing.assert_array_equal(payload['labels'], [[[0 + 15 * 16]]])
  np.testing.assert_array_equal(payload['labels_range'], [[[-1.0, 2.0]]])
  data = encoding.decode(spec, payload)
  np.testing.assert_array_equal(data.inputs, [[[0.0, 15.0, 4.0]]])
  np.testing.assert_allclose(
    data.labels, [[np.exp([-1, 2]) / np.exp([-1, 2]).sum()]], rtol=1e-6
  )
  # The size of the only step is in the scale.
  assert 'step_sizes' not in payload
  np.testing.assert_array_equal(data.step_sizes, [1.0])
  assert float(data.scale) == 0.5


def test_ranges_are_rounded_before_the_levels_are_chosen():
  spec = SyntheticSpec((3,), (2,), bits=4)
  variables = _variables(spec)
  # Nearest numbers of 11 bits: 2048 and 4096; levels are 136.5 apart.
  variables['inputs'] = tf.constant([[[2048.9, 2048.0 + 5 * 136.6, 4097.9]]])
  payload = _encode(spec, variables)
  np.testing.assert_array_equal(payload['inputs_range'], [[[2048.0, 4096.0]]])
  data = encoding.decode(spec, payload)
  expected = [[[2048.0, 2048.0 + 5 * 2048 / 15, 4096.0]]]
  np.testing.assert_allclose(data.inputs, expected, rtol=1e-6)


def test_hand_computed_eight_bit_levels():
  spec = SyntheticSpec((3,), (2,), bits=8)
  variables = _variables(spec)
  variables['inputs'] = tf.constant([[[-1.0, 0.0, 1.0]]])
  payload = _encode(spec, variables)
  # 127.5 rounds to the even 128.
  np.testing.assert_array_equal(payload['inputs'], [[[0, 128, 255]]])


@pytest.mark.parametrize('bits', SUPPORTED_BITS)
@pytest.mark.parametrize('resolution', [None, 3])
def test_payload_has_the_stated_shapes_and_bytes(bits, resolution):
  spec = SyntheticSpec(
    (6, 6, 1), (5,), steps=2, batch_size=3, bits=bits, resolution=resolution
  )
  payload = _encode(spec, _variables(spec))
  specs = encoding.message_specs(spec)
  assert list(payload) == list(specs)
  for name, value in payload.items():
    assert value.shape == specs[name].shape, name
    assert value.dtype == specs[name].dtype, name
  pixels = 9 if resolution else 36
  examples = 2 * 3
  if bits == 32:
    expected = examples * 4 * (pixels + 5)
  else:
    # Packed values, rounded up to bytes, and two float16 ranges of two floats.
    packed = -(-pixels * bits // 8) + -(-5 * bits // 8)
    expected = examples * (packed + 8)
  # Two step sizes and the scale.
  assert Payload(spec).data_bytes == expected + 3 * 4
  assert sum(len(v.numpy().tobytes()) for v in payload.values()) == (
    Payload(spec).data_bytes
  )


@pytest.mark.parametrize('bits', SUPPORTED_BITS)
@pytest.mark.parametrize('resolution', [None, 3])
def test_client_learns_on_exactly_what_the_server_decodes(bits, resolution):
  spec = SyntheticSpec(
    (6, 6, 1), (5,), steps=2, batch_size=2, bits=bits, resolution=resolution
  )
  variables = _variables(spec)
  relaxed = tf.function(lambda v: encoding.relax(spec, v))(variables)
  decoded = tf.function(lambda v: encoding.decode(spec, _encode(spec, v)))(
    variables
  )
  for a, b in zip(relaxed, decoded, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('bits', [8, 4])
def test_rounding_error_is_at_most_half_a_level(bits):
  spec = SyntheticSpec((50,), (10,), batch_size=4, bits=bits)
  variables = _variables(spec)
  data = encoding.decode(spec, _encode(spec, variables))
  values = variables['inputs'].numpy()
  level = (values.max(-1) - values.min(-1)) / (2**bits - 1)
  error = np.abs(data.inputs - values).max(-1)
  assert (error <= level / 2 + 1e-6).all()
  assert error.max() > level.min() / 10  # It did round.


def test_constant_values_survive_quantisation():
  spec = SyntheticSpec((4,), (2,), bits=4)
  variables = _variables(spec)
  variables['inputs'] = tf.fill([1, 1, 4], 0.75)
  data = encoding.decode(spec, _encode(spec, variables))
  np.testing.assert_allclose(data.inputs, variables['inputs'])


@pytest.mark.parametrize('bits', [8, 4])
def test_gradient_passes_straight_through_rounding(bits):
  spec = SyntheticSpec((3,), (2,), bits=bits)
  variables = _variables(spec)
  with tf.GradientTape() as tape:
    tape.watch(variables['inputs'])
    total = tf.reduce_sum(
      encoding.relax(spec, variables).inputs * [1.0, 2.0, 3.0]
    )
  np.testing.assert_allclose(
    tape.gradient(total, variables['inputs']), [[[1.0, 2.0, 3.0]]]
  )


def test_upsampling_keeps_a_constant_image_and_interpolates_a_ramp():
  spec = SyntheticSpec((4, 4, 1), (2,), resolution=2)
  variables = _variables(spec)
  variables['inputs'] = tf.constant([0.0, 1.0, 0.0, 1.0], shape=[1, 1, 2, 2, 1])
  image = encoding.relax(spec, variables).inputs[0, 0, :, :, 0]
  # Bilinear with half-pixel centres: 0, 1/4, 3/4, 1.
  np.testing.assert_allclose(image, [[0.0, 0.25, 0.75, 1.0]] * 4)


def test_initial_step_sizes_sum_to_what_was_asked():
  spec = SyntheticSpec((3,), (2,), steps=4)
  variables = encoding.initialize(spec, tf.constant([0, 0]), 0.1, 0.6)
  np.testing.assert_allclose(variables['step_sizes'], [0.15] * 4)


def test_same_seed_same_start():
  spec = SyntheticSpec((3,), (2,))
  a, b, c = _variables(spec, 1), _variables(spec, 1), _variables(spec, 2)
  np.testing.assert_array_equal(a['inputs'], b['inputs'])
  assert np.abs(a['inputs'] - c['inputs']).max() > 0
