"""Which synthetic data fit a model, and a budget of bytes."""

import dataclasses

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import client_work
from tff_fedsynth import forms
from tff_fedsynth import options
from tff_fedsynth import residual as residual_lib
from tff_fedsynth import synthetic_data
from tff_fedsynth.communication import BudgetTooSmallError
from tff_fedsynth.models import language
from tff_fedsynth.models.keras_model import split_batch

# The client's weight, one float32, travels beside the payload.
_WEIGHT_BYTES = 4
# More examples of few pixels cost client time and add little (measured on
# mnist_digits).
_MAX_EXAMPLES = 50

# Longer sequences are slower to replay than more of them.
_MAX_LENGTH = 20
# Distributions over more tokens than this do not pay for their bytes.
_LARGE_VOCABULARY = 256

TEXT_BUDGET_RULE = (
  f'one step, 4 bits a value; sequences of at most {_MAX_LENGTH} positions, as '
  'few as fill the budget.'
)
BUDGET_RULE = (
  'one step, 4 bits a value; as many examples as fit with images at half their '
  f'side, at most {_MAX_EXAMPLES}, but two if two fit at all; then the largest side '
  'that still fits; then as many examples as fit.'
)


def budget_rule(model: tff.learning.models.FunctionalModel) -> str:
  """What `spec_for_budget` does where it is left free, in words."""
  is_text = isinstance(model, language.LanguageModel)
  return TEXT_BUDGET_RULE if is_text else BUDGET_RULE


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


def output_shape(model) -> tuple[int, ...]:
  """Of one example.

  Raises:
    SyntheticSpecError: If it is not known.
  """

  @tff.tensorflow.computation(
    client_work.model_weights_type(model), split_batch(model.input_spec)[0]
  )
  def predict(weights, inputs):
    return model.predict_on_batch(
      (weights.trainable, weights.non_trainable), inputs, training=False
    )

  result = predict.type_signature.result
  shape = getattr(result, 'shape', None)
  if not shape or None in shape[1:]:
    raise synthetic_data.SyntheticSpecError(
      f'The outputs of the model are {result}, but they must be one tensor, and '
      'the shape of an example known. Set it with tf.ensure_shape.'
    )
  return tuple(shape[1:])


def _check_given(**sizes: int | None) -> None:
  for name, size in sizes.items():
    if size is not None:
      options.check_number(name, size, int, minimum=1)


def _language_shapes(model, input_form, label_form, length):
  """As `_shapes`, for text."""
  if label_form is None:
    is_large = model.vocabulary_size > _LARGE_VOCABULARY
    label_form = 'sparse' if is_large else 'signed'
  sizes = []
  for name, form, registry in (
    ('input_form', input_form or 'token_queries', forms.INPUTS),
    ('label_form', label_form, forms.LABELS),
  ):
    size = registry[form].size and registry[form].size(model)
    if size is None:
      of_text = sorted(f for f in registry if registry[f].size)
      raise synthetic_data.SyntheticSpecError(
        f'{name} cannot be {form} with this language model. Choose one of '
        f'{of_text}; output_vectors need a model whose last layer is linear.',
        name,
      )
    sizes.append(size)
  return dict(
    input_shape=(length, sizes[0]),
    label_shape=(length, sizes[1]),
    input_form=input_form or 'token_queries',
    label_form=label_form,
  )


