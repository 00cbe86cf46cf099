"""A codec on clients, as a TFF computation."""

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import options
from tff_fedsynth.compression import codec as codec_lib


def bits_per_parameter(codec: codec_lib.Codec, value_type: tff.Type) -> float:
  """Bits of a message over numbers of a value.

  Raises:
    CodecError: If the codec does not fit the shapes of the value.
    TypeError: If the value is not a structure of float32 tensors.
  """
  shapes = _shapes(codec, value_type)
  parameters = sum(codec_lib.sizes(shapes))
  return np.float32(8 * codec.message_bytes(shapes) / parameters)


def _shapes(codec, value_type) -> codec_lib.Shapes:
  specs = tf.nest.flatten(tff.types.type_to_tf_tensor_specs(value_type))
  codec_lib.check_dtypes(specs, codec)
  shapes = codec_lib.known_shapes(specs)
  codec.check_fits(shapes)
  return shapes


def build_seeds(seed: int) -> tuple[tff.Computation, tff.Computation]:
  """The first state of a seed and the number of a round, int32 [2]; and the next.

  Raises:
    OptionError: If the seed is no 32-bit integer.
  """
  options.check_seed(seed)

  @tff.tensorflow.computation
  def initial_state():
    return tf.constant([seed, 0], tf.int32)

  @tff.tensorflow.computation(initial_state.type_signature.result)
  def next_state(state):
    return state + [0, 1]

  return initial_state, next_state


def build_encode(
  codec: codec_lib.Codec, value_type: tff.Type
) -> tff.Computation:
  """From a state of `build_seeds` and a value to the message and its distortion.

  The distortion is |decoded - value|^2 / |value|^2, float32.

  Raises:
    CodecError, TypeError: See `bits_per_parameter`.
  """
  shapes = _shapes(codec, value_type)

  @tff.tensorflow.computation(tff.TensorType(np.int32, [2]), value_type)
  def encode(state, value):
    values = tf.nest.flatten(value)
    # All clients receive one seed; their data make it their own.
    total = tf.add_n([tf.reduce_sum(v) for v in values])
    # Folding in alone would leave the first of two numbers as it is.
    folded = tf.random.experimental.stateless_fold_in(
      state, tf.bitcast(total, tf.int32)
    )
    seed = tf.random.stateless_uniform(
      [], folded, minval=None, maxval=None, dtype=tf.int32
    )
    message = codec.encode(values, seed)
    decoded = codec.decode(message, shapes)
    error = tf.add_n([tf.nn.l2_loss(d - v) for d, v in zip(decoded, values)])
    norm = tf.add_n([tf.nn.l2_loss(v) for v in values])
    return message, tf.math.divide_no_nan(error, norm)

  return encode
