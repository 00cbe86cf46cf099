"""The flags of FedSynth."""

import dataclasses
import functools

from baselines.cross_polytope import CrossPolytope
from baselines.drive import Drive
from baselines.random_mask import RandomMask
from tff_fedsynth import decoders
from tff_fedsynth import defense
from tff_fedsynth import forms
from tff_fedsynth import objectives
from tff_fedsynth import options
from tff_fedsynth import privacy
from tff_fedsynth import synthesis
from tff_fedsynth import synthetic_data
from tff_fedsynth.options import option

# What may sketch the residual: a codec, and the options that make it unbiased.
RESIDUALS = {
  'cross_polytope': CrossPolytope.for_budget,
  'drive': functools.partial(Drive.for_budget, scale='unbiased'),
  'random_mask': functools.partial(RandomMask.for_budget, bits=8),
}

# What replaces a budget: the size of the synthetic data, but for what the model
# and `BUDGET_RULE` leave as it is.
SIZE_OPTIONS = ('synthetic_steps', 'synthetic_batch_size', 'synthetic_bits')

_LABELS = [name for name, form in forms.LABELS.items() if name != 'targets']
_INPUTS = [name for name, form in forms.INPUTS.items() if form.size]
_BY_RULE = 'by the rule'

_of_data = functools.partial(option, group='FedSynth')
_of_sketch = functools.partial(option, group='Sketch')
_of_trust = functools.partial(option, group='Trust')


