"""What uploads give away, on a small run."""

import dataclasses
import shlex
import types

from absl import flags as absl_flags
import numpy as np
import pandas as pd
import pytest

from tff_fedsynth.experiments.records import grid as grid_lib
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.experiments.trust import disclosure


def _base(output_dir, **fields):
  return Settings(
    output_dir=str(output_dir),
    total_rounds=1,
    **{'clients_per_round': 2, 'compression_ratio': 2000.0, **fields},
  )


def test_a_run_is_measured(tmp_path):
  base = _base(
    tmp_path, clients_per_round=3, options={'synthesis_iterations': 5}
  )
  frame = disclosure.measure(base, (0,), 2)
  assert len(frame) == 4 and (tmp_path / 'nearest.png').exists()
  # Two labels a client, of which the bias tells.
  assert (frame.labels_by_chance == 0.2).all()
  plain = frame[frame.upload == 'update']
  assert (plain.labels_from_bias == 1.0).all()
  assert frame.membership_auc.between(0, 1).all()
  text = (tmp_path / 'table.md').read_text()
  assert len([ln for ln in text.splitlines() if ln.startswith('|')]) == 8
  assert (frame.commit == provenance.of_process()['commit']).all()
  _, *flags = shlex.split(frame.command[0])
  values = absl_flags.FlagValues()
  disclosure.define_flags(values)
  values(['program', *flags])
  assert {'--seeds=0', '--probe_clients=2', '--total_rounds=1'} <= set(flags)
  # Other training is another measurement.
  other = dataclasses.replace(base, local_epochs=2)
  with pytest.raises(SettingsError, match="local_epochs: '5' there, '2' now"):
    disclosure.measure(other, (1,), 2)
  assert len(pd.read_csv(tmp_path / 'cells.csv')) == 4


def test_a_seed_that_failed_is_told_and_the_others_are_there(
  tmp_path, monkeypatch
):
  base = _base(tmp_path)
  # Neither trains nor is built.
  run = types.SimpleNamespace(
    settings=base,
    built=types.SimpleNamespace(
      config=types.SimpleNamespace(residual=None), privacy=None
    ),
    task=types.SimpleNamespace(token_names=None),
  )
  monkeypatch.setattr(
    building,
    'build',
    lambda settings: types.SimpleNamespace(
      **{**vars(run), 'settings': settings}
    ),
  )

  def measure(run, num_clients):
    seed = run.settings.seed
    if seed == 1:
      assert set(pd.read_csv(tmp_path / 'cells.csv').seed) == {0}
      raise RuntimeError('out of luck')
    images = np.zeros([1, 4, 4, 1])
    row = dict.fromkeys(disclosure._MEASURES, 0.5)
    row.update(provenance.of_process(), seed=seed, upload='synthetic')
    rows = [{**row, 'client': i} for i in range(num_clients)]
    return rows, (images, images)

  monkeypatch.setattr(disclosure, '_measure_seed', measure)
  with pytest.raises(
    grid_lib.FailedCellsError, match='^1 of 3 cells failed: seed 1 .*of luck'
  ):
    disclosure.measure(base, (0, 1, 2), 2)
  assert list(pd.read_csv(tmp_path / 'cells.csv').seed) == [0, 0, 2, 2]
  assert (tmp_path / 'nearest.png').exists()


@pytest.mark.parametrize(
  'clients, fields, message',
  [
    (1, {}, 'at least 2'),
    (3, {}, 'at most --clients_per_round=2, found 3'),
    (2, dict(server_optimizer='adam'), 'Leave both at that'),
    (2, dict(method='drive'), 'with synthetic data'),
    (
      2,
      dict(method='fedsynth_drive', options={'residual_fraction': 0.5}),
      'Leave them out',
    ),
  ],
)
def test_refusals(clients, fields, message, tmp_path):
  with pytest.raises(SettingsError, match=message):
    disclosure.measure(_base(tmp_path / 'new', **fields), (0,), clients)
  assert not (tmp_path / 'new').exists()
