"""Which synthetic data fit a model, and fill a budget."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import options
from tff_fedsynth.errors import BudgetTooSmallError
from tff_fedsynth.models import weights as weights_lib
from tff_fedsynth.models.keras_model import LanguageModel
from tff_fedsynth.models.keras_model import split_batch
from tff_fedsynth.payload import forms
from tff_fedsynth.payload.payload import SyntheticPayload
from tff_fedsynth.payload.spec import SyntheticSpec
from tff_fedsynth.payload.spec import SyntheticSpecError

# The client's weight, one float32, travels beside the payload.
WEIGHT_BYTES = 4
# Longer sequences are slower to replay than more of them.
MAX_LENGTH = 20
# Distributions over more tokens than this do not pay for their bytes.
_LARGE_VOCABULARY = 256
# More of them leave a client time for few iterations only.
_MAX_EXAMPLES = 32
_MAX_SEQUENCES = 8
# The smallest side of images, as a share of their own, and in pixels an example:
# fewer, sharper examples fit worse, and so do more, blurred ones.
_SMALLEST_SHARE = 0.25
_PIXELS_PER_EXAMPLE = 0.6
# Two that are smaller than that still fit better than one.
_SMALLEST_SHARE_OF_TWO = 0.17

TEXT_BUDGET_RULE = (
  f'one step, 4 bits a value; sequences of at most {MAX_LENGTH} positions, as '
  f'few as fill the budget, at most {_MAX_SEQUENCES}.'
)
BUDGET_RULE = (
  f'one step, 4 bits a value; as many examples as fit, at most {_MAX_EXAMPLES}, with '
  f'images whose side is at least {_SMALLEST_SHARE} of their own and '
  f'{_PIXELS_PER_EXAMPLE} pixels for each example, or two of '
  f'{_SMALLEST_SHARE_OF_TWO} of their own; then the largest side that still fits.'
)


@dataclasses.dataclass(frozen=True)
class Sequences:
  """What is asked of synthetic text, beside its `SyntheticSpec`.

  Attributes:
    length: Number of positions of a sequence.

  Raises:
    OptionError: If it is out of its range.
  """

  length: int | None = options.option(
    None,
    'Sets how many positions a synthetic sequence of text has.',
    group='FedSynth',
    default_text='by the rule',
    minimum=1,
  )

  def __post_init__(self):
    options.check(self)


_GROUPS = (options.Group(SyntheticSpec), options.Group(Sequences))


def budget_rule(model: tff.learning.models.FunctionalModel) -> str:
  """Says what `spec_for_budget` does where it is left free."""
  return TEXT_BUDGET_RULE if isinstance(model, LanguageModel) else BUDGET_RULE


def output_shape(model) -> tuple[int, ...]:
  """Returns the shape of a model's output for one example.

  Raises:
    SyntheticSpecError: If it is not known.
  """

  @tff.tensorflow.computation(
    weights_lib.model_weights_type(model), split_batch(model.input_spec)[0]
  )
  def predict(weights, inputs):
    return model.predict_on_batch(
      (weights.trainable, weights.non_trainable), inputs, training=False
    )

  result = predict.type_signature.result
  shape = getattr(result, 'shape', None)
  if not shape or None in shape[1:]:
    raise SyntheticSpecError(
      f'The outputs of the model are {result}, but they must be one tensor, and '
      'the shape of an example known. Set it with tf.ensure_shape.'
    )
  return tuple(shape[1:])


def _text_fields(model, input_form, label_form, length) -> dict[str, Any]:
  """Returns the fields of a spec that a `LanguageModel` decides."""
  is_large = model.vocabulary_size > _LARGE_VOCABULARY
  given = dict(
    input_form=input_form or 'token_queries',
    label_form=label_form or ('sparse' if is_large else 'signed'),
  )
  shapes = []
  for (name, form), registry in zip(
    given.items(), (forms.INPUTS, forms.LABELS)
  ):
    size = registry[form].size and registry[form].size(model)
    if size is None:
      of_text = sorted(f for f in registry if registry[f].size)
      raise SyntheticSpecError(
        f'{name} cannot be {form} with this language model. Choose one of '
        f'{of_text}; output_vectors need a model whose last layer is linear.',
        name,
      )
    shapes.append((length, size))
  return dict(input_shape=shapes[0], label_shape=shapes[1], **given)


def _value_fields(model, input_form, label_form, length) -> dict[str, Any]:
  """Returns the fields of a spec that a model of float inputs decides."""
  if input_form not in (None, 'values') or length:
    raise SyntheticSpecError(
      'input_form and length are for models that start with an embedding, which '
      'this one does not. Leave them unset.',
      'input_form',
      'length',
    )
  inputs, labels = split_batch(model.input_spec)
  if not isinstance(inputs, tf.TensorSpec) or not inputs.dtype.is_floating:
    raise SyntheticSpecError(
      'FedSynth learns inputs by their gradient, so the model must take one '
      f'float tensor, but its inputs are {inputs}. Apply lookups and casts '
      'before the model, in the data set, or make a language model with '
      'tff_fedsynth.from_keras.'
    )
  allowed = forms.label_forms(model)
  label_form = label_form or allowed[0]
  if label_form not in allowed:
    raise SyntheticSpecError(
      f'label_form cannot be {label_form} with this model. Choose one of '
      f'{sorted(allowed)}.',
      'label_form',
    )
  has_targets = label_form == 'targets'
  shapes = dict(
    input_shape=tuple(inputs.shape[1:]),
    label_shape=tuple(labels.shape[1:]) if has_targets else output_shape(model),
  )
  for name, shape in shapes.items():
    if None in shape:
      raise SyntheticSpecError(
        f'The {name} of an example is {shape}, but synthetic examples need one '
        'that is known. Give every size in model.input_spec.'
      )
  return dict(shapes, label_form=label_form)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields that are not `None`.

  Raises:
    SyntheticSpecError: If one has a value that no spec can have.
    TypeError: If one is none of the options.
  """
  known = {n: f for group in _GROUPS for n, f in group.flags.items()}
  given = {}
  for name, value in fields.items():
    if name not in known:
      raise TypeError(f'{name!r} is none of {sorted(known)}.')
    if value is not None:
      options.check_value(name, known[name], value, SyntheticSpecError)
      given[name] = value
  return given


