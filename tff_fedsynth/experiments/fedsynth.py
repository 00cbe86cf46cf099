"""FedSynth as a method of the experiments: its flags, and how it is built."""

import dataclasses

import tensorflow_federated as tff

from tff_fedsynth import learning_process
from tff_fedsynth import options
from tff_fedsynth import specs
from tff_fedsynth import synthesis
from tff_fedsynth.experiments.method import Built
from tff_fedsynth.experiments.method import Setup
from tff_fedsynth.options import option


@dataclasses.dataclass(frozen=True)
class FedSynthOptions:
  """Flags of FedSynth; `None` is the method's own default, or `BUDGET_RULE`."""

  objective: str | None = option(None, 'What synthetic data minimise.')
  synthetic_steps: int | None = option(
    None, 'Synthetic batches, one step each.'
  )
  synthetic_batch_size: int | None = option(None, 'Examples in each of them.')
  synthetic_bits: int | None = option(None, 'Bits a value: 32, 8 or 4.')
  synthetic_resolution: int | None = option(
    None, 'Side that images are sent at; 0 for their own.'
  )
  synthetic_inputs: str | None = option(
    None, 'For text: embeddings, soft_tokens or token_queries.'
  )
  synthetic_labels: str | None = option(
    None, 'For text: distributions, signed, sparse or output_vectors.'
  )
  synthetic_length: int | None = option(
    None, 'For text: positions of a synthetic sequence.'
  )
  synthesis_iterations: int | None = option(
    None,
    'Optimizer steps on the synthetic data; data_loss takes one a real batch.',
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

  def __post_init__(self):
    options.check_at_least_one(self, 'synthesis_iterations', 'synthetic_length')


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
  resolution = o.synthetic_resolution
  if resolution == 0:
    shape = setup.model.input_spec[0].shape
    resolution = min(shape[1:3]) if len(shape) == 4 else None
  spec_fields = _given(
    steps=o.synthetic_steps,
    batch_size=o.synthetic_batch_size,
    bits=o.synthetic_bits,
    resolution=resolution,
    input_form=o.synthetic_inputs,
    label_form=o.synthetic_labels,
    length=o.synthetic_length,
  )
  if setup.budget is not None:
    spec = specs.spec_for_budget(setup.model, setup.budget, **spec_fields)
  else:
    spec = specs.build_spec(setup.model, **spec_fields)
  optimizer = None
  if o.synthesis_learning_rate is not None:
    optimizer = tff.learning.optimizers.build_adam(o.synthesis_learning_rate)
  config = synthesis.SynthesisConfig(
    spec,
    **_given(
      objective=o.objective,
      optimizer=optimizer,
      iterations=o.synthesis_iterations,
      initial_stddev=o.synthesis_initial_stddev,
      initial_step_size=o.synthesis_initial_step_size,
      diagnostics=o.diagnostics,
      use_xla=o.use_xla,
    ),
  )
  if config.objective.uses_batches and o.synthesis_iterations is not None:
    raise options.OptionError(
      f'--objective={o.objective} takes one step a real batch, so it has no '
      '--synthesis_iterations. Leave it out, or change --local_epochs.'
    )
  arguments = setup.process_arguments
  process = learning_process.build_fedsynth(
    setup.model,
    setup.client_optimizer,
    arguments['server_optimizer_fn'],
    config=config,
    client_weighting=arguments['client_weighting'],
    seed=setup.settings.seed,
  )
  return Built(
    process,
    f'{spec.steps} steps of {spec.batch_size} examples, {spec.bits} bits, '
    f'inputs {"x".join(map(str, spec.learned_input_shape))}, '
    f'{spec.input_form} and {spec.label_form}, {spec.payload_bytes} bytes of '
    f'synthetic data. The rule: {specs.budget_rule(setup.model)}',
    config,
  )