def _shapes(
  model, input_form=None, label_form=None, length=None
) -> dict[str, object]:
  """The fields of a `SyntheticSpec` that the model decides."""
  _check_given(length=length)
  for name, form, registry in (
    ('input_form', input_form, forms.INPUTS),
    ('label_form', label_form, forms.LABELS),
  ):
    if form is not None:
      options.pick(registry, form, name, synthetic_data.SyntheticSpecError)
  if isinstance(model, language.LanguageModel):
    return _language_shapes(model, input_form, label_form, length or 1)
  if input_form or length:
    raise synthetic_data.SyntheticSpecError(
      'input_form and length are for models that start with an embedding, which '
      'this one does not. Leave them unset.',
      'input_form',
      'length',
    )
  inputs, labels = split_batch(model.input_spec)
  if not isinstance(inputs, tf.TensorSpec) or not inputs.dtype.is_floating:
    raise synthetic_data.SyntheticSpecError(
      'FedSynth learns inputs by their gradient, so the model must take one '
      f'float tensor, but its inputs are {inputs}. Apply lookups and casts '
      'before the model, in the data set, or make a language model with '
      'tff_fedsynth.from_keras.'
    )
  allowed = forms.label_forms(model)
  label_form = label_form or allowed[0]
  if label_form not in allowed:
    raise synthetic_data.SyntheticSpecError(
      f'label_form cannot be {label_form} with this model. Choose one of '
      f'{sorted(allowed)}.',
      'label_form',
    )
  of_targets = label_form == 'targets'
  shapes = dict(
    input_shape=tuple(inputs.shape[1:]),
    label_shape=tuple(labels.shape[1:]) if of_targets else output_shape(model),
    label_form=label_form,
  )
  for name in ('input_shape', 'label_shape'):
    if None in shapes[name]:
      raise synthetic_data.SyntheticSpecError(
        f'The {name} of an example is {shapes[name]}, but synthetic examples '
        'need one that is known. Give every size in model.input_spec.'
      )
  return shapes


def check_smaller_than_model(
  spec: synthetic_data.SyntheticSpec,
  model: tff.learning.models.FunctionalModel,
  residual: residual_lib.Sketch | None = None,
) -> None:
  """Raises `SyntheticSpecError` where a payload would save nothing.

  With a sketch of the residual, it also raises `ResidualError` for a biased
  codec, and `CodecError` for one that does not fit the model.
  """
  payload_bytes = spec.payload_bytes
  if residual is not None:
    shapes = model_shapes(model)
    residual_lib.check_unbiased(residual, shapes)
    payload_bytes += residual.codec.message_bytes(shapes)
  if payload_bytes >= model_bytes(model):
    raise synthetic_data.SyntheticSpecError(
      f'The payload takes {payload_bytes} bytes a client, the model '
      f'itself {model_bytes(model)}. Choose fewer steps or examples, fewer bits, '
      'or a lower resolution.'
    )


def _num_scales(model, layer_scales: bool) -> int:
  return len(model.initial_weights[0]) if layer_scales else 0