@dataclasses.dataclass(frozen=True)
class FedSynthOptions:
  """Flags of FedSynth; `None` is the method's own default, or `BUDGET_RULE`.

  Raises:
    OptionError: If one is out of its range, or they do not go together.
  """

  objective: str | None = _of_data(
    None,
    'Chooses what synthetic data minimise: the distance or the angle between '
    'their update and the real one, or the loss on real data.',
    objectives.OBJECTIVES,
    default_text='update_l2',
  )
  synthetic_steps: int | None = _of_data(
    None,
    'Sets how many synthetic batches are sent, each for one step.',
    default_text=_BY_RULE,
    minimum=1,
  )
  synthetic_batch_size: int | None = _of_data(
    None,
    'Sets how many examples or sequences a synthetic batch has.',
    default_text=_BY_RULE,
    minimum=1,
  )
  synthetic_bits: int | None = _of_data(
    None,
    'Sends each synthetic value in so many bits.',
    synthetic_data.SUPPORTED_BITS,
    default_text=_BY_RULE,
  )
  synthetic_resolution: int | None = _of_data(
    None,
    'Sends synthetic images as squares of this side; 0 is their own.',
    default_text=_BY_RULE,
    minimum=0,
  )
  synthetic_decoder: str | None = _of_data(
    None,
    'Chooses how synthetic images of a smaller side become images of full size.',
    decoders.DECODERS,
    default_text='bilinear',
  )
  layer_scales: bool | None = _of_data(
    None,
    'Sends a scale for each weight tensor of the update, not one for all.',
    default_text='off',
  )
  scaling: str | None = _of_data(
    None,
    'Chooses how the scales of the update are fitted.',
    **options.like(synthesis.SynthesisConfig, 'scaling'),
  )
  synthetic_inputs: str | None = _of_data(
    None,
    'Chooses what synthetic text is made of: attention over the embedding '
    'table, distributions over tokens, or vectors in place of embedded tokens.',
    _INPUTS,
    default_text='token_queries',
  )
  synthetic_labels: str | None = _of_data(
    None,
    'Chooses what synthetic labels are; sparse and output_vectors are for text '
    'alone.',
    _LABELS,
    default_text=(
      'signed with an update to match, else distributions; sparse with more '
      'than 256 tokens'
    ),
  )
  synthetic_length: int | None = _of_data(
    None,
    'Sets how many positions a synthetic sequence of text has.',
    default_text=_BY_RULE,
    minimum=1,
  )
  synthesis_iterations: int | None = _of_data(
    None,
    'Sets how many optimizer steps synthetic data are learned in; with the '
    'objective data_loss it is one a real batch.',
    **options.like(synthesis.SynthesisConfig, 'iterations'),
  )
  client_time_ratio: float | None = _of_data(
    None,
    'Chooses how many steps synthetic data are learned in, by a measurement '
    'before the run: the work of a client takes so many times as long as local '
    'training alone.',
    default_text='not used',
    above=1,
  )
  synthesis_learning_rate: float | None = _of_data(
    None,
    'Sets the learning rate of Adam on synthetic data.',
    default_text='0.1',
    above=0,
  )
  synthesis_initial_stddev: float | None = _of_data(
    None,
    'Sets the standard deviation of the noise that synthetic data start from.',
    **options.like(synthesis.SynthesisConfig, 'initial_stddev'),
  )
  synthesis_initial_step_size: float | None = _of_data(
    None,
    'Sets the sum of the step sizes that synthetic data start from.',
    **options.like(synthesis.SynthesisConfig, 'initial_step_size'),
  )
  diagnostics: bool | None = _of_data(
    None,
    'Measures local losses too, at the cost of extra passes over real data.',
    default_text='off',
  )
  use_xla: bool | None = _of_data(
    None,
    'Compiles the learning of synthetic data with XLA.',
    default_text='off',
  )
  residual: str = _of_sketch(
    'none',
    'Chooses the codec that sketches what synthetic data miss.',
    ('none', *RESIDUALS),
  )
  residual_fraction: str | None = _of_sketch(
    None,
    'Sets the share of the budget that goes to the sketch; auto measures the '
    'share of least error in a few rounds.',
    default_text='auto',
    minimum=0,
    maximum=1,
    words=('auto',),
  )
  residual_scale: str | None = _of_sketch(
    None,
    'Sets what the sketch is multiplied with: 1 makes the whole unbiased, auto '
    'leaves the least error.',
    default_text='auto',
    above=0,
    maximum=1,
    words=('auto',),
  )
  update_clip_norm: str | None = _of_trust(
    None,
    'Clips replayed updates to this norm; adaptive is twice the median norm of '
    'the round.',
    default_text='no clipping',
    **options.limits_of(defense.Defense, 'update_clip_norm'),
  )
  aggregation: str | None = _of_trust(
    None,
    'Chooses the mean of replayed updates: weighted, or robust against liars.',
    **options.like(defense.Defense, 'aggregation'),
  )
  max_client_weight: float | None = _of_trust(
    None,
    'Lets no client weigh more than this.',
    default_text='no limit',
    **options.limits_of(defense.Defense, 'max_client_weight'),
  )
  dp_noise_multiplier: float | None = _of_trust(
    None,
    'Makes models differentially private: sets the noise of the sum of updates '
    'over --dp_clip_norm.',
    default_text='no noise',
    **options.limits_of(privacy.CentralPrivacy, 'noise_multiplier'),
  )
  dp_clip_norm: float | None = _of_trust(
    None,
    'Makes models differentially private: clips replayed updates to this norm.',
    default_text='no clipping',
    **options.limits_of(privacy.CentralPrivacy, 'clip_norm'),
  )
  dp_delta: float | None = _of_trust(
    None,
    'Sets the delta of differential privacy, for which epsilon is told.',
    **options.like(privacy.CentralPrivacy, 'delta'),
  )

  def __post_init__(self):
    options.check(self)
    if (self.dp_noise_multiplier is None) != (self.dp_clip_norm is None):
      raise options.OptionError(
        'dp_noise_multiplier and dp_clip_norm make differential privacy '
        'together. Give both or none.',
        'dp_noise_multiplier',
        'dp_clip_norm',
      )
    if self.dp_delta is not None and self.dp_clip_norm is None:
      raise options.OptionError(
        'dp_delta needs dp_clip_norm. Leave it out.', 'dp_delta', 'dp_clip_norm'
      )
    measured = self.residual != 'none' and self.fixed_fraction is None
    if self.dp_clip_norm is not None and (
      measured or self.client_time_ratio is not None
    ):
      raise options.OptionError(
        'What is measured on clients before the run is not covered by '
        'differential privacy. Give residual_fraction as a number and '
        'synthesis_iterations in place of client_time_ratio.',
        'residual_fraction',
        'synthesis_iterations',
        'client_time_ratio',
      )
    if (
      self.client_time_ratio is not None
      and self.synthesis_iterations is not None
    ):
      raise options.OptionError(
        'client_time_ratio chooses synthesis_iterations. Give one.',
        'client_time_ratio',
        'synthesis_iterations',
      )
    if self.residual == 'none' and (
      self.residual_fraction is not None or self.residual_scale is not None
    ):
      raise options.OptionError(
        'residual_fraction and residual_scale are of a sketch, but there is '
        f'none. Give residual as well: one of {sorted(RESIDUALS)}.',
        'residual_fraction',
        'residual_scale',
        'residual',
      )

  @property
  def fixed_fraction(self) -> float | None:
    """The share as a number; `None` if it is to be measured."""
    return _number(self.residual_fraction)

  @property
  def fixed_scale(self) -> float | None:
    """`residual_scale` likewise; `None` for the one of least error."""
    return _number(self.residual_scale)


def _number(text: str | None) -> float | None:
  return None if text in (None, 'auto') else float(text)
