"""What a method is made from, and gives."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.budget import WEIGHT_BYTES
from tff_fedsynth.client import local_training
from tff_fedsynth.client.config import SynthesisConfig
from tff_fedsynth.compression.codec import Codec
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.server.config import CentralPrivacy

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
    return math.inf if self.budget is None else self.budget - WEIGHT_BYTES

  @property
  def client_optimizer(self) -> tff.learning.optimizers.Optimizer:
    """SGD, the same for all methods."""
    s = self.settings
    optimizer = tff.learning.optimizers.build_sgdm(s.client_learning_rate)
    if s.client_clip_norm is not None:
      optimizer = local_training.ClippedOptimizer(optimizer, s.client_clip_norm)
    return optimizer

  @property
  def trained(self) -> tuple:
    """Model, and optimizers of clients and server: how all builders begin."""
    s = self.settings
    server = _SERVER_OPTIMIZERS[s.server_optimizer](s.server_learning_rate)
    return self.model, self.client_optimizer, server

  @property
  def client_weighting(self) -> tff.learning.ClientWeighting:
    """How clients are weighted."""
    return tff.learning.ClientWeighting[self.settings.client_weighting.upper()]


@dataclasses.dataclass(frozen=True)
class Built:
  """A method, ready to run.

  Attributes:
    process: The `LearningProcess`.
    description: One line: how the method uses its budget.
    config: How synthetic data are learned, for methods that have them.
    codec: Of the whole update, for methods that have one.
    chosen: Options that were measured for the run; kept beside it, so that it
      goes on with the same.
    privacy: The differential privacy of its models, if there is any.
  """

  process: tff.learning.templates.LearningProcess
  description: str
  config: SynthesisConfig | None = None
  codec: Codec | None = None
  chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  privacy: CentralPrivacy | None = None
