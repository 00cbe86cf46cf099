"""Measures synthetic data on a few clients, before a run, to choose settings."""

from collections.abc import Sequence
import statistics

import tensorflow_federated as tff

from tff_fedsynth import client_work
from tff_fedsynth import synthesis
from tff_fedsynth.experiments.method import Setup

_ROUNDS = 3
_CLIENTS = 4


def squared_cosines(
  setup: Setup, configs: Sequence[synthesis.SynthesisConfig]
) -> list[float]:
  """Mean squared cosine of replayed and real updates, over a few rounds.

  FedAvg trains the model from round to round, so that all configs are measured
  on the same updates: those of the first clients of the run's first rounds.

  Args:
    setup: Of the run.
    configs: What is measured.
  """
  arguments = setup.process_arguments
  fed_avg = tff.learning.algorithms.build_weighted_fed_avg(
    setup.model, setup.client_optimizer, **arguments
  )
  computations = []
  for config in configs:
    work = client_work.build_synthesis_client_work(
      setup.model,
      config=config,
      client_optimizer=setup.client_optimizer,
      client_weighting=arguments['client_weighting'],
      seed=setup.settings.seed,
    )
    state_type = work.initialize.type_signature.result.member
    synthesize = client_work.build_synthesis_computation(
      setup.model,
      config=config,
      client_optimizer=setup.client_optimizer,
      state_type=state_type,
    )
    computations.append((synthesize, work.initialize()))
  squares = [[] for _ in configs]
  state = fed_avg.initialize()
  for round_num in range(1, _ROUNDS + 1):
    clients = setup.round_data(round_num)
    weights = fed_avg.get_model_weights(state)
    for (synthesize, work_state), measured in zip(computations, squares):
      for data in clients[:_CLIENTS]:
        result = synthesize(work_state, weights, data)
        measured.append(float(result.measurements['cosine']) ** 2)
    if round_num < _ROUNDS:
      state = fed_avg.next(state, clients).state
  return [statistics.mean(measured) for measured in squares]
