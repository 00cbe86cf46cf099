"""FedSynth as a method of the experiments: how it is built from its flags."""

import contextlib
import dataclasses

from absl import logging
import tensorflow_federated as tff

from tff_fedsynth import communication
from tff_fedsynth import defense
from tff_fedsynth import forms
from tff_fedsynth import learning_process
from tff_fedsynth import objectives
from tff_fedsynth import options
from tff_fedsynth import privacy
from tff_fedsynth import residual
from tff_fedsynth import specs
from tff_fedsynth import synthesis
from tff_fedsynth.experiments import method
from tff_fedsynth.experiments import probe
from tff_fedsynth.experiments.fedsynth_options import FedSynthOptions
from tff_fedsynth.experiments.fedsynth_options import RESIDUALS
from tff_fedsynth.experiments.method import Built
from tff_fedsynth.experiments.method import Setup
from tff_fedsynth.models import language

# Shares that are measured, beside 1, the sketch alone.
_FRACTIONS = (0.0, 0.2, 0.4, 0.6, 0.8)

# What the library calls otherwise.
_FLAG_OF = {
  'batch_size': 'synthetic_batch_size',
  'bits': 'synthetic_bits',
  'clip_norm': 'dp_clip_norm',
  'decoder': 'synthetic_decoder',
  'delta': 'dp_delta',
  'initial_stddev': 'synthesis_initial_stddev',
  'initial_step_size': 'synthesis_initial_step_size',
  'input_form': 'synthetic_inputs',
  'iterations': 'synthesis_iterations',
  'label_form': 'synthetic_labels',
  'length': 'synthetic_length',
  'noise_multiplier': 'dp_noise_multiplier',
  'resolution': 'synthetic_resolution',
  'steps': 'synthetic_steps',
}


def _given(**values):
  return {k: v for k, v in values.items() if v is not None}


def build(setup: Setup, **fields) -> Built:
  """Builds FedSynth; what is left open is chosen by `specs.BUDGET_RULE`.

  Args:
    setup: What every method gets.
    **fields: Of `FedSynthOptions`.

  Raises:
    BudgetTooSmallError, OptionError: If the options do not go together, or not
      with the budget or the model.
  """
  o = FedSynthOptions(**fields)
  try:
    return _measure_and_build(setup, o)
  except options.OptionError as e:
    raise e.renamed(lambda name: _FLAG_OF.get(name, name)) from e


def _measure_and_build(setup: Setup, o: FedSynthOptions) -> Built:
  chosen = {}
  if o.client_time_ratio is not None:
    chosen['synthesis_iterations'] = _measure_iterations(setup, o)
    chosen['client_time_ratio'] = None  # No longer a question.
    o = dataclasses.replace(o, **chosen)
  if o.residual == 'none':
    built = _build(setup, o, _config(setup, o, 0.0))
    return dataclasses.replace(built, chosen=chosen)
  if setup.budget is None:
    raise options.OptionError(
      'residual shares a budget. Give compression_ratio or uplink_bytes.',
      'residual',
      'compression_ratio',
      'uplink_bytes',
    )
  fraction = o.fixed_fraction
  if fraction is None:
    fraction = _measure_fraction(setup, o)
    chosen['residual_fraction'] = str(fraction)
  if fraction == 1:
    if _defense(o) != defense.DEFAULT or o.dp_clip_norm is not None:
      names = (
        'update_clip_norm',
        'aggregation',
        'max_client_weight',
        'dp_clip_norm',
        'residual_fraction',
      )
      raise options.OptionError(
        f'{", ".join(names[:3])} and {names[3]} need synthetic data, but the '
        f'sketch takes the whole budget. Give {names[4]} below 1, or leave them '
        'out.',
        *names,
      )
    built = method.build_with_codec(RESIDUALS[o.residual], setup)
  else:
    built = _build(setup, o, _config(setup, o, fraction))
  return dataclasses.replace(built, chosen=chosen)


def _defense(o: FedSynthOptions) -> defense.Defense:
  norm = o.update_clip_norm
  if norm not in (None, 'adaptive'):
    norm = float(norm)
  return defense.Defense(
    **_given(
      update_clip_norm=norm,
      aggregation=o.aggregation,
      max_client_weight=o.max_client_weight,
    )
  )


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
      f'Timings are too noisy for client_time_ratio: {few:.3f} and {many:.3f} s '
      f'with {numbers} iterations. Give synthesis_iterations.',
      'client_time_ratio',
      'synthesis_iterations',
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
      f'objective={o.objective} takes one step a real batch, so it has no '
      'synthesis_iterations. Leave it out, or change local_epochs.',
      'objective',
      'synthesis_iterations',
      'local_epochs',
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
