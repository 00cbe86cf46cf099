"""FedSynth from its flags, with a given share of the budget for a sketch."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from baselines.cross_polytope import CrossPolytope
from baselines.drive import Drive
from baselines.random_mask import RandomMask
from tff_fedsynth import budget as budget_lib
from tff_fedsynth import learning_process
from tff_fedsynth import options
from tff_fedsynth.client.config import GROUP_OF_BATCHES
from tff_fedsynth.client.config import GROUP_OF_UPDATES
from tff_fedsynth.client.config import SynthesisConfig
from tff_fedsynth.errors import OptionError
from tff_fedsynth.experiments.methods import server
from tff_fedsynth.experiments.settings.setup import Built
from tff_fedsynth.experiments.settings.setup import LOOP
from tff_fedsynth.experiments.settings.setup import Setup
from tff_fedsynth.models.weights import model_shapes
from tff_fedsynth.options import Group
from tff_fedsynth.payload import sketch as sketch_lib
from tff_fedsynth.payload.payload import CHOICE_BYTES
from tff_fedsynth.payload.payload import SyntheticPayload
from tff_fedsynth.payload.sketch import Sketch
from tff_fedsynth.payload.spec import SyntheticSpec

# What may sketch the residual: a codec, and the options that make it unbiased.
RESIDUALS = {
  'cross_polytope': CrossPolytope.for_budget,
  'drive': functools.partial(Drive.for_budget, scale='unbiased'),
  'random_mask': functools.partial(RandomMask.for_budget, bits=8),
}
NONE = 'none'
AUTO = 'auto'

_sketch_option = functools.partial(options.option, group='Sketch')


@dataclasses.dataclass(frozen=True)
class SketchOptions:
  """How a sketch is made for a budget.

  Attributes:
    residual: A name in `RESIDUALS`, or none.
    residual_fraction: Share of the budget; `None` and auto measure it.
    residual_scale: Of the `Sketch`; `None` and auto leave the least error.
    residual_alone: Whether clients may send the sketch alone.
  """

  residual: str = _sketch_option(
    NONE,
    'Chooses the codec that sketches what synthetic data miss.',
    (NONE, *RESIDUALS),
  )
  residual_fraction: float | str | None = _sketch_option(
    None,
    'Sets the share of the budget that goes to the sketch; auto measures the '
    'share of least error in rounds 10 and 20 of FedAvg, with a server learning '
    'rate of 1.',
    default_text=AUTO,
    minimum=0,
    maximum=1,
    words=(AUTO,),
  )
  residual_scale: float | str | None = _sketch_option(
    None,
    'Sets what the sketch is multiplied with: 1 makes the whole unbiased, auto '
    'leaves the least error.',
    default_text=AUTO,
    **{**options.limits_of(Sketch, 'scale'), 'words': (AUTO,)},
  )
  residual_alone: bool = _sketch_option(
    True,
    'Lets each client send a sketch of its whole update, and no synthetic data, where '
    'that misses less.',
  )


_SPEC = Group(SyntheticSpec, 'synthetic_')
_SEQUENCES = Group(budget_lib.Sequences, 'synthetic_')
_SYNTHESIS = Group(SynthesisConfig, 'synthesis_')
GROUPS = (
  _SPEC,
  _SEQUENCES,
  _SYNTHESIS,
  Group(SketchOptions),
  *server.GROUPS,
)
_OF_OBJECTIVES = {
  group: [
    flag
    for flag, field in _SYNTHESIS.flags.items()
    if field.metadata['group'] == group
  ]
  for group in (GROUP_OF_BATCHES, GROUP_OF_UPDATES)
}
# What replaces a budget: the size of the synthetic data, but for what the model
# and `BUDGET_RULE` leave as it is.
SIZE_OPTIONS = tuple(map(_SPEC.flag, ('steps', 'batch_size', 'bits')))


def number(value: float | str | None) -> float | None:
  """A number, or `None` for what is to be measured."""
  return None if value in (None, AUTO) else float(value)


def averaged(setup: Setup) -> int:
  """Clients of all rounds whose residuals count as alike."""
  return sketch_lib.HORIZON * setup.settings.clients_per_round


def sketch(setup: Setup, values: Mapping[str, Any], budget: float) -> Sketch:
  """The sketch that fills some bytes."""
  shapes = model_shapes(setup.model)
  codec = RESIDUALS[values['residual']](budget, shapes)
  scale = number(values.get('residual_scale'))
  if scale is None:
    scale = sketch_lib.best_scale(codec, shapes, averaged(setup))
  return Sketch(codec, scale)


def _residual(
  setup: Setup, values: Mapping[str, Any], data_bytes: int
) -> Sketch:
  """The sketch beside synthetic data, and that of clients who leave them out."""
  if not values.get('residual_alone', SketchOptions.residual_alone):
    return sketch(setup, values, setup.codec_budget - data_bytes)
  budget = setup.codec_budget - CHOICE_BYTES
  alone = sketch(setup, values, budget).codec
  return dataclasses.replace(
    sketch(setup, values, budget - data_bytes), alone=alone
  )


def config(
  setup: Setup, values: Mapping[str, Any], fraction: float
) -> SynthesisConfig:
  """How clients learn, with a share of the budget for a sketch.

  Args:
    setup: What every method gets.
    values: Of flags in `GROUPS`, those given.
    fraction: The share, below 1.

  Raises:
    BudgetTooSmallError, OptionError: If they do not go together, or not with the
      budget or the model.
  """
  spec = _spec(setup, values, fraction)
  residual = None
  if fraction:
    residual = _residual(setup, values, SyntheticPayload(spec).data_bytes)
  made = SynthesisConfig(
    spec,
    residual=residual,
    loop_implementation=LOOP,
    seed=setup.settings.seed,
    **_SYNTHESIS.arguments(values),
  )
  _check_objective(made, values)
  return made


def _check_objective(made: SynthesisConfig, values: Mapping[str, Any]) -> None:
  """Raises `OptionError` for flags that the objective has no use for."""
  objective = values.get('objective', SynthesisConfig.objective)
  uses_batches = made.objective.uses_batches
  unused = GROUP_OF_UPDATES if uses_batches else GROUP_OF_BATCHES
  steps = (
    'one step a real batch' if uses_batches else 'no steps on real batches'
  )
  for flag in _OF_OBJECTIVES[unused]:
    if flag in values:
      raise OptionError(
        f'objective={objective} takes {steps}, so it has no {flag}. Leave it out, or '
        'choose another objective.',
        'objective',
        flag,
      )


def _spec(
  setup: Setup, values: Mapping[str, Any], fraction: float
) -> SyntheticSpec:
  """The synthetic data for the rest of the budget."""
  fields = {
    **_SPEC.arguments(values),
    **_SEQUENCES.arguments(values),
  }
  if setup.budget is None:
    return budget_lib.build_spec(setup.model, **fields)
  budget = int((1 - fraction) * setup.budget)
  return budget_lib.spec_for_budget(setup.model, budget, **fields)


def build(setup: Setup, values: Mapping[str, Any], fraction: float) -> Built:
  """Builds FedSynth; what is left open is chosen by `budget.BUDGET_RULE`.

  Arguments and errors are those of `config`.
  """
  made = config(setup, values, fraction)
  server_config = server.config(setup, values)
  process = learning_process.build_fedsynth(
    *setup.trained,
    config=made,
    client_weighting=setup.client_weighting,
    server=server_config,
  )
  return Built(
    process, _describe(setup, made), made, privacy=server_config.privacy
  )


def _describe(setup: Setup, made: SynthesisConfig) -> str:
  spec = made.spec
  iterations = residual = ''
  if not made.objective.uses_batches:
    iterations = f' learned in {made.iterations} iterations'
  if made.residual is not None:
    described = made.residual.codec.describe(model_shapes(setup.model))
    residual = f', and of the rest {described}, times {made.residual.scale:.3g}'
    if made.residual.alone is not None:
      residual += ', or a sketch alone where that misses less'
  return (
    f'{spec.steps} steps of {spec.batch_size} examples, {spec.bits} bits, '
    f'inputs {"x".join(map(str, spec.learned_shapes["inputs"]))}, '
    f'{spec.input_form} and {spec.label_form}, {made.payload.data_bytes} bytes '
    f'of synthetic data{iterations}{residual}. The rule: '
    f'{budget_lib.budget_rule(setup.model)}'
  )
