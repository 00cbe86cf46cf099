"""An LSTM that is differentiated twice at several times the speed of Keras' own."""

import tensorflow as tf

keras = tf.keras


def _unit_forget_bias(shape, dtype=None):
  """Zeros, but ones for the forget gate (Jozefowicz et al. 2015)."""
  units = shape[0] // 4
  return tf.concat(
    [tf.zeros(units, dtype), tf.ones(units, dtype), tf.zeros(2 * units, dtype)],
    axis=0,
  )


# Sequences up to this length are differentiated twice without a loop: twice as
# fast, for a larger graph.
_MAX_UNROLLED = 40


def _cell(gates, c):
  """Next state and cell (Hochreiter & Schmidhuber 1997), gates as in Keras."""
  i, f, g, o = tf.split(gates, 4, axis=-1)
  c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
  return tf.sigmoid(o) * tf.tanh(c), c


def _run_plain(inputs, kernel, recurrent_kernel, bias):
  """An LSTM step by step: [time, batch, size] to states [time, batch, units].

  Differentiable any number of times.
  """
  batch, units = tf.shape(inputs)[1], recurrent_kernel.shape[0]
  # The part that does not depend on the state, for all positions at once.
  projected = tf.tensordot(inputs, kernel, 1) + bias
  zeros = tf.zeros([batch, units], inputs.dtype)
  if inputs.shape[0] is not None and inputs.shape[0] <= _MAX_UNROLLED:
    h, c, states = zeros, zeros, []
    for position in tf.unstack(projected):
      h, c = _cell(position + tf.matmul(h, recurrent_kernel), c)
      states.append(h)
    return tf.stack(states)

  length = tf.shape(inputs)[0]
  # The gradient of projected[t] would be as large as projected, at every t.
  positions = tf.TensorArray(inputs.dtype, length).unstack(projected)
  states = tf.TensorArray(inputs.dtype, length, element_shape=[None, units])

  def step(t, h, c, states):
    h, c = _cell(positions.read(t) + tf.matmul(h, recurrent_kernel), c)
    return t + 1, h, c, states.write(t, h)

  *_, states = tf.while_loop(
    lambda t, *_: t < length, step, (0, zeros, zeros, states)
  )
  return states.stack()


def _run_fused_op(inputs, kernel, recurrent_kernel, bias):
  """`_run_plain` in one op: gates, cells and states, all [time, batch, units]."""
  units = recurrent_kernel.shape[0]
  zeros = tf.zeros([tf.shape(inputs)[1], units])
  return tf.raw_ops.BlockLSTMV2(
    seq_len_max=tf.shape(inputs, tf.int64)[0],
    x=inputs,
    cs_prev=zeros,
    h_prev=zeros,
    w=tf.concat([kernel, recurrent_kernel], 0),
    wci=tf.zeros([units]),
    wcf=tf.zeros([units]),
    wco=tf.zeros([units]),
    b=bias,
    use_peephole=False,
  )


def _before(states):
  """What each position starts from: the states of the one before."""
  return tf.concat([tf.zeros_like(states[:1]), states[:-1]], 0)


@tf.custom_gradient
def _gradient(inputs, kernel, recurrent_kernel, bias, upstream):
  """The gradient of `_run_plain`, a multiple faster than TF's own.

  Which multiplies small batches with a transposed kernel, and adds up the
  kernel's gradient, at every position.
  """
  sources = (inputs, kernel, recurrent_kernel, bias)
  op = _run_fused_op(*sources)
  # d gates / d (cell, cell, cell, state), and d cell / d state.
  by_gates = tf.concat(
    [
      op.ci * op.i * (1 - op.i),
      _before(op.cs) * op.f * (1 - op.f),
      op.i * (1 - tf.square(op.ci)),
      op.co * op.o * (1 - op.o),
    ],
    axis=-1,
  )
  by_state = op.o * (1 - tf.square(op.co))
  transposed = tf.transpose(recurrent_kernel)
  length = tf.shape(inputs)[0]

  def step(t, d_h, d_c, d_gates):
    d_h += upstream[t]
    d_c += d_h * by_state[t]
    here = tf.concat([d_c, d_c, d_c, d_h], -1) * by_gates[t]
    d_gates = d_gates.write(t, here)
    return t - 1, tf.matmul(here, transposed), d_c * op.f[t], d_gates

  zeros = tf.zeros_like(upstream[0])
  *_, d_gates = tf.while_loop(
    lambda t, *_: t >= 0,
    step,
    (length - 1, zeros, zeros, tf.TensorArray(inputs.dtype, length)),
  )
  d_gates = d_gates.stack()
  sum_over_positions = lambda values: tf.tensordot(
    values, d_gates, [[0, 1], [0, 1]]
  )
  gradients = (
    tf.tensordot(d_gates, tf.transpose(kernel), 1),
    sum_over_positions(inputs),
    sum_over_positions(_before(op.h)),
    tf.reduce_sum(d_gates, [0, 1]),
  )

  def backward(*second):
    with tf.GradientTape() as outer:
      outer.watch((sources, upstream))
      with tf.GradientTape() as inner:
        inner.watch(sources)
        states = _run_plain(*sources)
      gradients = inner.gradient(states, sources, upstream)
    return outer.gradient(gradients, (*sources, upstream), second)

  return gradients, backward


@tf.custom_gradient
def _run_fused(inputs, kernel, recurrent_kernel, bias):
  """`_run_plain` at several times the speed; float32 only.

  Second derivatives, which TF does not have for its op, are `_run_plain`'s.
  """
  sources = (inputs, kernel, recurrent_kernel, bias)

  def backward(upstream):
    # Identities: tensors of the graph of the gradient, which a gradient of the
    # gradient can reach.
    return _gradient(*map(tf.identity, sources), upstream)

  return _run_fused_op(*sources).h, backward


@keras.utils.register_keras_serializable(package='tff_fedsynth')
class LSTM(keras.layers.Layer):
  """Keras' LSTM over whole sequences, with second derivatives.

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
    if mask is not None:
      # The state skips masked positions: so they are moved behind the others,
      order = tf.argsort(tf.cast(mask, tf.int32), 1, 'DESCENDING', stable=True)
      inputs = tf.gather(inputs, order, batch_dims=1)
    is_float32 = inputs.dtype == tf.float32
    states = (_run_fused if is_float32 else _run_plain)(
      tf.transpose(inputs, [1, 0, 2]),
      *map(
        tf.convert_to_tensor, (self.kernel, self.recurrent_kernel, self.bias)
      ),
    )
    states = tf.transpose(states, [1, 0, 2])
    if mask is not None:
      # and every position takes the state of the last kept one; none: zeros.
      kept = tf.cumsum(tf.cast(mask, tf.int32), 1)
      states = tf.gather(states, tf.maximum(kept - 1, 0), batch_dims=1)
      states = tf.where(kept[..., tf.newaxis] > 0, states, 0)
    return tf.ensure_shape(states, [None, None, self.units])

  def get_config(self):
    serialize = keras.initializers.serialize
    return {
      **super().get_config(),
      'units': self.units,
      'kernel_initializer': serialize(self.kernel_initializer),
      'recurrent_initializer': serialize(self.recurrent_initializer),
    }
