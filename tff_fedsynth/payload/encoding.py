"""The bits of synthetic data.

Three views of the same thing, all structures of plain tensors:

* variables: what the client optimizes (float32, unconstrained);
* message: what crosses the network (bits packed into bytes);
* `SyntheticData`: what both sides train on, decoded from the message.
"""

import collections

import numpy as np
import tensorflow as tf

from tff_fedsynth.compression import quantization
from tff_fedsynth.payload import forms
from tff_fedsynth.payload.spec import SyntheticData
from tff_fedsynth.payload.spec import SyntheticSpec


def _token_bits(spec: SyntheticSpec) -> int:
  return max(1, (spec.label_shape[-1] - 1).bit_length())


def message_specs(
  spec: SyntheticSpec,
) -> collections.OrderedDict[str, tf.TensorSpec]:
  """Returns the `tf.TensorSpec`s of a message, in the order they are sent.

  With less than 32 bits, `inputs` and `labels` are uint8 [steps, batch_size, bytes an
  example], and each has a float16 [steps, batch_size, 2] of the example's
  minimum and maximum. Sparse labels have packed `tokens` too, uint8 likewise.
  The step size of a single step is part of the `scale`.
  """
  lead = (spec.steps, spec.batch_size)
  specs = collections.OrderedDict()
  for name, shape in spec.sent_shapes.items():
    if spec.bits == 32:
      specs[name] = tf.TensorSpec(lead + shape, tf.float32)
    else:
      num_bytes = quantization.packed_bytes(int(np.prod(shape)), spec.bits)
      specs[name] = tf.TensorSpec(lead + (num_bytes,), tf.uint8)
      specs[f'{name}_range'] = tf.TensorSpec(lead + (2,), tf.float16)
  if spec.is_sparse:
    kept = int(np.prod(spec.sent_shapes['labels']))
    num_bytes = quantization.packed_bytes(kept, _token_bits(spec))
    specs['tokens'] = tf.TensorSpec(lead + (num_bytes,), tf.uint8)
  if spec.steps > 1:
    specs['step_sizes'] = tf.TensorSpec((spec.steps,), tf.float32)
  specs['scale'] = tf.TensorSpec((), tf.float32)
  return specs


def initialize(
  spec: SyntheticSpec, seed: tf.Tensor, stddev: float, step_size: float
) -> collections.OrderedDict[str, tf.Tensor]:
  """Draws variables to start learning from: Gaussian inputs, uniform soft labels.

  Args:
    spec: The `SyntheticSpec`.
    seed: int32 [2], for stateless random numbers.
    stddev: Standard deviation of the inputs and of the label logits.
    step_size: Sum of the initial step sizes over all steps, so that more steps
      start from an update of the same length.

  Returns:
    float32 tensors `inputs`, `labels` and `step_sizes`.
  """
  seeds = tf.random.experimental.stateless_split(seed, 2)
  variables = collections.OrderedDict()
  for i, (name, shape) in enumerate(spec.learned_shapes.items()):
    variables[name] = stddev * tf.random.stateless_normal(
      (spec.steps, spec.batch_size) + shape, seeds[i]
    )
  variables['step_sizes'] = tf.fill([spec.steps], step_size / spec.steps)
  return variables


def _quantize(spec, sent):
  return quantization.quantize(sent, spec.bits, range_dtype=tf.float16)


def _flat(value):
  return tf.reshape(value, [*value.shape[:2], -1])


def _select(spec, name, value) -> tuple[tf.Tensor, tf.Tensor | None]:
  """Returns the values that are sent, [steps, batch_size, n], and their tokens."""
  if not (spec.is_sparse and name == 'labels'):
    return _flat(value), None
  _, tokens = tf.math.top_k(tf.abs(value), spec.kept_labels)
  return _flat(
    tf.gather(value, tokens, batch_dims=len(value.shape) - 1)
  ), tokens


def _place(spec, name, sent, tokens) -> tf.Tensor:
  """Inverts `_select`, with zeros where nothing was sent."""
  lead = [spec.steps, spec.batch_size]
  if tokens is None:
    return tf.reshape(sent, [*lead, *spec.learned_shapes[name]])
  rows = int(np.prod([*lead, *spec.label_shape[:-1]]))
  row = tf.repeat(tf.range(rows), spec.kept_labels)
  placed = tf.scatter_nd(
    tf.stack([row, tf.reshape(tokens, [-1])], axis=1),
    tf.reshape(sent, [-1]),
    [rows, spec.label_shape[-1]],
  )
  return tf.reshape(placed, [*lead, *spec.label_shape])


