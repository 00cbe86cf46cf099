"""FedSynth as a method of the experiments: its flags, and how it is built."""

import contextlib
import dataclasses
import functools

from absl import logging
import tensorflow_federated as tff

from baselines.cross_polytope import CrossPolytope
from baselines.drive import Drive
from baselines.random_mask import RandomMask
from tff_fedsynth import communication
from tff_fedsynth import decoders
from tff_fedsynth import defense
from tff_fedsynth import forms
from tff_fedsynth import learning_process
from tff_fedsynth import objectives
from tff_fedsynth import options
from tff_fedsynth import privacy
from tff_fedsynth import residual
from tff_fedsynth import scaling
from tff_fedsynth import specs
from tff_fedsynth import synthesis
from tff_fedsynth.experiments import method
from tff_fedsynth.experiments import probe
from tff_fedsynth.experiments.method import Built
from tff_fedsynth.experiments.method import Setup
from tff_fedsynth.models import language
from tff_fedsynth.options import option

# Shares that are measured, beside 1, the sketch alone.
_FRACTIONS = (0.0, 0.2, 0.4, 0.6, 0.8)

# What may sketch the residual: a codec, and the options that make it unbiased.
RESIDUALS = {
  'cross_polytope': CrossPolytope.for_budget,
  'drive': functools.partial(Drive.for_budget, scale='unbiased'),
  'random_mask': functools.partial(RandomMask.for_budget, bits=8),
}


