"""What a FedSynth client learns and uploads: its spec, arrays and encoding.

Three forms of the same thing, all structures of plain tensors:

* variables: what the client optimises (float32, unconstrained);
* payload: what crosses the network (bits packed into bytes);
* `SyntheticData`: what both sides train on, decoded from the payload.
"""

import collections
import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tff_fedsynth import decoders
from tff_fedsynth import forms
from tff_fedsynth import options
from tff_fedsynth import quantization

SUPPORTED_BITS = (32, 16, 8, 4, 2)


# An image has no more channels, which tells them from rows.
_MAX_CHANNELS = 4


class SyntheticSpecError(options.OptionError):
  """A `SyntheticSpec` that cannot be built, or does not fit its model."""


def _has_channels_first(shape: tuple[int, ...]) -> bool:
  return shape[0] <= _MAX_CHANNELS < min(shape[1:])


def image_size(shape: tuple[int, ...]) -> tuple[int, int] | None:
  """Height and width of inputs that are images; `None` for others.

  Images are (height, width, channels) or (channels, height, width).
  """
  if len(shape) != 3:
    return None
  return tuple(shape[1:]) if _has_channels_first(shape) else tuple(shape[:2])


class SyntheticData(NamedTuple):
  """Synthetic batches, ready to be replayed (Hu et al. 2022, section 3).

  Attributes:
    inputs: float [steps, batch_size, *input_shape]; distributions over tokens,
      [steps, batch_size, time, tokens], for two of the forms of text.
    labels: float [steps, batch_size, *label_shape] or [steps, batch_size, time,
      tokens]; distributions, or as the form of labels has it.
    step_sizes: float [steps], the learning rate of each replayed step.
    scale: float [] (3SFC's one float, Zhou et al. 2023) or float [weight
      tensors]; multiplies the replayed update.
  """

  inputs: tf.Tensor
  labels: tf.Tensor
  step_sizes: tf.Tensor
  scale: tf.Tensor


@dataclasses.dataclass(frozen=True)
class SyntheticSpec:
  """Shapes and encoding of one client's synthetic data.

  Attributes:
    input_shape: Shape of one input as it is learned, without the batch
      dimension: that of the model's inputs, or `(time, size)` for text.
    label_shape: Shape of one label as it is learned: `(classes,)`, or `(time,
      size)` for text.
    input_form: What inputs stand for: a name in `forms.INPUTS`.
    label_form: What labels stand for: a name in `forms.LABELS`.
    steps: Number of synthetic batches, replayed in order, one SGD step each.
    batch_size: Examples in a synthetic batch.
    bits: Bits a value of inputs and labels on the wire: 32 (float), 16, 8, 4, 2.
    resolution: Side of the square that image inputs are learned and sent at;
      both sides decode it. `None` is the full resolution.
    decoder: How: a name in `decoders.DECODERS`.
    layer_scales: Number of weight tensors of the model, to send a final scale
      for each; 0 sends one for all.
    kept_labels: Values of a position that are sent, with their tokens, by a
      sparse form of labels.

  Raises:
    SyntheticSpecError: If a field is out of its range.
  """

  input_shape: tuple[int, ...]
  label_shape: tuple[int, ...]
  input_form: str = options.limited('values', choices=forms.INPUTS)
  label_form: str = options.limited('distributions', choices=forms.LABELS)
  steps: int = options.limited(1, minimum=1)
  batch_size: int = options.limited(1, minimum=1)
  bits: int = options.limited(32, choices=SUPPORTED_BITS)
  resolution: int | None = options.limited(None, minimum=1)
  decoder: str = options.limited('bilinear', choices=decoders.DECODERS)
  layer_scales: int = options.limited(0, minimum=0)
  kept_labels: int = options.limited(8, minimum=1)

  def __post_init__(self):
    options.check(self, SyntheticSpecError)
    if self.is_sparse and self.kept_labels > self.label_shape[-1]:
      raise SyntheticSpecError(
        f'kept_labels={self.kept_labels} is more than the '
        f'{self.label_shape[-1]} tokens of a position. Lower it.',
        'kept_labels',
      )
    if self.resolution is None:
      return
    size = image_size(self.input_shape)
    if size is None:
      raise SyntheticSpecError(
        'resolution is for image inputs of shape (height, width, channels) or '
        f'(channels, height, width), but the input shape is {self.input_shape}. '
        'Leave resolution unset.',
        'resolution',
      )
    if not 1 <= self.resolution <= min(size):
      raise SyntheticSpecError(
        f'resolution must be between 1 and {min(size)} for inputs of shape '
        f'{self.input_shape}, found {self.resolution}.',
        'resolution',
      )

  @property
  def learned_input_shape(self) -> tuple[int, ...]:
    """Shape of one input as it is learned and sent."""
    if self.resolution is None:
      return self.input_shape
    sides = (self.resolution, self.resolution)
    if _has_channels_first(self.input_shape):
      return (self.input_shape[0], *sides)
    return (*sides, self.input_shape[-1])

  @property
  def scale_shape(self) -> tuple[int, ...]:
    """Shape of the final scale."""
    return (self.layer_scales,) if self.layer_scales else ()

  @property
  def is_sparse(self) -> bool:
    """Whether only the largest labels of each position are sent."""
    return forms.LABELS[self.label_form].is_sparse

  @property
  def loss_fn(self):
    """The loss of a synthetic batch, for `replay.replay`."""
    return forms.loss_of(self.input_form, self.label_form)

  @property
  def payload_bytes(self) -> int:
    """Size of one payload in bytes."""
    return sum(
      s.shape.num_elements() * s.dtype.size
      for s in payload_specs(self).values()
    )