def encode(
  spec: SyntheticSpec, variables
) -> collections.OrderedDict[str, tf.Tensor]:
  """Encodes variables into the message that `message_specs` describes.

  The scale is that of the step sizes: 1, or the size of a single step.
  """
  message = collections.OrderedDict()
  for name, shape in spec.sent_shapes.items():
    sent, tokens = _select(spec, name, variables[name])
    if spec.bits == 32:
      message[name] = tf.reshape(sent, [spec.steps, spec.batch_size, *shape])
    else:
      levels, value_range = _quantize(spec, sent)
      message[name] = quantization.pack(levels, spec.bits)
      message[f'{name}_range'] = value_range
    if tokens is not None:
      message['tokens'] = quantization.pack(_flat(tokens), _token_bits(spec))
  step_sizes, scale = variables['step_sizes'], tf.ones([])
  if spec.steps > 1:
    message['step_sizes'] = step_sizes
  else:
    scale *= step_sizes[0]
  message['scale'] = scale
  return message


def _to_data(spec, values, step_sizes, scale, model, weights) -> SyntheticData:
  """Decodes values, sent or learned, as their parameterizations say."""
  inputs, labels = values
  if spec.resolution is not None:
    inputs = forms.enlarge(inputs, spec.input_shape)
  return SyntheticData(
    forms.INPUTS[spec.input_form].decode(inputs, model, weights),
    forms.LABELS[spec.label_form].decode(labels, model, weights),
    step_sizes,
    scale,
  )


def decode(
  spec: SyntheticSpec, message, model=None, weights=None
) -> SyntheticData:
  """Decodes a message; the same code runs on the client and on the server.

  Args:
    spec: The `SyntheticSpec`.
    message: As `message_specs` describes it.
    model: A `LanguageModel`, for parameterizations of text.
    weights: Its `(trainable, non_trainable)` weights, as broadcast, likewise.
  """
  values = []
  for name, shape in spec.sent_shapes.items():
    size = int(np.prod(shape))
    sent, tokens = message[name], None
    if spec.bits != 32:
      levels = quantization.unpack(sent, size, spec.bits)
      sent = quantization.dequantize(
        levels, message[f'{name}_range'], spec.bits
      )
    if spec.is_sparse and name == 'labels':
      tokens = quantization.unpack(message['tokens'], size, _token_bits(spec))
      # Bytes of a malicious client may name tokens that there are not.
      tokens = tf.minimum(tokens, spec.label_shape[-1] - 1)
    values.append(_place(spec, name, sent, tokens))
  step_sizes = message['step_sizes'] if spec.steps > 1 else tf.ones([1])
  return _to_data(spec, values, step_sizes, message['scale'], model, weights)


def relax(
  spec: SyntheticSpec, variables, model=None, weights=None
) -> SyntheticData:
  """Returns what the server will decode, differentiable in the variables.

  Rounding, and leaving small labels out, has no useful gradient, so it is
  passed straight through (Bengio et al. 2013, arXiv 1308.3432). The scale is
  1: it is chosen after learning. Arguments are those of `decode`.
  """
  values = []
  for name in spec.learned_shapes:
    value = variables[name]
    sent, tokens = _select(spec, name, value)
    if spec.bits != 32:
      levels, value_range = _quantize(spec, sent)
      sent = quantization.dequantize(levels, value_range, spec.bits)
    if spec.bits != 32 or tokens is not None:
      decoded = _place(spec, name, sent, tokens)
      value += tf.stop_gradient(decoded - value)
    values.append(value)
  step_sizes = variables['step_sizes']
  return _to_data(spec, values, step_sizes, tf.ones([]), model, weights)


def to_bytes(message, num_bytes: int) -> tf.Tensor:
  """Joins all bits of a message, with zeros behind them, uint8 [num_bytes]."""
  parts = [
    tf.reshape(tf.bitcast(tensor, tf.uint8), [-1])
    for tensor in tf.nest.flatten(message)
  ]
  joined = tf.concat(parts, axis=0)
  return tf.pad(joined, [[0, num_bytes - joined.shape[0]]])


def from_bytes(joined: tf.Tensor, specs):
  """Returns the message, as its `tf.TensorSpec`s say, that `to_bytes` joined."""
  flat = tf.nest.flatten(specs)
  sizes = [spec.shape.num_elements() * spec.dtype.size for spec in flat]
  parts = tf.split(joined[: sum(sizes)], sizes)
  message = []
  for part, spec in zip(parts, flat):
    each = [] if spec.dtype.size == 1 else [spec.dtype.size]
    message.append(
      tf.bitcast(tf.reshape(part, [*spec.shape, *each]), spec.dtype)
    )
  return tf.nest.pack_sequence_as(specs, message)
