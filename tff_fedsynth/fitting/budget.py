"""Chooses the synthetic data that fit a budget."""

import dataclasses

import tensorflow_federated as tff

from tff_fedsynth.errors import BudgetTooSmallError
from tff_fedsynth.fitting import model_spec
from tff_fedsynth.models import keras_model
from tff_fedsynth.models import weights as weights_lib
from tff_fedsynth.payload.forms import images
from tff_fedsynth.payload.payload import Payload
from tff_fedsynth.payload.spec import SyntheticSpec

# The client's weight, one float32, travels beside the payload.
WEIGHT_BYTES = 4
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
  f'one step, 4 bits a value; sequences of at most {model_spec.MAX_LENGTH} positions, as '
  f'few as fill the budget, at most {_MAX_SEQUENCES}.'
)
BUDGET_RULE = (
  f'one step, 4 bits a value; as many examples as fit, at most {_MAX_EXAMPLES}, with '
  f'images whose side is at least {_SMALLEST_SHARE} of their own and '
  f'{_PIXELS_PER_EXAMPLE} pixels for each example, or two of '
  f'{_SMALLEST_SHARE_OF_TWO} of their own; then the largest side that still fits.'
)


def budget_rule(model: tff.learning.models.FunctionalModel) -> str:
  """What `spec_for_budget` does where it is left free, in words."""
  is_text = isinstance(model, keras_model.LanguageModel)
  return TEXT_BUDGET_RULE if is_text else BUDGET_RULE


def spec_for_budget(
  model: tff.learning.models.FunctionalModel, uplink_bytes: int, **fields
) -> SyntheticSpec:
  """Chooses the largest `SyntheticSpec` within a budget that `BUDGET_RULE` allows.

  A payload is smaller than the model, however large the budget.

  Args:
    model: A `LanguageModel`, or one with float inputs.
    uplink_bytes: What one client may send a round, its weight included.
    **fields: Options of the spec that are fixed, as of `model_spec.build_spec`; those
      that are left out, or `None`, are left to the rule.

  Raises:
    BudgetTooSmallError: If the smallest synthetic data are larger.
    SyntheticSpecError: See `model_spec.build_spec`.
  """
  model_spec.check_given(fields)
  fixed = {k: v for k, v in fields.items() if v is not None}
  length = fixed.pop('length', None)
  forms_ = [fixed.pop(name, None) for name in ('input_form', 'label_form')]
  of_model = model_spec.model_fields(model, *forms_, length)
  resolution = fixed.get('resolution')
  is_image = _can_shrink(of_model['input_shape']) and resolution != 0
  if is_image:
    fixed.setdefault('resolution', 1)
  smallest = SyntheticSpec(**of_model, **{'bits': 4, **fixed})
  smallest_bytes = Payload(smallest).data_bytes + WEIGHT_BYTES
  if not smallest_bytes <= uplink_bytes:
    raise BudgetTooSmallError(
      f'The smallest synthetic data with these settings take '
      f'{smallest_bytes} bytes a client with its weight, '
      f'but the budget is {uplink_bytes}. Raise the budget, or leave more of '
      'steps, batch size, bits, resolution and length to the rule.'
    )
  model_spec.check_smaller_than_model(Payload(smallest), model)
  largest = min(uplink_bytes - WEIGHT_BYTES, weights_lib.model_bytes(model) - 1)
  fits = lambda spec: Payload(spec).data_bytes <= largest
  batch_size = fixed.get('batch_size')
  if isinstance(model, keras_model.LanguageModel):
    return _fill_with_text(smallest, fits, batch_size, length)
  side = min(images.image_size(smallest.input_shape)) if is_image else None
  return _fill_with_values(smallest, fits, batch_size, resolution, side)


def _can_shrink(shape) -> bool:
  """Whether inputs are images that can be sent smaller than they are."""
  size = images.image_size(shape)
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

  def largest(count):
    """The largest side that fits; `None` if there is none."""
    return next((s for s in reversed(sides) if fits(make(count, s))), None)

  def is_good(count):
    if len(sides) == 1:
      return fits(make(count, sides[0]))
    smallest_side = _SMALLEST_SHARE * sides[-1] + _PIXELS_PER_EXAMPLE * count
    if count == 2:
      smallest_side = _SMALLEST_SHARE_OF_TWO * sides[-1]
    return (largest(count) or 0) >= min(smallest_side, sides[-1])

  count = max(filter(is_good, sizes), default=sizes[0])
  return make(count, largest(count))


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
    while positions < model_spec.MAX_LENGTH and fits(
      make(count, positions + 1)
    ):
      positions += 1
    return positions

  count = batch_size or 1
  is_free = lambda count: not batch_size and count < _MAX_SEQUENCES
  if length is None:
    # More, shorter sequences, once one more of full length does not fit.
    while is_free(count) and fits(make(count, model_spec.MAX_LENGTH)):
      if not fits(make(count + 1, 1)):
        break
      count += 1
    return make(count, longest(count))
  while is_free(count) and fits(make(count + 1, length)):
    count += 1
  return make(count, length)
