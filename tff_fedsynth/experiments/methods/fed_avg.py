"""TFF's FedAvg, with any aggregator, and with any codec."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import tensorflow_federated as tff

from baselines import aggregation
from tff_fedsynth import communication
from tff_fedsynth import learning_process
from tff_fedsynth.compression.codec import Codec
from tff_fedsynth.errors import BudgetTooSmallError
from tff_fedsynth.experiments.methods import server
from tff_fedsynth.experiments.settings.setup import Built
from tff_fedsynth.experiments.settings.setup import LOOP
from tff_fedsynth.experiments.settings.setup import Setup
from tff_fedsynth.models.weights import model_shapes
from tff_fedsynth.options import Group
from tff_fedsynth.server.config import DEFAULT


def _fed_avg(setup: Setup, aggregator=None):
  return tff.learning.algorithms.build_weighted_fed_avg(
    *setup.trained,
    client_weighting=setup.client_weighting,
    model_aggregator=aggregator,
    loop_implementation=LOOP,
  )


def _of_fixed_size(setup: Setup, process, description: str) -> Built:
  """Refuses a budget that the method, which has no say in it, does not keep."""
  if setup.budget is not None:
    needed = communication.uplink_bytes(process)
    if needed > setup.budget:
      raise BudgetTooSmallError(
        f'{setup.settings.method} uploads {needed} bytes and cannot go lower, '
        f'but the budget is {setup.budget}. Leave out --compression_ratio and '
        '--uplink_bytes.'
      )
  return Built(process, description)


def build(setup: Setup) -> Built:
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
  setup: Setup,
  for_budget: Callable[..., Codec],
  fields: Mapping[str, Any],
  values: Mapping[str, Any],
) -> Built:
  """FedAvg that averages updates after a codec, which fits the budget.

  Args:
    setup: What every method gets.
    for_budget: `for_budget` of the codec.
    fields: Of the codec, those that are fixed.
    values: Of the flags of the server, and maybe others.

  Raises:
    BudgetTooSmallError: If no message of the codec fits.
    OptionError: If flags do not go together.
  """
  shapes = model_shapes(setup.model)
  codec = for_budget(setup.codec_budget, shapes, **fields)
  config = server.config(setup, values)
  if config == DEFAULT:
    # Sums updates as they come, so that memory does not grow with clients.
    aggregator = tff.aggregators.MeanFactory(
      aggregation.CodecSumFactory(codec, seed=setup.settings.seed)
    )
    process = _fed_avg(setup, aggregator)
  else:
    process = learning_process.build_codec_fed_avg(
      *setup.trained,
      codec=codec,
      client_weighting=setup.client_weighting,
      server=config,
      seed=setup.settings.seed,
      loop_implementation=LOOP,
    )
  return Built(
    process, codec.describe(shapes), codec=codec, privacy=config.privacy
  )


def builder_of(codec_type: type[Codec], group: Group) -> Callable[..., Built]:
  """`build_with_codec` of a codec, for a registry."""

  def build_method(setup: Setup, **values) -> Built:
    fields = group.arguments(values)
    return build_with_codec(setup, codec_type.for_budget, fields, values)

  return build_method
