"""Recurrent language models, by name: tokens in, logits of the next token out.

Sizes and layers are those of TFF's own baselines; `tasks` chooses them.
"""

import tensorflow as tf

keras = tf.keras


def _unit_forget_bias(shape, dtype=None):
  """Zeros, but ones for the forget gate (Jozefowicz et al. 2015)."""
  units = shape[0] // 4
  return tf.concat(
    [tf.zeros(units, dtype), tf.ones(units, dtype), tf.zeros(2 * units, dtype)],
    axis=0,
  )


@keras.utils.register_keras_serializable(package='tff_fedsynth')
class LSTM(keras.layers.Layer):
  """Keras' LSTM over whole sequences, on a plain `tf.while_loop`.

  Keras' own fails when it is differentiated twice over several steps inside
  TFF's runtime. Weights, gates and the treatment of masks are the same: the
  state and output of a masked position are those of the one before.
  """

  def __init__(
    self,
    units: int,
    kernel_initializer='glorot_uniform',
    recurrent_initializer='orthogonal',
    **kwargs,
  ):
    super().__init__(**kwargs)
    self.units = units
    self.kernel_initializer = keras.initializers.get(kernel_initializer)
    self.recurrent_initializer = keras.initializers.get(recurrent_initializer)
    self.supports_masking = True

  def build(self, input_shape):
    size = 4 * self.units
    self.kernel = self.add_weight(
      'kernel', (input_shape[-1], size), initializer=self.kernel_initializer
    )
    self.recurrent_kernel = self.add_weight(
      'recurrent_kernel',
      (self.units, size),
      initializer=self.recurrent_initializer,
    )
    self.bias = self.add_weight('bias', (size,), initializer=_unit_forget_bias)
    super().build(input_shape)

  def call(self, inputs, mask=None):
    batch, length = tf.shape(inputs)[0], tf.shape(inputs)[1]
    # The part that does not depend on the state, for all positions at once.
    projected = tf.transpose(
      tf.tensordot(inputs, self.kernel, 1) + self.bias, [1, 0, 2]
    )
    # The gradient of projected[t] would be as large as projected, at every t.
    steps = tf.TensorArray(inputs.dtype, length).unstack(projected)
    is_kept = None if mask is None else tf.transpose(mask)[..., tf.newaxis]
    zeros = tf.zeros([batch, self.units], inputs.dtype)
    outputs = tf.TensorArray(
      inputs.dtype, length, element_shape=[None, self.units]
    )

    def step(t, h, c, outputs):
      gates = steps.read(t) + tf.matmul(h, self.recurrent_kernel)
      i, f, g, o = tf.split(gates, 4, axis=-1)
      new_c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
      new_h = tf.sigmoid(o) * tf.tanh(new_c)
      if is_kept is not None:
        new_c = tf.where(is_kept[t], new_c, c)
        new_h = tf.where(is_kept[t], new_h, h)
      return t + 1, new_h, new_c, outputs.write(t, new_h)

    *_, outputs = tf.while_loop(
      lambda t, *_: t < length, step, (0, zeros, zeros, outputs)
    )
    result = tf.transpose(outputs.stack(), [1, 0, 2])
    return tf.ensure_shape(result, [None, None, self.units])

  def get_config(self):
    serialize = keras.initializers.serialize
    return {
      **super().get_config(),
      'units': self.units,
      'kernel_initializer': serialize(self.kernel_initializer),
      'recurrent_initializer': serialize(self.recurrent_initializer),
    }


def _layers(layers, vocabulary_size, embedding_size, seed, name):
  """A model of an embedding and layers, drawn from the seed alone."""
  model = keras.Sequential(
    [
      keras.Input([None], dtype=tf.int64),
      keras.layers.Embedding(vocabulary_size, embedding_size, mask_zero=True),
      *layers,
      keras.layers.Dense(vocabulary_size),
    ],
    name=name,
  )
  initializers = keras.initializers
  for i, weight in enumerate(model.weights):
    own = 1000 * seed + i
    if 'embeddings' in weight.name:
      weight.assign(initializers.RandomUniform(seed=own)(weight.shape))
    elif 'recurrent_kernel' in weight.name:
      weight.assign(initializers.Orthogonal(seed=own)(weight.shape))
    elif 'kernel' in weight.name:
      weight.assign(initializers.GlorotUniform(seed=own)(weight.shape))
  return model


def character_lstm(
  vocabulary_size: int,
  units: int = 256,
  num_layers: int = 2,
  embedding_size: int = 8,
  seed: int = 0,
) -> keras.Model:
  """Of Shakespeare (McMahan et al. 2017, section 3).

  820,522 weights with 90 tokens, as in TFF.
  """
  layers = [LSTM(units) for _ in range(num_layers)]
  return _layers(
    layers, vocabulary_size, embedding_size, seed, 'character_lstm'
  )


def word_lstm(
  vocabulary_size: int,
  units: int = 670,
  embedding_size: int = 96,
  seed: int = 0,
) -> keras.Model:
  """Of Stack Overflow (Reddi et al. 2020, table 9).

  4,050,748 weights with 10,004 tokens, as in TFF.
  """
  layers = [LSTM(units), keras.layers.Dense(embedding_size)]
  return _layers(layers, vocabulary_size, embedding_size, seed, 'word_lstm')
