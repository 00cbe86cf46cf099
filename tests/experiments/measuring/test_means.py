"""Means of clients: of what the server decodes, and of the real updates."""

import pytest
import small_runs
import tensorflow_federated as tff

from tff_fedsynth import updates
from tff_fedsynth.experiments.measuring import means
from tff_fedsynth.experiments.methods import probe
from tff_fedsynth.experiments.running import building


def _step(process, data):
  """What a round subtracts from the weights, with a server rate of 1."""
  before = process.initialize()
  after = process.next(before, data).state
  weights = (process.get_model_weights(state) for state in (before, after))
  return [b - a for b, a in zip(*(w.trainable for w in weights))]


@pytest.mark.parametrize('method', ['fedsynth', 'fedsynth_cross_polytope'])
def test_means_are_those_of_the_server(tmp_path, method):
  options = {} if method == 'fedsynth' else dict(residual_fraction=0.3)
  run = building.build(
    small_runs.settings(
      tmp_path,
      method=method,
      compression_ratio=200,
      clients_per_round=3,
      server_learning_rate=1.0,
      synthesis_iterations=5,
      # Clients differ in size.
      partition='dirichlet',
      dirichlet_alpha=0.3,
      **options,
    )
  )
  setup, configs = run.setup, [run.built.config]
  of_means = means.Means(setup, configs)
  (probed,) = probe.measure(setup, configs, (1,), 3, of_means.add)
  data = setup.round_data(1)
  fed_avg = tff.learning.algorithms.build_weighted_fed_avg(
    *setup.trained, client_weighting=setup.client_weighting
  )
  expected = updates.cosine(
    _step(run.built.process, data), _step(fed_avg, data)
  )
  assert of_means.cosine(0) == pytest.approx(float(expected), abs=1e-3)
  # Three clients are no one of them.
  assert abs(of_means.cosine(0) - probed.cosine) > 5e-3


def test_one_client_is_its_own_mean(tmp_path):
  # With dropout, the real update depends on the seed.
  run = building.build(
    small_runs.settings(
      tmp_path, model='cnn_dropout', clients_per_round=1, compression_ratio=200
    )
  )
  configs = [run.built.config]
  of_means = means.Means(run.setup, configs)
  (probed,) = probe.measure(run.setup, configs, (1,), 1, of_means.add)
  assert of_means.cosine(0) == pytest.approx(probed.cosine, abs=1e-5)
