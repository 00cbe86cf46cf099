"""Which synthetic data fit a model, and a budget of bytes."""

import dataclasses

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import client_work
from tff_fedsynth import replay
from tff_fedsynth import synthetic_data
from tff_fedsynth.communication import BudgetTooSmallError

# The client's weight, one float32, travels beside the payload.
_WEIGHT_BYTES = 4
# More examples of few pixels cost client time and add little (measured on
# mnist_digits).
_MAX_EXAMPLES = 50

BUDGET_RULE = (
  'one step, 4 bits a value; as many examples as fit with images at half their '
  f'side, at most {_MAX_EXAMPLES}; then the largest side that still fits; then as '
  'many examples as fit.'
)


def model_shapes(
  model: tff.learning.models.FunctionalModel,
) -> list[tuple[int, ...]]:
  """The shapes of the trainable weights of a model."""
  return [np.shape(w) for w in model.initial_weights[0]]


def model_parameters(model: tff.learning.models.FunctionalModel) -> int:
  """The number of trainable floats of a model."""
  return int(sum(np.size(w) for w in model.initial_weights[0]))


def model_bytes(model: tff.learning.models.FunctionalModel) -> int:
  """The size of the trainable weights in float32, in bytes."""
  return 4 * model_parameters(model)


def _output_size(model) -> int:
  """The size of the last axis of a model's outputs: classes of a classifier."""

  @tff.tensorflow.computation(
    client_work.model_weights_type(model), model.input_spec[0]
  )
  def predict(weights, inputs):
    return model.predict_on_batch(
      (weights.trainable, weights.non_trainable), inputs, training=False
    )

  return predict.type_signature.result.shape[-1]


def _shapes(model) -> dict[str, object]:
  """The fields of a `SyntheticSpec` that the model decides."""
  inputs, labels = model.input_spec
  if not isinstance(inputs, tf.TensorSpec) or not inputs.dtype.is_floating:
    raise synthetic_data.SyntheticSpecError(
      'FedSynth learns inputs by their gradient, so the model must take one '
      f'float tensor, but its inputs are {inputs}. Apply lookups and casts '
      'before the model, in the data set.'
    )
  soft_labels = replay.has_integer_labels(model)
  return dict(
    input_shape=tuple(inputs.shape[1:]),
    label_shape=(_output_size(model),)
    if soft_labels
    else tuple(labels.shape[1:]),
    soft_labels=soft_labels,
  )


def check_smaller_than_model(
  spec: synthetic_data.SyntheticSpec, model: tff.learning.models.FunctionalModel
) -> None:
  """Raises `SyntheticSpecError` where a payload would save nothing."""
  if spec.payload_bytes >= model_bytes(model):
    raise synthetic_data.SyntheticSpecError(
      f'The synthetic data take {spec.payload_bytes} bytes a client, the model '
      f'itself {model_bytes(model)}. Choose fewer steps or examples, fewer bits, '
      'or a lower resolution.'
    )


def build_spec(
  model: tff.learning.models.FunctionalModel, **fields
) -> synthetic_data.SyntheticSpec:
  """A `SyntheticSpec` with the shapes of a model's inputs and labels.

  Args:
    model: A model with float inputs; integer labels are class numbers.
    **fields: `steps`, `batch_size`, `bits` and `resolution` of the spec.

  Raises:
    SyntheticSpecError: If inputs are not one float tensor, or a field is out of
      its range, or a payload would not be smaller than the model.
  """
  spec = synthetic_data.SyntheticSpec(**_shapes(model), **fields)
  check_smaller_than_model(spec, model)
  return spec


def spec_for_budget(
  model: tff.learning.models.FunctionalModel,
  uplink_bytes: int,
  *,
  steps: int | None = None,
  batch_size: int | None = None,
  bits: int | None = None,
  resolution: int | None = None,
) -> synthetic_data.SyntheticSpec:
  """The `SyntheticSpec` that fills a budget by `BUDGET_RULE`.

  Args:
    model: A model with float inputs.
    uplink_bytes: What one client may send a round, its weight included.
    steps: These four fix a field of the spec; `None` leaves it to the rule.
    batch_size: See `steps`.
    bits: See `steps`.
    resolution: See `steps`.

  Raises:
    BudgetTooSmallError: If the smallest synthetic data are larger.
    SyntheticSpecError: See `build_spec`.
  """
  shapes = _shapes(model)
  is_image = len(shapes['input_shape']) == 3
  side = min(shapes['input_shape'][:2]) if is_image else None
  smallest = synthetic_data.SyntheticSpec(
    **shapes,
    steps=steps or 1,
    batch_size=batch_size or 1,
    bits=bits or 4,
    resolution=resolution or (1 if is_image else None),
  )

  def fits(**fields):
    spec = dataclasses.replace(smallest, **fields)
    return spec.payload_bytes + _WEIGHT_BYTES <= uplink_bytes

  if not fits():
    raise BudgetTooSmallError(
      f'The smallest synthetic data with these settings take '
      f'{smallest.payload_bytes + _WEIGHT_BYTES} bytes a client with its weight, '
      f'but the budget is {uplink_bytes}. Raise the budget, or leave more of '
      'steps, batch size, bits and resolution to the rule.'
    )
  sides = (
    [resolution or side]
    if resolution or not is_image
    else list(range(1, side + 1))
  )
  sizes = [batch_size] if batch_size else list(range(1, _MAX_EXAMPLES + 1))
  half = resolution or (side // 2 if is_image else None)
  count = max(
    (n for n in sizes if fits(batch_size=n, resolution=half)), default=sizes[0]
  )
  largest_side = max(
    (s for s in sides if s and fits(batch_size=count, resolution=s)),
    default=None,
  )
  while not batch_size and fits(batch_size=count + 1, resolution=largest_side):
    count += 1
  spec = dataclasses.replace(
    smallest, batch_size=count, resolution=largest_side
  )
  check_smaller_than_model(spec, model)
  return spec
