"""Methods by their names."""

import dataclasses

import pytest
import small_runs

from tff_fedsynth import communication
from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.running import building


@pytest.mark.parametrize('name', METHODS)
def test_what_a_name_fixes_is_an_option(name):
  plugin = METHODS[name]
  assert not plugin.fixed.keys() & plugin.flags.keys()
  declared = {flag for group in plugin.groups for flag in group.flags}
  assert plugin.fixed.keys() <= declared


@pytest.fixture(scope='module')
def setup(tmp_path_factory):
  """What every method gets, without a budget."""
  settings = small_runs.settings(
    tmp_path_factory.mktemp('runs'), method='fedavg'
  )
  return building.build(settings).setup


@pytest.mark.parametrize(
  'method, ratio',
  [
    ('fedsynth', 19),
    ('goetz_tewari', 19),
    ('low_rank', 19),
    ('threesfc', 19),
    ('qsgd', 15.5),
    ('tff_compression', 3.38),
  ],
)
def test_methods_fill_a_budget_and_keep_it(method, ratio, setup):
  budget = int(636_040 / ratio)
  built = METHODS[method].make({}, dataclasses.replace(setup, budget=budget))
  used = communication.uplink_bytes(built.process)
  assert used <= 636_040 / ratio
  # Of synthetic data the rule takes no more than a client has time for.
  assert used >= (0.35 if method == 'fedsynth' else 0.9) * 636_040 / ratio
  assert built.description