@dataclasses.dataclass(frozen=True)
class FedSynthOptions:
  """Flags of FedSynth; `None` is the method's own default, or `BUDGET_RULE`."""

  objective: str | None = option(None, 'What synthetic data minimise.')
  synthetic_steps: int | None = option(
    None, 'Synthetic batches, one step each.'
  )
  synthetic_batch_size: int | None = option(None, 'Examples in each of them.')
  synthetic_bits: int | None = option(None, 'Bits a value: 32, 16, 8, 4 or 2.')
  synthetic_resolution: int | None = option(
    None, 'Side that images are sent at; 0 for their own.'
  )
  synthetic_decoder: str | None = option(
    None, f'From that to images: {", ".join(decoders.DECODERS)}.'
  )
  layer_scales: bool | None = option(
    None, 'Send a final scale for each weight tensor, not one for all.'
  )
  scaling: str | None = option(
    None, f'How final scales are chosen: {", ".join(scaling.SCALINGS)}.'
  )
  synthetic_inputs: str | None = option(
    None, 'For text: embeddings, soft_tokens or token_queries.'
  )
  synthetic_labels: str | None = option(
    None,
    'signed, the default with an update to match; distributions; for text sparse '
    'or output_vectors, too.',
  )
  synthetic_length: int | None = option(
    None, 'For text: positions of a synthetic sequence.'
  )
  synthesis_iterations: int | None = option(
    None,
    'Optimizer steps on the synthetic data; data_loss takes one a real batch.',
  )
  client_time_ratio: float | None = option(
    None,
    'In place of that number: client time over that of local training alone; '
    'measured before the run.',
  )
  synthesis_learning_rate: float | None = option(None, 'Of Adam on them.')
  synthesis_initial_stddev: float | None = option(
    None, 'Noise they start from.'
  )
  synthesis_initial_step_size: float | None = option(
    None, 'Sum of the step sizes they start from.'
  )
  diagnostics: bool | None = option(
    None, 'Measure local losses too, at the cost of extra passes.'
  )
  use_xla: bool | None = option(None, 'Compile the synthesis loop with XLA.')
  residual: str = option(
    'none', 'Sketch of what synthetic data miss.', ('none', *RESIDUALS)
  )
  residual_fraction: str | None = option(
    None,
    'Share of the budget that goes to that sketch, 0 to 1, or auto, the default: '
    'measured in a few rounds.',
  )
  residual_scale: str | None = option(
    None,
    'What the sketch is multiplied with, above 0 and at most 1, which makes the '
    'whole unbiased; or auto, the default: what leaves the least error.',
  )
  update_clip_norm: str | None = option(
    None, 'Largest norm of a replayed update, or adaptive.'
  )
  aggregation: str | None = option(
    None, f'Of replayed updates: mean, {", ".join(defense.ROBUST)}.'
  )
  max_client_weight: float | None = option(
    None, 'Most that a client can weigh.'
  )
  dp_noise_multiplier: float | None = option(
    None, 'Differential privacy: noise of the sum of updates over dp_clip_norm.'
  )
  dp_clip_norm: float | None = option(
    None, 'Differential privacy: largest norm of a replayed update.'
  )
  dp_delta: float | None = option(
    None, 'Differential privacy: delta for which epsilon is told; 1e-5.'
  )

  def __post_init__(self):
    options.check(self)
    options.check_at_least_one(self, 'synthesis_iterations', 'synthetic_length')
    if (self.dp_noise_multiplier is None) != (self.dp_clip_norm is None):
      raise options.OptionError(
        'dp_noise_multiplier and dp_clip_norm make differential privacy '
        'together. Give both or none.'
      )
    if self.dp_delta is not None and self.dp_clip_norm is None:
      raise options.OptionError('dp_delta needs dp_clip_norm. Leave it out.')
    if self.dp_clip_norm is not None:
      measured = self.residual != 'none' and self.fixed_fraction is None
      if measured or self.client_time_ratio is not None:
        raise options.OptionError(
          'What is measured on clients before the run is not covered by '
          'differential privacy. Give --residual_fraction as a number and '
          '--synthesis_iterations in place of --client_time_ratio.'
        )
    if self.client_time_ratio is not None:
      if not self.client_time_ratio > 1:
        raise options.OptionError(
          'client_time_ratio must be above 1, the time of local training, '
          f'found {self.client_time_ratio}.'
        )
      if self.synthesis_iterations is not None:
        raise options.OptionError(
          '--client_time_ratio chooses --synthesis_iterations. Give one.'
        )
    fraction, scale = self.fixed_fraction, self.fixed_scale
    if fraction is not None and not 0 <= fraction <= 1:
      raise options.OptionError(
        'residual_fraction must be between 0 and 1, or auto, found '
        f'{self.residual_fraction}.'
      )
    if scale is not None and not 0 < scale <= 1:
      raise options.OptionError(
        'residual_scale must be above 0 and at most 1, or auto, found '
        f'{self.residual_scale}.'
      )

  def _number(self, name: str) -> float | None:
    text = getattr(self, name)
    if text in (None, 'auto'):
      return None
    try:
      return float(text)
    except ValueError as e:
      raise options.OptionError(
        f'{name} must be a number or auto, found {text!r}.'
      ) from e

  @property
  def fixed_fraction(self) -> float | None:
    """The share as a number; `None` if it is to be measured.

    Raises:
      OptionError: If it is neither a number nor auto.
    """
    return self._number('residual_fraction')

  @property
  def fixed_scale(self) -> float | None:
    """`residual_scale` likewise; `None` for the one of least error."""
    return self._number('residual_scale')


def _given(**values):
  return {k: v for k, v in values.items() if v is not None}


