"""The synthetic data that fit a model."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import options
from tff_fedsynth.models import keras_model
from tff_fedsynth.models import weights as weights_lib
from tff_fedsynth.models.keras_model import split_batch
from tff_fedsynth.payload.forms import registry as forms
from tff_fedsynth.payload.payload import Payload
from tff_fedsynth.payload.spec import SyntheticSpec
from tff_fedsynth.payload.spec import SyntheticSpecError

# Longer sequences are slower to replay than more of them.
MAX_LENGTH = 20
# Distributions over more tokens than this do not pay for their bytes.
_LARGE_VOCABULARY = 256


@dataclasses.dataclass(frozen=True)
class Sequences:
  """What is asked of synthetic text, beside its `SyntheticSpec`.

  Attributes:
    length: Positions of a sequence.

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


def output_shape(model) -> tuple[int, ...]:
  """Of one example.

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


def _language_fields(model, input_form, label_form, length):
  """As `model_fields`, for text."""
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
      raise SyntheticSpecError(
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


_GROUPS = (options.Group(SyntheticSpec), options.Group(Sequences))


def check_given(given: Mapping[str, Any]) -> None:
  """Raises `SyntheticSpecError` for values that no spec can have.

  Raises:
    TypeError: For names of no option.
  """
  known = {n: f for group in _GROUPS for n, f in group.flags.items()}
  for name, value in given.items():
    if name not in known:
      raise TypeError(f'{name!r} is none of {sorted(known)}.')
    if value is not None:
      options.check_value(name, known[name], value, SyntheticSpecError)


def model_fields(
  model, input_form=None, label_form=None, length=None
) -> dict[str, Any]:
  """The fields of a `SyntheticSpec` that the model decides."""
  if isinstance(model, keras_model.LanguageModel):
    return _language_fields(model, input_form, label_form, length or 1)
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
  of_targets = label_form == 'targets'
  shapes = dict(
    input_shape=tuple(inputs.shape[1:]),
    label_shape=tuple(labels.shape[1:]) if of_targets else output_shape(model),
    label_form=label_form,
  )
  for name in ('input_shape', 'label_shape'):
    if None in shapes[name]:
      raise SyntheticSpecError(
        f'The {name} of an example is {shapes[name]}, but synthetic examples '
        'need one that is known. Give every size in model.input_spec.'
      )
  return shapes


def check_smaller_than_model(
  payload: Payload, model: tff.learning.models.FunctionalModel
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
  """A `SyntheticSpec` with the shapes of a model's inputs and labels.

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
  check_given(fields)
  fields = {k: v for k, v in fields.items() if v is not None}
  length = fields.pop('length', None)
  if length is None and isinstance(model, keras_model.LanguageModel):
    length = MAX_LENGTH
  forms_ = [fields.pop(name, None) for name in ('input_form', 'label_form')]
  spec = SyntheticSpec(**model_fields(model, *forms_, length), **fields)
  check_smaller_than_model(Payload(spec), model)
  return spec