def build_spec(
  model: tff.learning.models.FunctionalModel,
  *,
  input_form: str | None = None,
  label_form: str | None = None,
  length: int | None = None,
  layer_scales: bool = False,
  **fields,
) -> synthetic_data.SyntheticSpec:
  """A `SyntheticSpec` with the shapes of a model's inputs and labels.

  Args:
    model: A `LanguageModel`, or one with float inputs; integer labels are class
      numbers.
    input_form: For text: a name in `forms.INPUTS`; `token_queries` if `None`.
    label_form: A name in `forms.LABELS`; if `None`, `signed`, or `sparse` for
      text of a large vocabulary, or `targets` for a regression.
    length: For text: positions of a sequence; 20 if `None`.
    layer_scales: Whether a final scale is sent for each weight tensor.
    **fields: `steps`, `batch_size`, `bits`, `resolution` (0 is that of the
      images), `decoder`, `kept_labels` of the spec.

  Raises:
    OptionError: If a size is below 1.
    SyntheticSpecError: If inputs are not one float tensor, or a field is out of
      its range, or a payload would not be smaller than the model.
  """
  if length is None and isinstance(model, language.LanguageModel):
    length = _MAX_LENGTH
  shapes = _shapes(model, input_form, label_form, length)
  if fields.get('resolution') == 0:
    del fields['resolution']
  spec = synthetic_data.SyntheticSpec(
    **shapes, layer_scales=_num_scales(model, layer_scales), **fields
  )
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
  kept_labels: int | None = None,
  input_form: str | None = None,
  label_form: str | None = None,
  length: int | None = None,
  layer_scales: bool = False,
  decoder: str = 'bilinear',
) -> synthetic_data.SyntheticSpec:
  """The `SyntheticSpec` that fills a budget by `BUDGET_RULE`.

  A payload is smaller than the model, however large the budget.

  Args:
    model: A `LanguageModel`, or one with float inputs.
    uplink_bytes: What one client may send a round, its weight included.
    steps: This and the rest fix a field of the spec; `None` leaves it to the rule.
    batch_size: See `steps`.
    bits: See `steps`.
    resolution: See `steps`; 0 is that of the images.
    kept_labels: See `steps`.
    input_form: See `build_spec`.
    label_form: See `build_spec`.
    length: See `steps`; positions of a synthetic sequence.
    layer_scales: See `build_spec`.
    decoder: See `SyntheticSpec`.

  Raises:
    BudgetTooSmallError: If the smallest synthetic data are larger.
    OptionError, SyntheticSpecError: See `build_spec`.
  """
  _check_given(
    steps=steps,
    batch_size=batch_size,
    bits=bits,
    resolution=resolution or None,
    kept_labels=kept_labels,
  )
  is_text = isinstance(model, language.LanguageModel)
  shapes = _shapes(model, input_form, label_form, length)
  is_image = _can_shrink(shapes['input_shape']) and resolution != 0
  smallest = synthetic_data.SyntheticSpec(
    **shapes,
    steps=steps or 1,
    batch_size=batch_size or 1,
    bits=bits or 4,
    resolution=(resolution or 1) if is_image else (resolution or None),
    decoder=decoder,
    layer_scales=_num_scales(model, layer_scales),
    **({'kept_labels': kept_labels} if kept_labels else {}),
  )

  if not smallest.payload_bytes + _WEIGHT_BYTES <= uplink_bytes:
    raise BudgetTooSmallError(
      f'The smallest synthetic data with these settings take '
      f'{smallest.payload_bytes + _WEIGHT_BYTES} bytes a client with its weight, '
      f'but the budget is {uplink_bytes}. Raise the budget, or leave more of '
      'steps, batch size, bits, resolution and length to the rule.'
    )
  check_smaller_than_model(smallest, model)
  largest_payload = min(uplink_bytes - _WEIGHT_BYTES, model_bytes(model) - 1)
  fits = lambda spec: spec.payload_bytes <= largest_payload
  if is_text:
    return _fill_with_text(smallest, fits, batch_size, length)
  side = (
    min(synthetic_data.image_size(smallest.input_shape)) if is_image else None
  )
  return _fill_with_values(smallest, fits, batch_size, resolution, side)


def _can_shrink(shape) -> bool:
  """Whether inputs are images that can be sent smaller than they are."""
  size = synthetic_data.image_size(shape)
  return size is not None and min(size) > 1


def _fill_with_values(smallest, fits, batch_size, resolution, side):
  """`BUDGET_RULE` for float inputs; the arguments fix what they name.

  `side` is the largest resolution of images, `None` for what is sent as it is.
  """
  make = lambda count, side: dataclasses.replace(
    smallest, batch_size=count, resolution=side
  )
  sides = (
    [resolution or side]
    if resolution or side is None
    else list(range(1, side + 1))
  )
  sizes = [batch_size] if batch_size else list(range(1, _MAX_EXAMPLES + 1))
  half = resolution or (side and max(1, side // 2))
  count = max((n for n in sizes if fits(make(n, half))), default=sizes[0])
  if not batch_size and fits(make(2, sides[0])):
    # One sharp image is worse than two small ones.
    count = max(count, 2)
  largest_side = max(
    (s for s in sides if s and fits(make(count, s))), default=None
  )
  while not batch_size and fits(make(count + 1, largest_side)):
    count += 1
  return make(count, largest_side)


def _fill_with_text(smallest, fits, batch_size, length):
  """`TEXT_BUDGET_RULE`; the arguments fix what they name."""

  def make(count, length):
    return dataclasses.replace(
      smallest,
      batch_size=count,
      input_shape=(length, smallest.input_shape[1]),
      label_shape=(length, smallest.label_shape[1]),
    )

  def longest(count):
    positions = 1
    while positions < _MAX_LENGTH and fits(make(count, positions + 1)):
      positions += 1
    return positions

  count = batch_size or 1
  if length is None:
    # More, shorter sequences, once one more of full length does not fit.
    while not batch_size and fits(make(count, _MAX_LENGTH)):
      if not fits(make(count + 1, 1)):
        break
      count += 1
    return make(count, longest(count))
  while not batch_size and fits(make(count + 1, length)):
    count += 1
  return make(count, length)
