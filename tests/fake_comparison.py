"""A small comparison, and what stands for training in it."""

import json
import math
import pathlib
import types

import pandas as pd

from tff_fedsynth.errors import BudgetTooSmallError
from tff_fedsynth.experiments.comparing.comparison import Comparison
from tff_fedsynth.experiments.pictures import showing
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.records import recovery
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import rounds
from tff_fedsynth.experiments.settings.settings import Settings

TUNED = dict(tuning_rates=(0.1, 0.3), tuning_seeds=(100,), tuning_rounds=1)


def comparison(output_dir, options=None, **kwargs):
  base = Settings(
    output_dir=str(output_dir),
    total_rounds=2,
    clients_per_round=2,
    local_epochs=1,
    batch_size=40,
    options={'num_clients': 40, **(options or {})},
  )
  return Comparison(
    **{'base': base, 'methods': ('drive',), 'ratios': (500.0,), 'seeds': (0,)}
    | kwargs
  )


class FakeRunner:
  """Stands for training: accuracy depends on the settings by a formula."""

  def __init__(
    self,
    monkeypatch,
    fail=lambda settings: None,
    diverge=lambda settings: False,
  ):
    self.executed = []
    self._fail = fail
    self._diverge = diverge
    monkeypatch.setattr(building, 'build', self.build)
    monkeypatch.setattr(showing, 'execute', self.execute)

  def build(self, settings, measured=None):
    if settings.method == 'sign' and settings.compression_ratio == 500:
      raise BudgetTooSmallError('sign uploads at least 19893 bytes')
    return types.SimpleNamespace(
      settings=settings,
      communication='metered',
      built=types.SimpleNamespace(chosen={}),
    )

  def execute(self, run, bar):
    s = run.settings
    self.executed.append(s)
    error = self._fail(s)
    if error:
      raise error
    directory = pathlib.Path(s.output_dir)
    directory.mkdir(parents=True)
    lines = [f'--{k}={v}' for k, v in s.as_flags().items()]
    (directory / 'flags.txt').write_text('\n'.join(lines))
    # Best at a server learning rate of 0.3.
    final = 0.8 + 0.01 * s.seed - abs(s.server_learning_rate - 0.3)
    # And at a share of 0.5.
    final -= abs(s.options.get('residual_fraction', 0.5) - 0.5) / 10
    diverged = self._diverge(s)
    final = math.nan if diverged else final
    numbers = range(s.total_rounds + 1)
    frame = pd.DataFrame(
      {'round': numbers, rounds.ACCURACY: final, rounds.LOSS: 1 - final}
    )
    frame.to_csv(directory / 'metrics.csv', index=False, na_rep='nan')
    summary = dict(
      final_accuracy=final,
      best_accuracy=final,
      uplink_bytes=1000,
      downlink_bytes=5000,
      compression_ratio=636.0,
      model_bytes=636_040,
      seconds_per_round=1.0,
      description='',
      diverged='the loss is not finite' if diverged else None,
      rejected_clients=7 if diverged else 0,
      **provenance.of_process(),
    )
    recovery.write_json(directory / 'summary.json', summary)
    if s.method == 'fedsynth_drive' and 'residual_fraction' not in s.options:
      chosen = json.dumps(dict(residual_fraction=0.4, client_time_ratio=None))
      (directory / 'chosen.json').write_text(chosen)
    bar.update(s.total_rounds)
    return summary


def results(directory):
  return pd.read_csv(pathlib.Path(directory) / 'results.csv')
