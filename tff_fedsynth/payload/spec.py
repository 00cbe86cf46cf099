"""Which synthetic data a client sends: shapes, parameterization and bits."""

import dataclasses
import functools
from typing import NamedTuple

import tensorflow as tf

from tff_fedsynth import errors
from tff_fedsynth import options
from tff_fedsynth.payload import forms

SUPPORTED_BITS = (32, 16, 8, 4, 2)

_option = functools.partial(options.option, group='FedSynth')
_BY_RULE = 'by the rule'


class SyntheticSpecError(errors.OptionError):
  """A `SyntheticSpec` that cannot be built, or does not fit its model."""


class SyntheticData(NamedTuple):
  """Synthetic batches, ready to be replayed (Hu et al. 2022, section 3).

  Attributes:
    inputs: float [steps, batch_size, *input_shape]; distributions over tokens,
      [steps, batch_size, time, tokens], for two parameterizations of text.
    labels: float [steps, batch_size, *label_shape] or [steps, batch_size, time,
      tokens]; distributions, or as the parameterization has it.
    step_sizes: float [steps], the learning rate of each replayed step.
    scale: float [], multiplies the replayed update (3SFC, Zhou et al. 2023).
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
    input_form: Parameterization of inputs: a name in `forms.INPUTS`.
    label_form: Parameterization of labels: a name in `forms.LABELS`.
    steps: Number of synthetic batches, replayed in order, one SGD step each.
    batch_size: Examples in a synthetic batch.
    bits: Bits a value of inputs and labels on the wire: 32 (float), 16, 8, 4, 2.
    resolution: Side of the square that image inputs are learned and sent at;
      client and server enlarge it. 0 or `None` is the full resolution.
    kept_labels: Number of labels of a position that are sent, with their tokens,
      if they are sparse.

  Raises:
    SyntheticSpecError: If a field is out of its range.
  """

  input_shape: tuple[int, ...]
  label_shape: tuple[int, ...]
  input_form: str = _option(
    'values',
    'Chooses what synthetic text is made of: attention over the embedding '
    'table, distributions over tokens, or vectors in place of embedded tokens; '
    'values are of models without an embedding.',
    forms.INPUTS,
    default_text='token_queries for text',
  )
  label_form: str = _option(
    'distributions',
    'Chooses what synthetic labels are; sparse and output_vectors are for text '
    'alone, targets for a regression alone.',
    forms.LABELS,
    default_text=(
      'signed, or targets of a regression; sparse with more than 256 tokens'
    ),
  )
  steps: int = _option(
    1,
    'Sets how many synthetic batches are sent, each for one step.',
    default_text=_BY_RULE,
    minimum=1,
  )
  batch_size: int = _option(
    1,
    'Sets how many examples or sequences a synthetic batch has.',
    default_text=_BY_RULE,
    minimum=1,
  )
  bits: int = _option(
    32,
    'Sends each synthetic value in so many bits.',
    SUPPORTED_BITS,
    default_text=_BY_RULE,
  )
  resolution: int | None = _option(
    None,
    'Sends synthetic images as squares of this side; 0 is their own.',
    default_text=_BY_RULE,
    minimum=0,
  )
  kept_labels: int = _option(
    8,
    'Sends so many labels of each position of text, the largest, if they are '
    'sparse.',
    minimum=1,
  )

  def __post_init__(self):
    options.check(self, SyntheticSpecError)
    if self.is_sparse and self.kept_labels > self.label_shape[-1]:
      raise SyntheticSpecError(
        f'kept_labels={self.kept_labels} is more than the '
        f'{self.label_shape[-1]} tokens of a position. Lower it.',
        'kept_labels',
      )
    if not self.resolution:
      object.__setattr__(self, 'resolution', None)  # Frozen.
      return
    size = forms.image_size(self.input_shape)
    if size is None:
      raise SyntheticSpecError(
        'resolution is for image inputs of shape (height, width, channels) or '
        f'(channels, height, width), but the input shape is {self.input_shape}. '
        'Leave resolution unset.',
        'resolution',
      )
    if self.resolution > min(size):
      raise SyntheticSpecError(
        f'resolution must be between 1 and {min(size)} for inputs of shape '
        f'{self.input_shape}, found {self.resolution}.',
        'resolution',
      )

  @property
  def learned_shapes(self) -> dict[str, tuple[int, ...]]:
    """Shapes of one input and one label as they are learned."""
    inputs = self.input_shape
    if self.resolution is not None:
      inputs = forms.with_side(inputs, self.resolution)
    return dict(inputs=inputs, labels=self.label_shape)

  @property
  def sent_shapes(self) -> dict[str, tuple[int, ...]]:
    """Shapes of the values of one input and one label that are sent."""
    shapes = self.learned_shapes
    if self.is_sparse:
      shapes['labels'] = (*self.label_shape[:-1], self.kept_labels)
    return shapes

  @property
  def is_text(self) -> bool:
    """Whether an example is a sequence of positions, for a `LanguageModel`."""
    return forms.INPUTS[self.input_form].size is not None

  @property
  def is_sparse(self) -> bool:
    """Whether only the largest labels of each position are sent."""
    return forms.LABELS[self.label_form].is_sparse

  @property
  def has_linear_labels(self) -> bool:
    """Whether labels that are zero replay to no update."""
    return forms.LABELS[self.label_form].is_linear

  @property
  def has_linear_loss(self) -> bool:
    """Whether the loss is linear in the decoded labels."""
    return forms.LABELS[self.label_form].has_linear_loss

  @property
  def loss_fn(self):
    """Loss of a synthetic batch, for `replay.replay`."""
    return forms.loss_of(self.input_form, self.label_form)
