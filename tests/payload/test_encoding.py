import collections

import numpy as np
import pytest
import tensorflow as tf

from tff_fedsynth import SyntheticPayload
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload.spec import SUPPORTED_BITS
from tff_fedsynth.payload.spec import SyntheticSpec
from tff_fedsynth.payload.spec import SyntheticSpecError


def _variables(spec, seed=0):
  return encoding.initialize(spec, tf.constant([seed, 0]), 1.0, 0.5)


def test_hand_computed_four_bit_message():
  spec = SyntheticSpec((3,), (2,), bits=4)
  variables = dict(
    inputs=tf.constant([[[0.0, 15.0, 4.0]]]),
    labels=tf.constant([[[-1.0, 2.0]]]),
    step_sizes=tf.constant([0.5]),
  )
  message = encoding.encode(spec, variables)
  # Levels 0, 15, 4: two a byte, the first in the low half, padded with 0.
  np.testing.assert_array_equal(message['inputs'], [[[0 + 15 * 16, 4]]])
  np.testing.assert_array_equal(message['inputs_range'], [[[0.0, 15.0]]])
  np.testing.assert_array_equal(message['labels'], [[[0 + 15 * 16]]])
  np.testing.assert_array_equal(message['labels_range'], [[[-1.0, 2.0]]])
  data = encoding.decode(spec, message)
  np.testing.assert_array_equal(data.inputs, [[[0.0, 15.0, 4.0]]])
  np.testing.assert_allclose(
    data.labels, [[np.exp([-1, 2]) / np.exp([-1, 2]).sum()]], rtol=1e-6
  )
  # The size of the only step is in the scale.
  assert 'step_sizes' not in message
  np.testing.assert_array_equal(data.step_sizes, [1.0])
  assert float(data.scale) == 0.5


def test_ranges_are_rounded_before_the_levels_are_chosen():
  spec = SyntheticSpec((3,), (2,), bits=4)
  variables = _variables(spec)
  # Nearest numbers of 11 bits: 2048 and 4096; levels are 136.5 apart.
  variables['inputs'] = tf.constant([[[2048.9, 2048.0 + 5 * 136.6, 4097.9]]])
  message = encoding.encode(spec, variables)
  np.testing.assert_array_equal(message['inputs_range'], [[[2048.0, 4096.0]]])
  data = encoding.decode(spec, message)
  expected = [[[2048.0, 2048.0 + 5 * 2048 / 15, 4096.0]]]
  np.testing.assert_allclose(data.inputs, expected, rtol=1e-6)


@pytest.mark.parametrize('bits', SUPPORTED_BITS)
@pytest.mark.parametrize('resolution', [None, 3])
def test_a_message_has_the_stated_bytes_and_is_what_was_learned(
  bits, resolution
):
  spec = SyntheticSpec(
    (6, 6, 1), (5,), steps=2, batch_size=3, bits=bits, resolution=resolution
  )
  variables = _variables(spec)
  message = encoding.encode(spec, variables)
  specs = encoding.message_specs(spec)
  assert list(message) == list(specs)
  for name, value in message.items():
    assert specs[name].is_compatible_with(value), name
  pixels = 9 if resolution else 36
  examples = 2 * 3
  if bits == 32:
    expected = examples * 4 * (pixels + 5)
  else:
    # Packed values, rounded up to bytes, and two float16 ranges of two floats.
    packed = -(-pixels * bits // 8) + -(-5 * bits // 8)
    expected = examples * (packed + 8)
  # Two step sizes and the scale.
  expected += 3 * 4
  assert SyntheticPayload(spec).data_bytes == expected
  assert sum(len(v.numpy().tobytes()) for v in message.values()) == expected
  relaxed = encoding.relax(spec, variables)
  for a, b in zip(relaxed, encoding.decode(spec, message), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_rounding_is_to_the_nearest_level_and_has_a_gradient_of_one():
  spec = SyntheticSpec((50,), (10,), batch_size=4, bits=4)
  variables = _variables(spec)
  values = variables['inputs'].numpy()
  weights = np.arange(50, dtype=np.float32)
  with tf.GradientTape() as tape:
    tape.watch(variables['inputs'])
    rounded = encoding.relax(spec, variables).inputs
    total = tf.reduce_sum(rounded * weights)
  np.testing.assert_allclose(
    tape.gradient(total, variables['inputs']),
    np.broadcast_to(weights, values.shape),
  )
  level = (values.max(-1) - values.min(-1)) / 15
  error = np.abs(rounded - values).max(-1)
  assert (error <= level / 2 + 1e-6).all()
  assert error.max() > level.min() / 10  # It did round.


def test_constant_values_survive_quantisation():
  spec = SyntheticSpec((4,), (2,), bits=4)
  variables = _variables(spec)
  variables['inputs'] = tf.fill([1, 1, 4], 0.75)
  data = encoding.decode(spec, encoding.encode(spec, variables))
  np.testing.assert_allclose(data.inputs, variables['inputs'])


def test_upsampling_interpolates_a_ramp():
  spec = SyntheticSpec((4, 4, 1), (2,), resolution=2)
  variables = _variables(spec)
  variables['inputs'] = tf.constant([0.0, 1.0, 0.0, 1.0], shape=[1, 1, 2, 2, 1])
  image = encoding.relax(spec, variables).inputs[0, 0, :, :, 0]
  # Bilinear with half-pixel centres: 0, 1/4, 3/4, 1.
  np.testing.assert_allclose(image, [[0.0, 0.25, 0.75, 1.0]] * 4)


def test_the_start_follows_the_seed_and_step_sizes_have_the_sum_asked_for():
  spec = SyntheticSpec((3,), (2,), steps=4)
  a, b, c = _variables(spec, 1), _variables(spec, 1), _variables(spec, 2)
  np.testing.assert_array_equal(a['inputs'], b['inputs'])
  assert np.abs(a['inputs'] - c['inputs']).max() > 0
  np.testing.assert_allclose(a['step_sizes'], [0.125] * 4)


def test_messages_come_back_from_bytes_with_zeros_behind_them():
  message = collections.OrderedDict(
    z=tf.constant([[1.5, -2.0]]),
    a=collections.OrderedDict(
      bits=tf.constant([3, 255], tf.uint8), seed=tf.constant(-7)
    ),
    half=tf.constant([0.5], tf.float16),
    none=tf.zeros([0]),
  )
  joined = encoding.to_bytes(message, 20)
  assert joined.dtype == tf.uint8
  # Fields by name: 2 + 4 bytes of a, 2 of half, none of none, 8 of z.
  assert joined[:2].numpy().tolist() == [3, 255]
  assert joined[8:12].numpy().tobytes() == np.float32(1.5).tobytes()
  assert joined[16:].numpy().tolist() == [0] * 4
  specs = tf.nest.map_structure(tf.TensorSpec.from_tensor, message)
  tf.nest.map_structure(
    np.testing.assert_array_equal, message, encoding.from_bytes(joined, specs)
  )


@pytest.mark.parametrize(
  'shape, fields, message',
  [
    ((6, 6, 1), dict(steps=0), 'steps must be at least 1'),
    ((6, 6, 1), dict(bits=5), 'bits must be one of 32, 16, 8, 4, 2, found 5'),
    ((6, 6, 1), dict(resolution=9), 'resolution must be between 1 and 6'),
    ((36,), dict(resolution=3), 'Leave resolution unset'),
  ],
)
def test_specs_that_cannot_be_are_refused(shape, fields, message):
  with pytest.raises(SyntheticSpecError, match=message):
    SyntheticSpec(shape, (5,), **fields)
