"""How a client learns its synthetic data."""

import dataclasses
import functools

import tensorflow_federated as tff

from tff_fedsynth import options
from tff_fedsynth.client import local_training
from tff_fedsynth.client import objectives
from tff_fedsynth.payload import payload as payload_lib
from tff_fedsynth.payload.sketch import Sketch
from tff_fedsynth.payload.spec import SyntheticSpec

# Bounds client time: an iteration costs what three real examples cost, for each
# synthetic one. A client on 400 real examples takes about twice as long as in FedAvg,
# and three times where there are so many synthetic ones that fewest count.
MOST_ITERATIONS = 40
FEWEST_ITERATIONS = 14
_EXAMPLES_TIMES_ITERATIONS = 250
# Of text. A position waits for the one before, and real sequences are short as well.
_POSITIONS_TIMES_ITERATIONS = 520

_option = functools.partial(options.option, group='FedSynth')
# Options that only objectives with real batches have a use for, and only others.
GROUP_OF_BATCHES = 'Objective data_loss'
GROUP_OF_UPDATES = 'Objectives update_l2 and update_cosine'
_batch_option = functools.partial(options.option, group=GROUP_OF_BATCHES)
_update_option = functools.partial(options.option, group=GROUP_OF_UPDATES)


@dataclasses.dataclass(frozen=True)
class SynthesisConfig:
  """How a client learns its synthetic data.

  Attributes:
    spec: Shapes and encoding of the synthetic data; see `build_spec`.
    objective: Function to minimize: a name in `objectives.OBJECTIVES`, or an own
      `Objective`.
    optimizer: Optimizer of the synthetic data, of `tff.learning.optimizers`, or
      a function that returns one; Adam of the next three if `None`.
    learning_rate: Learning rate of that Adam.
    beta_1: Its decay of the mean gradient, the momentum.
    beta_2: Its decay of the mean square.
    iterations: Number of meta-steps of objectives that do not use real batches;
      the others take one a batch and epoch. If `None`, at most `MOST_ITERATIONS`,
      and fewer where there are many examples or positions of text, down to
      `FEWEST_ITERATIONS`.
    minimum_gain: Early stopping's relative min_delta: learning stops when three
      iterations in a row, its patience, lessen the objective by a smaller share;
      with 0 it never does.
    label_steps: Number of steps of conjugate gradients (cg_steps) on the labels
      after that, where labels can be solved for; see `synthesis.solve_labels`.
    proximal: Weight of |update|^2, added to objectives that use real batches (Li
      et al. 2020, arXiv 1812.06127, equation 2).
    passes: Number of epochs over the client's batches, of such objectives.
    label_learning_rate: Learning rate of labels, for such objectives: labels are
      learned as multiples of label_learning_rate / learning_rate, also by
      another optimizer.
    initial_stddev: Standard deviation of the noise to start from.
    initial_step_size: Sum over the steps of the step sizes to start from.
    residual: `Sketch` of the residual, sent beside synthetic data; `None` leaves
      it out.
    diagnostics: Whether to measure local losses, and the cosine for objectives
      without a target; costs up to one local training and three epochs of
      evaluation on the real data.
    use_xla: Whether XLA compiles the meta-loop of objectives that do not use
      real batches. Slower for convolutions on a CPU; measure.
    loop_implementation: How real batches are read, as in
      `tff.learning.algorithms.build_weighted_fed_avg`. `DATASET_ITERATOR` takes
      half the time on a CPU, but can stall a TFF worker that has one core (see
      `tff_worker.start`).
    seed: Seed of all randomness on clients, a 32-bit integer; it travels in the
      state.

  Raises:
    UnknownObjectiveError: If no objective has the name.
    OptionError: If a number is out of its range.
    TypeError: If the optimizer is not from `tff.learning.optimizers`.
  """

  spec: SyntheticSpec
  objective: str | objectives.Objective = _option(
    'update_l2',
    'Chooses what synthetic data minimize: the distance or the angle between '
    'their update and the local one, or the loss on real data.',
    objectives.OBJECTIVES,
    is_plain=True,
  )
  optimizer: tff.learning.optimizers.Optimizer | None = None
  iterations: int | None = _update_option(
    None,
    'Sets how many optimizer steps synthetic data are learned in.',
    default_text=(
      f'{_EXAMPLES_TIMES_ITERATIONS} by the examples, or '
      f'{_POSITIONS_TIMES_ITERATIONS} by the positions of text, from '
      f'{FEWEST_ITERATIONS} to {MOST_ITERATIONS}'
    ),
    minimum=1,
  )
  minimum_gain: float = _update_option(
    0.0,
    'Sets min_delta of early stopping, as a share of the objective: learning stops '
    'when three iterations in a row, its patience, lessen it by less.',
    minimum=0,
    below=1,
  )
  label_steps: int = _update_option(
    5,
    'Sets how many steps of conjugate gradients solve for the labels at the end.',
    minimum=0,
  )
  learning_rate: float = _option(
    0.15, 'Sets the learning rate of Adam on synthetic data.', above=0
  )
  beta_1: float = _option(
    0.5,
    'Sets the momentum of Adam on synthetic data.',
    minimum=0,
    below=1,
  )
  beta_2: float = _option(
    0.9,
    'Sets the decay of squared gradients in Adam on synthetic data.',
    minimum=0,
    below=1,
  )
  proximal: float = _batch_option(
    0.5,
    'Weighs the squared length of the update, which is added to the loss on real '
    'data: without it, clients leave the region that their mean is good in.',
    minimum=0,
  )
  passes: int = _batch_option(
    2,
    'Sets how many epochs a client learns synthetic data on its batches.',
    minimum=1,
  )
  label_learning_rate: float = _batch_option(
    0.1, 'Sets the learning rate of Adam on synthetic labels.', above=0
  )
  initial_stddev: float = _option(
    0.1,
    'Sets the standard deviation of the noise that synthetic data start from.',
    minimum=0,
  )
  initial_step_size: float = _option(
    1.0,
    'Sets the sum of the step sizes that synthetic data start from.',
    above=0,
  )
  residual: Sketch | None = None
  diagnostics: bool = _option(
    False,
    'Measures local losses too, at the cost of three more epochs of evaluation.',
    is_plain=True,
  )
  use_xla: bool = _option(
    False, 'Compiles the learning of synthetic data with XLA.', is_plain=True
  )
  loop_implementation: tff.learning.LoopImplementation = (
    tff.learning.LoopImplementation.DATASET_REDUCE
  )
  seed: int = options.limited(0, minimum=-options.MAX_INTEGER)

  def __post_init__(self):
    options.check(self, without=('objective',))
    optimizer = self.optimizer
    if optimizer is None:
      optimizer = tff.learning.optimizers.build_adam(
        self.learning_rate, beta_1=self.beta_1, beta_2=self.beta_2
      )
    optimizer = local_training.get_optimizer('optimizer', optimizer)
    # Frozen: a name is replaced by what it stands for once, here.
    object.__setattr__(self, 'optimizer', optimizer)
    objective = objectives.get_objective(self.objective)
    object.__setattr__(self, 'objective', objective)
    if self.iterations is None:
      iterations = max(
        FEWEST_ITERATIONS, min(MOST_ITERATIONS, self._affordable)
      )
      object.__setattr__(self, 'iterations', iterations)

  @property
  def _affordable(self) -> int:
    """Iterations that take a bounded time."""
    spec = self.spec
    examples = spec.steps * spec.batch_size
    if spec.is_text:
      return _POSITIONS_TIMES_ITERATIONS // (examples * spec.input_shape[0])
    return _EXAMPLES_TIMES_ITERATIONS // examples

  @property
  def payload(self):
    """Payload that is uploaded, one of the kinds in `payload.payload`."""
    data = payload_lib.SyntheticPayload(self.spec)
    if self.residual is None:
      return data
    both = payload_lib.SketchedPayload(data, self.residual)
    if self.residual.alone is None:
      return both
    return payload_lib.EitherPayload(both)

  @property
  def solves_labels(self) -> bool:
    """Whether labels are solved for, once inputs are learned.

    One step with a loss that is linear in them makes that a least-squares
    problem.
    """
    return (
      self.label_steps > 0
      and self.objective.is_least_squares
      and self.spec.steps == 1
      and self.spec.has_linear_labels
    )

  @property
  def measures_target(self) -> bool:
    """Whether local training takes place."""
    return (
      self.objective.uses_target
      or self.diagnostics
      or self.residual is not None
    )