def build(setup: Setup, **fields) -> Built:
  """Builds FedSynth; what is left open is chosen by `specs.BUDGET_RULE`.

  Args:
    setup: What every method gets.
    **fields: Of `FedSynthOptions`.

  Raises:
    BudgetTooSmallError, OptionError, SyntheticSpecError, UnknownObjectiveError:
      If the options do not go together, or not with the budget or the model.
  """
  o = FedSynthOptions(**fields)
  chosen = {}
  if o.client_time_ratio is not None:
    chosen['synthesis_iterations'] = _measure_iterations(setup, o)
    chosen['client_time_ratio'] = None  # No longer a question.
    o = dataclasses.replace(o, **chosen)
  if o.residual == 'none':
    if o.residual_fraction is not None or o.residual_scale is not None:
      raise options.OptionError(
        '--residual_fraction and --residual_scale are of a sketch, but there is '
        f'none. Give --residual as well: one of {sorted(RESIDUALS)}.'
      )
    built = _build(setup, o, _config(setup, o, 0.0))
    return dataclasses.replace(built, chosen=chosen)
  if setup.budget is None:
    raise options.OptionError(
      '--residual shares a budget. Give --compression_ratio or --uplink_bytes.'
    )
  fraction = o.fixed_fraction
  if fraction is None:
    fraction = _measure_fraction(setup, o)
    chosen['residual_fraction'] = str(fraction)
  if fraction == 1:
    if _defense(o) != defense.DEFAULT or o.dp_clip_norm is not None:
      raise options.OptionError(
        '--update_clip_norm, --aggregation, --max_client_weight and --dp_* need '
        'synthetic data, but the sketch takes the whole budget. Give '
        '--residual_fraction below 1, or leave them out.'
      )
    built = method.build_with_codec(RESIDUALS[o.residual], setup)
  else:
    built = _build(setup, o, _config(setup, o, fraction))
  return dataclasses.replace(built, chosen=chosen)


def _defense(o: FedSynthOptions) -> defense.Defense:
  norm = o.update_clip_norm
  try:
    if norm not in (None, 'adaptive'):
      norm = float(norm)
    return defense.Defense(
      **_given(
        update_clip_norm=norm,
        aggregation=o.aggregation,
        max_client_weight=o.max_client_weight,
      )
    )
  except ValueError as e:
    raise options.OptionError(str(e)) from e


def _privacy(setup: Setup, o: FedSynthOptions) -> privacy.CentralPrivacy | None:
  if o.dp_clip_norm is None:
    return None
  return privacy.CentralPrivacy(
    o.dp_clip_norm,
    o.dp_noise_multiplier,
    setup.settings.clients_per_round,
    **_given(delta=o.dp_delta),
  )


def _measure_iterations(setup: Setup, o: FedSynthOptions) -> int:
  """How many iterations take the time asked for, by two measurements.

  Time is a + b iterations; a is local training and what comes once.
  """
  numbers = 5, 45
  options_of = lambda n: dataclasses.replace(
    o, synthesis_iterations=n, client_time_ratio=None
  )
  configs = [_config(setup, options_of(n), 0.0) for n in numbers]
  few, many = (
    p.seconds for p in probe.measure(setup, configs, rounds=(1,), clients=8)
  )
  each = (many - few) / (numbers[1] - numbers[0])
  once = few - numbers[0] * each
  if each <= 0 or once <= 0:
    raise options.OptionError(
      f'Timings are too noisy for --client_time_ratio: {few:.3f} and '
      f'{many:.3f} s with {numbers} iterations. Give --synthesis_iterations.'
    )
  return max(1, int((o.client_time_ratio - 1) * once / each))


def _averaged(setup: Setup) -> int:
  return residual.HORIZON * setup.settings.clients_per_round


def _sketch(setup: Setup, o: FedSynthOptions, budget: float) -> residual.Sketch:
  """The sketch that fills some bytes."""
  shapes = specs.model_shapes(setup.model)
  codec = RESIDUALS[o.residual](budget, shapes)
  scale = o.fixed_scale
  if scale is None:
    scale = residual.best_scale(codec, shapes, _averaged(setup))
  return residual.Sketch(codec, scale)


def _measure_fraction(setup: Setup, o: FedSynthOptions) -> float:
  """The share of the budget that leaves the least error; see `residual`."""
  shapes = specs.model_shapes(setup.model)
  configs = {}
  for fraction in _FRACTIONS:
    with contextlib.suppress(communication.BudgetTooSmallError):
      configs[fraction] = _config(setup, o, fraction)
  measured = [(1.0, 0.0, _sketch(setup, o, setup.codec_budget))]
  probes = probe.measure(setup, list(configs.values()))
  for (fraction, config), probed in zip(configs.items(), probes):
    measured.append((fraction, probed.squared_cosine, config.residual))
  splits = [
    residual.Split(
      fraction,
      square,
      residual.relative_error(square, sketch, shapes, _averaged(setup)),
    )
    for fraction, square, sketch in measured
  ]
  for split in splits:
    logging.info('%s', split)
  return residual.best_split(splits).fraction


