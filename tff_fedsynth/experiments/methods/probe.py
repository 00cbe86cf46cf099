"""Measures synthetic data on a few clients, without a whole run."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import statistics
import time

import tensorflow_federated as tff

from tff_fedsynth.client import client_work
from tff_fedsynth.client.config import SynthesisConfig
from tff_fedsynth.experiments.settings.setup import Setup


@dataclasses.dataclass(frozen=True)
class Probe:
  """What was measured of one config.

  Attributes:
    cosines: Of replayed and real updates: for each round, one a client.
    seconds: Median time of a client's work, local training included.
  """

  cosines: list[list[float]]
  seconds: float

  @property
  def cosine(self) -> float:
    """Mean over clients and rounds."""
    return statistics.mean(c for row in self.cosines for c in row)

  @property
  def squared_cosines(self) -> list[float]:
    """Squares, one a client and round."""
    return [c**2 for row in self.cosines for c in row]


def measure(
  setup: Setup,
  configs: Sequence[SynthesisConfig],
  rounds: Sequence[int] = (1, 2, 3),
  clients: int = 4,
  observe: Callable[..., None] = lambda *_: None,
) -> list[Probe]:
  """Lets some clients learn synthetic data in some rounds of FedAvg.

  FedAvg trains the model, so that all configs are measured on the same updates.

  Args:
    setup: Of the run; its method plays no part.
    configs: What is measured; clients take their turns with each.
    rounds: The rounds to measure in, from 1, in order.
    clients: How many of each round's clients, the first ones.
    observe: Gets the round, the weights, a client's batches, and its
      `SynthesisResult` of each config.
  """
  fed_avg = tff.learning.algorithms.build_weighted_fed_avg(
    *setup.trained, client_weighting=setup.client_weighting
  )
  computations = []
  for config in configs:
    work = client_work.build_synthesis_client_work(
      setup.model,
      config=config,
      client_optimizer=setup.client_optimizer,
      client_weighting=setup.client_weighting,
    )
    state_type = work.initialize.type_signature.result.member
    synthesize = client_work.build_synthesis_computation(
      setup.model,
      config=config,
      client_optimizer=setup.client_optimizer,
      state_type=state_type,
    )
    computations.append((synthesize, work.initialize()))
  cosines = [[] for _ in configs]
  seconds = [[] for _ in configs]
  state = fed_avg.initialize()
  for round_num in range(1, max(rounds) + 1):
    batches = setup.round_data(round_num)
    if round_num in rounds:
      weights = fed_avg.get_model_weights(state)
      for measured in cosines:
        measured.append([])
      for data in batches[:clients]:
        results = []
        for i, (synthesize, work_state) in enumerate(computations):
          start = time.perf_counter()
          result = synthesize(work_state, weights, data)
          seconds[i].append(time.perf_counter() - start)
          cosines[i][-1].append(float(result.measurements['cosine']))
          results.append(result)
        observe(round_num, weights, data, results)
    if round_num < max(rounds):
      state = fed_avg.next(state, batches).state
  # The first call also traces and compiles.
  return [
    Probe(c, statistics.median(s[1:] or s)) for c, s in zip(cosines, seconds)
  ]