def _learned_shapes(spec: SyntheticSpec) -> dict[str, tuple[int, ...]]:
  return {
    'inputs': spec.learned_input_shape,
    'labels': spec.label_shape,
  }


def _sent_shapes(spec: SyntheticSpec) -> dict[str, tuple[int, ...]]:
  shapes = _learned_shapes(spec)
  if spec.is_sparse:
    shapes['labels'] = (*spec.label_shape[:-1], spec.kept_labels)
  return shapes


def _token_bits(spec: SyntheticSpec) -> int:
  return max(1, (spec.label_shape[-1] - 1).bit_length())


def payload_specs(
  spec: SyntheticSpec,
) -> collections.OrderedDict[str, tf.TensorSpec]:
  """The `tf.TensorSpec`s of a payload, in the order they are sent.

  With less than 32 bits, `inputs` and `labels` are uint8 [steps, batch_size, bytes an
  example], and each has a float16 [steps, batch_size, 2] of the example's
  minimum and maximum. Sparse labels have packed `tokens` too, uint8 likewise.
  The step size of a single step is part of the `scale`.
  """
  lead = (spec.steps, spec.batch_size)
  specs = collections.OrderedDict()
  for name, shape in _sent_shapes(spec).items():
    if spec.bits == 32:
      specs[name] = tf.TensorSpec(lead + shape, tf.float32)
    else:
      num_bytes = quantization.packed_bytes(int(np.prod(shape)), spec.bits)
      specs[name] = tf.TensorSpec(lead + (num_bytes,), tf.uint8)
      specs[f'{name}_range'] = tf.TensorSpec(lead + (2,), tf.float16)
  if spec.is_sparse:
    kept = int(np.prod(_sent_shapes(spec)['labels']))
    num_bytes = quantization.packed_bytes(kept, _token_bits(spec))
    specs['tokens'] = tf.TensorSpec(lead + (num_bytes,), tf.uint8)
  if spec.steps > 1:
    specs['step_sizes'] = tf.TensorSpec((spec.steps,), tf.float32)
  specs['scale'] = tf.TensorSpec(spec.scale_shape, tf.float32)
  return specs


