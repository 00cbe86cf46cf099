"""Methods by their names."""

import pytest
import small_runs

from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.running import building


@pytest.mark.parametrize('name', METHODS)
def test_what_a_name_fixes_is_an_option(name):
  plugin = METHODS[name]
  assert not plugin.fixed.keys() & plugin.flags.keys()
  declared = {flag for group in plugin.groups for flag in group.flags}
  assert plugin.fixed.keys() <= declared


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
def test_methods_fill_a_budget_and_keep_it(method, ratio, tmp_path):
  run = building.build(
    small_runs.settings(
      tmp_path,
      method=method,
      compression_ratio=ratio,
      synthesis_iterations=None,
    )
  )
  used = run.communication.uplink_bytes
  assert used <= 636_040 / ratio
  # Of synthetic data the rule takes no more than a client has time for.
  assert used >= (0.35 if method == 'fedsynth' else 0.9) * 636_040 / ratio
  assert run.built.description
