"""What clients upload, by name: each method builds a `LearningProcess`."""

from collections.abc import Callable
import dataclasses

import tensorflow_federated as tff

from baselines import random_mask as random_mask_lib
from tff_fedsynth import learning_process
from tff_fedsynth import specs
from tff_fedsynth import synthesis
from tff_fedsynth.experiments.settings import Settings
from tff_fedsynth.experiments.settings import SettingsError


@dataclasses.dataclass(frozen=True)
class Setup:
  """What every method is built from.

  Attributes:
    settings: Of the run.
    model: To train.
    budget: Bytes that one client may upload a round; `None` for no limit.
  """

  settings: Settings
  model: tff.learning.models.FunctionalModel
  budget: int | None

  @property
  def client_optimizer(self) -> tff.learning.optimizers.Optimizer:
    """SGD, the same for all methods."""
    return tff.learning.optimizers.build_sgdm(
      self.settings.client_learning_rate
    )

  @property
  def process_arguments(self) -> dict[str, object]:
    """Arguments that `build_weighted_fed_avg` and `build_fedsynth` share."""
    weighting = self.settings.client_weighting.upper()
    return dict(
      server_optimizer_fn=tff.learning.optimizers.build_sgdm(
        self.settings.server_learning_rate
      ),
      client_weighting=tff.learning.ClientWeighting[weighting],
    )


@dataclasses.dataclass(frozen=True)
class Built:
  """A method, ready to run.

  Attributes:
    process: The `LearningProcess`.
    description: One line: how the method fills its budget.
    config: How synthetic data are learned, for methods that have them.
  """

  process: tff.learning.templates.LearningProcess
  description: str
  config: synthesis.SynthesisConfig | None = None


def _fed_avg(setup: Setup, aggregator=None):
  return tff.learning.algorithms.build_weighted_fed_avg(
    setup.model,
    setup.client_optimizer,
    model_aggregator=aggregator,
    **setup.process_arguments,
  )


def fedavg(setup: Setup) -> Built:
  """TFF's own FedAvg: every weight in float32, and the client's weight."""
  needed = specs.model_bytes(setup.model) + 4
  if setup.budget is not None and setup.budget < needed:
    raise SettingsError(
      f'fedavg uploads {needed} bytes and cannot go lower, but the budget is '
      f'{setup.budget}. Leave out --compression_ratio and --uplink_bytes.'
    )
  return Built(_fed_avg(setup), 'every weight in float32')


def _random_mask(setup: Setup, unbiased: bool) -> Built:
  parameters = specs.model_parameters(setup.model)
  kept = parameters
  if setup.budget is not None:
    kept = random_mask_lib.kept_values_for_budget(setup.budget, parameters)
  factory = random_mask_lib.RandomMaskFactory(
    kept, unbiased=unbiased, seed=setup.settings.seed
  )
  return Built(
    _fed_avg(setup, tff.aggregators.MeanFactory(factory)),
    f'{kept} of {parameters} values'
    + (', scaled to be unbiased' if unbiased else ', not scaled'),
  )


def random_mask(setup: Setup) -> Built:
  """Random masks of Konecny et al. 2016, scaled by 1/p."""
  return _random_mask(setup, unbiased=True)


def random_mask_unscaled(setup: Setup) -> Built:
  """Random masks of Konecny et al. 2016, as they are."""
  return _random_mask(setup, unbiased=False)


def _given(**values):
  return {k: v for k, v in values.items() if v is not None}


def fedsynth(setup: Setup) -> Built:
  """FedSynth; what the flags leave open is chosen by `specs.BUDGET_RULE`."""
  s = setup.settings
  fields = _given(
    steps=s.synthetic_steps,
    batch_size=s.synthetic_batch_size,
    bits=s.synthetic_bits,
    resolution=s.synthetic_resolution,
  )
  if setup.budget is not None:
    spec = specs.spec_for_budget(setup.model, setup.budget, **fields)
  else:
    spec = specs.build_spec(setup.model, **fields)
  optimizer = None
  if s.synthesis_learning_rate is not None:
    optimizer = tff.learning.optimizers.build_adam(s.synthesis_learning_rate)
  config = synthesis.SynthesisConfig(
    spec,
    **_given(
      objective=s.objective,
      optimizer=optimizer,
      iterations=s.synthesis_iterations,
      initial_stddev=s.synthesis_initial_stddev,
      initial_step_size=s.synthesis_initial_step_size,
      diagnostics=s.diagnostics,
      use_xla=s.use_xla,
    ),
  )
  if config.objective.uses_batches and s.synthesis_iterations is not None:
    raise SettingsError(
      f'--objective={s.objective} takes one step a real batch, so it has no '
      '--synthesis_iterations. Leave it out, or change --local_epochs.'
    )
  arguments = setup.process_arguments
  process = learning_process.build_fedsynth(
    setup.model,
    setup.client_optimizer,
    arguments['server_optimizer_fn'],
    config=config,
    client_weighting=arguments['client_weighting'],
    seed=s.seed,
  )
  return Built(
    process,
    f'{spec.steps} steps of {spec.batch_size} examples, {spec.bits} bits, '
    f'inputs {"x".join(map(str, spec.learned_input_shape))}, '
    f'{spec.payload_bytes} bytes of synthetic data. The rule: '
    f'{specs.BUDGET_RULE}',
    config,
  )


METHODS: dict[str, Callable[[Setup], Built]] = {
  'fedavg': fedavg,
  'fedsynth': fedsynth,
  'random_mask': random_mask,
  'random_mask_unscaled': random_mask_unscaled,
}