def initialize(
  spec: SyntheticSpec, seed: tf.Tensor, stddev: float, step_size: float
) -> collections.OrderedDict[str, tf.Tensor]:
  """Variables to start learning from: Gaussian inputs, uniform soft labels.

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
  for i, (name, shape) in enumerate(_learned_shapes(spec).items()):
    variables[name] = stddev * tf.random.stateless_normal(
      (spec.steps, spec.batch_size) + shape, seeds[i]
    )
  variables['step_sizes'] = tf.fill([spec.steps], step_size / spec.steps)
  return variables


def all_finite(tensors) -> tf.Tensor:
  """Whether no float tensor of a list holds a NaN or infinity; bool []."""
  return tf.reduce_all(
    [
      tf.reduce_all(tf.math.is_finite(t))
      for t in tensors
      if t.dtype.is_floating
    ]
  )


def _quantize(spec, sent):
  return quantization.quantize(sent, spec.bits, range_dtype=tf.float16)


def _flat(value):
  return tf.reshape(value, [*value.shape[:2], -1])


def _select(spec, name, value) -> tuple[tf.Tensor, tf.Tensor | None]:
  """The values that are sent, [steps, batch_size, n], and their tokens."""
  if not (spec.is_sparse and name == 'labels'):
    return _flat(value), None
  _, tokens = tf.math.top_k(tf.abs(value), spec.kept_labels)
  return _flat(
    tf.gather(value, tokens, batch_dims=len(value.shape) - 1)
  ), tokens


def _place(spec, name, sent, tokens) -> tf.Tensor:
  """Inverse of `_select`: zeros where nothing was sent."""
  lead = [spec.steps, spec.batch_size]
  if tokens is None:
    return tf.reshape(sent, [*lead, *_learned_shapes(spec)[name]])
  rows = int(np.prod([*lead, *spec.label_shape[:-1]]))
  row = tf.repeat(tf.range(rows), spec.kept_labels)
  placed = tf.scatter_nd(
    tf.stack([row, tf.reshape(tokens, [-1])], axis=1),
    tf.reshape(sent, [-1]),
    [rows, spec.label_shape[-1]],
  )
  return tf.reshape(placed, [*lead, *spec.label_shape])


def encode(
  spec: SyntheticSpec, variables, scale: tf.Tensor
) -> collections.OrderedDict[str, tf.Tensor]:
  """Encodes variables into the payload that `payload_specs` describes."""
  payload = collections.OrderedDict()
  for name, shape in _sent_shapes(spec).items():
    sent, tokens = _select(spec, name, variables[name])
    if spec.bits == 32:
      payload[name] = tf.reshape(sent, [spec.steps, spec.batch_size, *shape])
    else:
      levels, value_range = _quantize(spec, sent)
      payload[name] = quantization.pack(levels, spec.bits)
      payload[f'{name}_range'] = value_range
    if tokens is not None:
      payload['tokens'] = quantization.pack(_flat(tokens), _token_bits(spec))
  step_sizes = variables['step_sizes']
  if spec.steps > 1:
    payload['step_sizes'] = step_sizes
  else:
    scale *= step_sizes[0]
  payload['scale'] = scale
  return payload


def _to_data(spec, values, step_sizes, scale, model, weights) -> SyntheticData:
  """What encoded and learned data share: decoders and the forms."""
  inputs, labels = values
  if spec.resolution is not None:
    # Steps and batches are folded, as decoders work on rank 4.
    inputs = tf.reshape(inputs, [-1, *spec.learned_input_shape])
    channels_first = _has_channels_first(spec.input_shape)
    if channels_first:
      inputs = tf.transpose(inputs, [0, 2, 3, 1])
    inputs = decoders.DECODERS[spec.decoder](
      inputs, image_size(spec.input_shape)
    )
    if channels_first:
      inputs = tf.transpose(inputs, [0, 3, 1, 2])
    inputs = tf.reshape(
      inputs, [spec.steps, spec.batch_size, *spec.input_shape]
    )
  return SyntheticData(
    forms.INPUTS[spec.input_form].decode(inputs, model, weights),
    forms.LABELS[spec.label_form].decode(labels, model, weights),
    step_sizes,
    scale,
  )


def decode(
  spec: SyntheticSpec, payload, model=None, weights=None
) -> SyntheticData:
  """Decodes a payload; the same code runs on the client and on the server.

  Args:
    spec: The `SyntheticSpec`.
    payload: As `payload_specs` describes it.
    model: A `LanguageModel`, for forms of text.
    weights: Its `(trainable, non_trainable)` weights, as broadcast, likewise.
  """
  values = []
  for name, shape in _sent_shapes(spec).items():
    size = int(np.prod(shape))
    sent, tokens = payload[name], None
    if spec.bits != 32:
      levels = quantization.unpack(sent, size, spec.bits)
      sent = quantization.dequantize(
        levels, payload[f'{name}_range'], spec.bits
      )
    if spec.is_sparse and name == 'labels':
      tokens = quantization.unpack(payload['tokens'], size, _token_bits(spec))
      # Bytes of a liar may name tokens that there are not.
      tokens = tf.minimum(tokens, spec.label_shape[-1] - 1)
    values.append(_place(spec, name, sent, tokens))
  step_sizes = payload['step_sizes'] if spec.steps > 1 else tf.ones([1])
  return _to_data(spec, values, step_sizes, payload['scale'], model, weights)


def relax(
  spec: SyntheticSpec, variables, model=None, weights=None
) -> SyntheticData:
  """The data that the server will decode, differentiable in the variables.

  Rounding, and leaving small labels out, has no useful gradient, so it is
  passed straight through (Bengio et al. 2013, arXiv 1308.3432). The scale is
  1: it is chosen after learning. Arguments are those of `decode`.
  """
  values = []
  for name in _learned_shapes(spec):
    value = variables[name]
    sent, tokens = _select(spec, name, value)
    if spec.bits != 32:
      levels, value_range = _quantize(spec, sent)
      sent = quantization.dequantize(levels, value_range, spec.bits)
    if spec.bits != 32 or tokens is not None:
      decoded = _place(spec, name, sent, tokens)
      value += tf.stop_gradient(decoded - value)
    values.append(value)
  scale = tf.ones(spec.scale_shape)
  return _to_data(spec, values, variables['step_sizes'], scale, model, weights)