def _make_spec(model, length: int | None, fields: Mapping[str, Any]):
  """Makes the spec of a model with the fields given, but for the length."""
  fields = {k: v for k, v in fields.items() if k != 'length'}
  form_names = [fields.pop(name, None) for name in ('input_form', 'label_form')]
  is_text = isinstance(model, LanguageModel)
  fields_of = _text_fields if is_text else _value_fields
  return SyntheticSpec(**fields_of(model, *form_names, length), **fields)


def check_smaller_than_model(
  payload, model: tff.learning.models.FunctionalModel
) -> None:
  """Raises `SyntheticSpecError` where a payload would save nothing.

  It also raises `ResidualError` for a sketch by a biased codec, and `CodecError`
  for one that does not fit the model.
  """
  payload_bytes = payload.num_bytes(weights_lib.model_shapes(model))
  model_bytes = weights_lib.model_bytes(model)
  if payload_bytes >= model_bytes:
    raise SyntheticSpecError(
      f'The payload takes {payload_bytes} bytes a client, the model '
      f'itself {model_bytes}. Choose fewer steps or examples, fewer bits, '
      'or a lower resolution.'
    )


def build_spec(
  model: tff.learning.models.FunctionalModel, **fields
) -> SyntheticSpec:
  """Builds a `SyntheticSpec` with the shapes of a model's inputs and labels.

  Args:
    model: A `LanguageModel`, or one with float inputs; integer labels are class
      numbers.
    **fields: Options of the spec, such as `steps`, `batch_size`, `bits`; those
      that are left out, or `None`, have its defaults. For text, `input_form` is
      `token_queries`, and `length`, the positions of a sequence, 20. `label_form`
      is `signed`, or `sparse` for text of a large vocabulary, or `targets` for a
      regression.

  Raises:
    SyntheticSpecError: If inputs are not one float tensor, or a field is out of
      its range, or a payload would not be smaller than the model.
  """
  fields = _given(fields)
  default_length = MAX_LENGTH if isinstance(model, LanguageModel) else None
  spec = _make_spec(model, fields.get('length', default_length), fields)
  check_smaller_than_model(SyntheticPayload(spec), model)
  return spec