def _config(
  setup: Setup, o: FedSynthOptions, fraction: float
) -> synthesis.SynthesisConfig:
  """FedSynth with a share of the budget for a sketch of the residual."""
  spec = _spec(setup, o, fraction)
  sketch = None
  if fraction:
    sketch = _sketch(setup, o, setup.codec_budget - spec.payload_bytes)
  optimizer = None
  if o.synthesis_learning_rate is not None:
    optimizer = tff.learning.optimizers.build_adam(o.synthesis_learning_rate)
  config = synthesis.SynthesisConfig(
    spec,
    loop_implementation=method.LOOP,
    **_given(
      objective=o.objective,
      optimizer=optimizer,
      iterations=o.synthesis_iterations,
      initial_stddev=o.synthesis_initial_stddev,
      initial_step_size=o.synthesis_initial_step_size,
      scaling=o.scaling,
      residual=sketch,
      diagnostics=o.diagnostics,
      use_xla=o.use_xla,
    ),
  )
  if config.objective.uses_batches and o.synthesis_iterations is not None:
    raise options.OptionError(
      f'--objective={o.objective} takes one step a real batch, so it has no '
      '--synthesis_iterations. Leave it out, or change --local_epochs.'
    )
  return config


def _label_form(setup: Setup, o: FedSynthOptions) -> str | None:
  """The paper's soft labels for the paper's loss; `None` for the default."""
  objective = objectives.get_objective(o.objective or 'update_l2')
  is_text = isinstance(setup.model, language.LanguageModel)
  if objective.uses_target or is_text:
    return None
  return forms.soft_label_form(setup.model)


def _spec(setup: Setup, o: FedSynthOptions, fraction: float):
  """The synthetic data for the rest of the budget."""
  fields = _given(
    steps=o.synthetic_steps,
    batch_size=o.synthetic_batch_size,
    bits=o.synthetic_bits,
    resolution=o.synthetic_resolution,
    decoder=o.synthetic_decoder,
    layer_scales=o.layer_scales,
    input_form=o.synthetic_inputs,
    label_form=o.synthetic_labels or _label_form(setup, o),
    length=o.synthetic_length,
  )
  if setup.budget is None:
    return specs.build_spec(setup.model, **fields)
  budget = int((1 - fraction) * setup.budget)
  return specs.spec_for_budget(setup.model, budget, **fields)


def _build(
  setup: Setup, o: FedSynthOptions, config: synthesis.SynthesisConfig
) -> Built:
  arguments = setup.process_arguments
  process = learning_process.build_fedsynth(
    setup.model,
    setup.client_optimizer,
    arguments['server_optimizer_fn'],
    config=config,
    client_weighting=arguments['client_weighting'],
    defense=_defense(o),
    privacy=_privacy(setup, o),
    seed=setup.settings.seed,
  )
  spec = config.spec
  iterations = sketch = ''
  if not config.objective.uses_batches:
    iterations = f' learned in {config.iterations} iterations'
  if config.residual is not None:
    shapes = specs.model_shapes(setup.model)
    described = config.residual.codec.describe(shapes)
    sketch = f', and of the rest {described}, times {config.residual.scale:.3g}'
  return Built(
    process,
    f'{spec.steps} steps of {spec.batch_size} examples, {spec.bits} bits, '
    f'inputs {"x".join(map(str, spec.learned_input_shape))}, '
    f'{spec.input_form} and {spec.label_form}, {spec.payload_bytes} bytes of '
    f'synthetic data{iterations}{sketch}. The rule: {specs.budget_rule(setup.model)}',
    config,
    privacy=_privacy(setup, o),
  )
