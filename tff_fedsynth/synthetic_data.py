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

from tff_fedsynth import quantization

SUPPORTED_BITS = (32, 8, 4)


class SyntheticSpecError(ValueError):
  """A `SyntheticSpec` that cannot be built, or does not fit its model."""


class SyntheticData(NamedTuple):
  """Synthetic batches, ready to be replayed (Hu et al. 2022, section 3).

  Attributes:
    inputs: float [steps, batch_size, *input_shape].
    labels: float [steps, batch_size, *label_shape]; a distribution over the
      classes where the spec has soft labels.
    step_sizes: float [steps], the learning rate of each replayed step.
    scale: float [], multiplies the replayed update (3SFC's one float, Zhou et
      al. 2023).
  """

  inputs: tf.Tensor
  labels: tf.Tensor
  step_sizes: tf.Tensor
  scale: tf.Tensor


@dataclasses.dataclass(frozen=True)
class SyntheticSpec:
  """Shapes and encoding of one client's synthetic data.

  Attributes:
    input_shape: Shape of one model input, without the batch dimension.
    label_shape: Shape of one label: `(classes,)` for soft labels.
    soft_labels: Whether labels are logits that go through a softmax, or float
      targets that are used as they are.
    steps: Number of synthetic batches, replayed in order, one SGD step each.
    batch_size: Examples in a synthetic batch.
    bits: Bits a value of inputs and labels on the wire: 32 (float), 8 or 4.
    resolution: Side of the square that image inputs are learned and sent at;
      both sides upsample it bilinearly. `None` is the full resolution.

  Raises:
    SyntheticSpecError: If a field is out of its range.
  """

  input_shape: tuple[int, ...]
  label_shape: tuple[int, ...]
  soft_labels: bool = True
  steps: int = 1
  batch_size: int = 1
  bits: int = 32
  resolution: int | None = None

  def __post_init__(self):
    for name in ('steps', 'batch_size'):
      if getattr(self, name) < 1:
        raise SyntheticSpecError(
          f'{name} must be at least 1, found {getattr(self, name)}.'
        )
    if self.bits not in SUPPORTED_BITS:
      raise SyntheticSpecError(
        f'bits must be one of {SUPPORTED_BITS}, found {self.bits}.'
      )
    if self.resolution is None:
      return
    if len(self.input_shape) != 3:
      raise SyntheticSpecError(
        'resolution is for image inputs of shape (height, width, channels), '
        f'but the input shape is {self.input_shape}. Leave resolution unset.'
      )
    if not 1 <= self.resolution <= min(self.input_shape[:2]):
      raise SyntheticSpecError(
        f'resolution must be between 1 and {min(self.input_shape[:2])} for '
        f'inputs of shape {self.input_shape}, found {self.resolution}.'
      )

  @property
  def learned_input_shape(self) -> tuple[int, ...]:
    """Shape of one input as it is learned and sent."""
    if self.resolution is None:
      return self.input_shape
    return (self.resolution, self.resolution, self.input_shape[-1])

  @property
  def payload_bytes(self) -> int:
    """Size of one payload in bytes."""
    return sum(
      s.shape.num_elements() * s.dtype.size
      for s in payload_specs(self).values()
    )


def _value_shapes(spec: SyntheticSpec) -> dict[str, tuple[int, ...]]:
  return {
    'inputs': spec.learned_input_shape,
    'labels': spec.label_shape,
  }


def payload_specs(
  spec: SyntheticSpec,
) -> collections.OrderedDict[str, tf.TensorSpec]:
  """The `tf.TensorSpec`s of a payload, in the order they are sent.

  With 8 or 4 bits, `inputs` and `labels` are uint8 [steps, batch_size, bytes an
  example], and each has a float32 [steps, batch_size, 2] of the example's
  minimum and maximum.
  """
  lead = (spec.steps, spec.batch_size)
  specs = collections.OrderedDict()
  for name, shape in _value_shapes(spec).items():
    if spec.bits == 32:
      specs[name] = tf.TensorSpec(lead + shape, tf.float32)
    else:
      num_bytes = quantization.packed_bytes(int(np.prod(shape)), spec.bits)
      specs[name] = tf.TensorSpec(lead + (num_bytes,), tf.uint8)
      specs[f'{name}_range'] = tf.TensorSpec(lead + (2,), tf.float32)
  specs['step_sizes'] = tf.TensorSpec((spec.steps,), tf.float32)
  specs['scale'] = tf.TensorSpec((), tf.float32)
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
  for i, (name, shape) in enumerate(_value_shapes(spec).items()):
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


def _flat(value):
  return tf.reshape(value, [*value.shape[:2], -1])


def encode(
  spec: SyntheticSpec, variables, scale: tf.Tensor
) -> collections.OrderedDict[str, tf.Tensor]:
  """Encodes variables into the payload that `payload_specs` describes."""
  payload = collections.OrderedDict()
  for name in _value_shapes(spec):
    if spec.bits == 32:
      payload[name] = variables[name]
    else:
      levels, value_range = quantization.quantize(
        _flat(variables[name]), spec.bits
      )
      payload[name] = quantization.pack(levels, spec.bits)
      payload[f'{name}_range'] = value_range
  payload['step_sizes'] = variables['step_sizes']
  payload['scale'] = scale
  return payload


def _to_data(spec, inputs, labels, step_sizes, scale) -> SyntheticData:
  """What encoded and learned data share: upsampling and the softmax."""
  if spec.resolution is not None:
    # Steps and batches are folded, as tf.image works on rank 4.
    inputs = tf.image.resize(
      tf.reshape(inputs, [-1, *spec.learned_input_shape]), spec.input_shape[:2]
    )
  inputs = tf.reshape(inputs, [spec.steps, spec.batch_size, *spec.input_shape])
  labels = tf.reshape(labels, [spec.steps, spec.batch_size, *spec.label_shape])
  if spec.soft_labels:
    labels = tf.nn.softmax(labels)
  return SyntheticData(inputs, labels, step_sizes, scale)


def decode(spec: SyntheticSpec, payload) -> SyntheticData:
  """Decodes a payload; the same code runs on the client and on the server."""
  values = []
  for name, shape in _value_shapes(spec).items():
    if spec.bits == 32:
      values.append(payload[name])
    else:
      levels = quantization.unpack(
        payload[name], int(np.prod(shape)), spec.bits
      )
      values.append(
        quantization.dequantize(levels, payload[f'{name}_range'], spec.bits)
      )
  return _to_data(spec, *values, payload['step_sizes'], payload['scale'])


def relax(spec: SyntheticSpec, variables) -> SyntheticData:
  """The data that the server will decode, differentiable in the variables.

  Rounding has no useful gradient, so it is passed straight through (Bengio et
  al. 2013, arXiv 1308.3432). The scale is 1: it is chosen after learning.
  """
  values = []
  for name in _value_shapes(spec):
    value = variables[name]
    if spec.bits != 32:
      levels, value_range = quantization.quantize(_flat(value), spec.bits)
      rounded = quantization.dequantize(levels, value_range, spec.bits)
      value += tf.stop_gradient(tf.reshape(rounded, value.shape) - value)
    values.append(value)
  return _to_data(
    spec, *values, variables['step_sizes'], tf.ones([], tf.float32)
  )