def spec_for_budget(
  model: tff.learning.models.FunctionalModel, uplink_bytes: int, **fields
) -> SyntheticSpec:
  """Builds the `SyntheticSpec` that fills a budget by `BUDGET_RULE`.

  A payload is smaller than the model, however large the budget.

  Args:
    model: A `LanguageModel`, or one with float inputs.
    uplink_bytes: What one client may send a round, its weight included.
    **fields: Options of the spec that are fixed, as of `build_spec`; those that
      are left out, or `None`, are left to the rule.

  Raises:
    BudgetTooSmallError: If the smallest synthetic data are larger.
    SyntheticSpecError: See `build_spec`.
  """
  fields = {'bits': 4, **_given(fields)}
  is_text = isinstance(model, LanguageModel)
  length, batch_size = fields.get('length'), fields.get('batch_size')
  shortest = (length or 1) if is_text else length
  smallest = _make_spec(model, shortest, fields)
  sides = _sides(smallest, fields.get('resolution'))
  smallest = dataclasses.replace(smallest, resolution=sides[0])
  smallest_bytes = SyntheticPayload(smallest).data_bytes + WEIGHT_BYTES
  if not smallest_bytes <= uplink_bytes:
    raise BudgetTooSmallError(
      f'The smallest synthetic data with these settings take '
      f'{smallest_bytes} bytes a client with its weight, '
      f'but the budget is {uplink_bytes}. Raise the budget, or leave more of '
      'steps, batch size, bits, resolution and length to the rule.'
    )
  check_smaller_than_model(SyntheticPayload(smallest), model)
  largest = min(uplink_bytes - WEIGHT_BYTES, weights_lib.model_bytes(model) - 1)
  fits = lambda spec: SyntheticPayload(spec).data_bytes <= largest
  most = _MAX_SEQUENCES if is_text else _MAX_EXAMPLES
  counts = [batch_size] if batch_size else list(range(1, most + 1))
  if is_text:
    return _fill_with_text(smallest, fits, counts, length)
  return _fill_with_values(smallest, fits, counts, sides)


def _sides(spec: SyntheticSpec, resolution: int | None) -> list[int]:
  """Returns the sides that images may have, ascending; 0 is their own."""
  if resolution is not None:
    return [resolution]
  size = forms.image_size(spec.input_shape)
  return [0] if size is None or min(size) == 1 else [*range(1, min(size) + 1)]


def _fill_with_values(
  smallest: SyntheticSpec, fits, counts: Sequence[int], sides: Sequence[int]
) -> SyntheticSpec:
  """Applies `BUDGET_RULE`, with numbers of examples and sides to choose from."""
  make = lambda count, side: dataclasses.replace(
    smallest, batch_size=count, resolution=side
  )

  def largest(count):
    return next((s for s in reversed(sides) if fits(make(count, s))), -1)

  def is_good(count):
    least = _SMALLEST_SHARE * sides[-1] + _PIXELS_PER_EXAMPLE * count
    if count == 2:
      least = _SMALLEST_SHARE_OF_TWO * sides[-1]
    return largest(count) >= min(least, sides[-1])

  count = max(filter(is_good, counts), default=counts[0])
  return make(count, largest(count))


def _fill_with_text(
  smallest: SyntheticSpec, fits, counts: Sequence[int], length: int | None
) -> SyntheticSpec:
  """Applies `TEXT_BUDGET_RULE`, with numbers of sequences to choose from."""

  def make(count, length):
    return dataclasses.replace(
      smallest,
      batch_size=count,
      input_shape=(length, smallest.input_shape[1]),
      label_shape=(length, smallest.label_shape[1]),
    )

  possible = [c for c in counts if fits(make(c, length or 1))]
  if length is not None:
    return make(possible[-1], length)
  # More, shorter sequences, once one more of full length does not fit.
  not_full = (c for c in possible if not fits(make(c, MAX_LENGTH)))
  count = next(not_full, possible[-1])
  lengths = [n for n in range(1, MAX_LENGTH + 1) if fits(make(count, n))]
  return make(count, lengths[-1])
