"""What a method is made from and gives; TFF's FedAvg with any aggregator."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import math

import tensorflow as tf
import tensorflow_federated as tff

from baselines import aggregation
from tff_fedsynth import clipping
from tff_fedsynth import codec as codec_lib
from tff_fedsynth import communication
from tff_fedsynth import privacy as privacy_lib
from tff_fedsynth import specs
from tff_fedsynth import synthesis
from tff_fedsynth.experiments.settings import Settings
from tff_fedsynth.experiments.settings import SettingsError
from tff_fedsynth.plugin import Plugin

_WEIGHT_BYTES = 4
# Half the time of TFF's default on a CPU, for all methods alike.
LOOP = tff.learning.LoopImplementation.DATASET_ITERATOR

_SERVER_OPTIMIZERS = {
  'sgd': tff.learning.optimizers.build_sgdm,
  'momentum': lambda rate: tff.learning.optimizers.build_sgdm(rate, 0.9),
  # A large epsilon, as Reddi et al. 2020 (arXiv 2003.00295) found best.
  'adam': lambda rate: tff.learning.optimizers.build_adam(rate, epsilon=1e-3),
}


@dataclasses.dataclass(frozen=True)
class Setup:
  """What every method is built from.

  Attributes:
    settings: Of the run.
    model: To train.
    budget: Bytes that one client may upload a round; `None` for no limit.
    round_data: From the number of a round to its clients' batches, for methods
      that measure before they train.
  """

  settings: Settings
  model: tff.learning.models.FunctionalModel
  budget: int | None
  round_data: Callable[[int], list[tf.data.Dataset]]

  @property
  def codec_budget(self) -> float:
    """Bytes that the client's weight leaves; infinite without a budget."""
    return math.inf if self.budget is None else self.budget - _WEIGHT_BYTES

  @property
  def client_optimizer(self) -> tff.learning.optimizers.Optimizer:
    """SGD, the same for all methods."""
    s = self.settings
    optimizer = tff.learning.optimizers.build_sgdm(s.client_learning_rate)
    if s.client_clip_norm is not None:
      optimizer = clipping.ClippedOptimizer(optimizer, s.client_clip_norm)
    return optimizer

  @property
  def process_arguments(self) -> dict[str, object]:
    """Arguments that `build_weighted_fed_avg` and `build_fedsynth` share."""
    s = self.settings
    weighting = s.client_weighting.upper()
    return dict(
      server_optimizer_fn=_SERVER_OPTIMIZERS[s.server_optimizer](
        s.server_learning_rate
      ),
      client_weighting=tff.learning.ClientWeighting[weighting],
    )


@dataclasses.dataclass(frozen=True)
class Method(Plugin):
  """What clients upload, as a plugin.

  Attributes:
    needs_budget: Whether it has no size of its own, or saves nothing with it.
    size_options: Options that give a size in place of a budget, all of them.
  """

  needs_budget: bool = False
  size_options: tuple[str, ...] = ()

  def check_budget(self, settings: Settings) -> None:
    """Raises `SettingsError` where a budget is needed and not given."""
    has_budget = settings.compression_ratio or settings.uplink_bytes
    has_size = self.size_options and all(
      name in settings.options for name in self.size_options
    )
    if has_budget or has_size or not self.needs_budget:
      return
    *first, last = (f'--{name}' for name in self.size_options or (None,))
    all_of = f'all of {", ".join(first)} and {last}' if first else last
    raise SettingsError(
      f'--method={settings.method} needs a budget: give --compression_ratio or '
      f'--uplink_bytes{f", or {all_of}" if self.size_options else ""}.'
    )


@dataclasses.dataclass(frozen=True)
class Built:
  """A method, ready to run.

  Attributes:
    process: The `LearningProcess`.
    description: One line: how the method fills its budget.
    config: How synthetic data are learned, for methods that have them.
    chosen: Options that were measured for the run; kept beside it, so that it
      goes on with the same.
    privacy: The differential privacy of its models, if there is any.
  """

  process: tff.learning.templates.LearningProcess
  description: str
  config: synthesis.SynthesisConfig | None = None
  chosen: Mapping[str, str] = dataclasses.field(default_factory=dict)
  privacy: privacy_lib.CentralPrivacy | None = None


def _fed_avg(setup: Setup, aggregator=None):
  return tff.learning.algorithms.build_weighted_fed_avg(
    setup.model,
    setup.client_optimizer,
    model_aggregator=aggregator,
    loop_implementation=LOOP,
    **setup.process_arguments,
  )


def _of_fixed_size(setup: Setup, process, description: str) -> Built:
  """Refuses a budget that the method, which has no say in it, does not keep."""
  if setup.budget is not None:
    needed = communication.uplink_bytes(process)
    if needed > setup.budget:
      raise communication.BudgetTooSmallError(
        f'{setup.settings.method} uploads {needed} bytes and cannot go lower, '
        f'but the budget is {setup.budget}. Leave out --compression_ratio and '
        '--uplink_bytes.'
      )
  return Built(process, description)


def build_fed_avg(setup: Setup) -> Built:
  """TFF's own FedAvg: every weight in float32, and the client's weight.

  Raises:
    BudgetTooSmallError: If it uploads more than the budget.
  """
  return _of_fixed_size(setup, _fed_avg(setup), 'every weight in float32')


def build_tff_compression(setup: Setup) -> Built:
  """TFF's own `compression_aggregator`: large tensors in 8 bits.

  Raises:
    BudgetTooSmallError: If it uploads more than the budget.
  """
  process = _fed_avg(setup, tff.learning.compression_aggregator())
  return _of_fixed_size(setup, process, "TFF's own compression")


def build_with_codec(
  for_budget: Callable[..., codec_lib.Codec], setup: Setup, **fields
) -> Built:
  """FedAvg that averages updates after a codec, which fills the budget.

  Args:
    for_budget: `for_budget` of the codec.
    setup: What every method gets.
    **fields: Of the codec.

  Raises:
    BudgetTooSmallError: If no message of the codec fits.
  """
  shapes = specs.model_shapes(setup.model)
  codec = for_budget(setup.codec_budget, shapes, **fields)
  aggregator = tff.aggregators.MeanFactory(
    aggregation.CodecSumFactory(codec, seed=setup.settings.seed)
  )
  return Built(_fed_avg(setup, aggregator), codec.describe(shapes))
