"""What settings make of a run."""

import dataclasses
import types

import numpy as np
import pytest
import small_runs
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import Payload
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import run_directory
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.tasks import TaskPlugin
from tff_fedsynth.tasks import TASKS
from tff_fedsynth.tasks.federated import task as task_lib


def test_the_seed_alone_decides_data_and_initial_weights(tmp_path):
  runs = [
    building.build(
      small_runs.settings(
        tmp_path / f'{m}_{seed}',
        method=m,
        compression_ratio=r,
        model='cnn',
        seed=seed,
      )
    )
    for m, r, seed in (
      ('fedavg', None, 0),
      ('random_mask', 100, 0),
      ('fedavg', None, 1),
    )
  ]
  weights = [
    b''.join(w.tobytes() for w in run.model.initial_weights[0]) for run in runs
  ]
  batches = [
    [
      (x.numpy().tobytes(), y.numpy().tobytes())
      for data in run.setup.round_data(2)
      for x, y in data
    ]
    for run in runs
  ]
  assert len(batches[0]) == 8  # Two clients of 100 digits, 25 a batch.
  for same, other in (weights[:2], weights[2]), (batches[:2], batches[2]):
    assert same[0] == same[1] != other


def test_explicit_spec_and_objective(tmp_path):
  run = building.build(
    small_runs.settings(
      tmp_path,
      objective='data_loss',
      compression_ratio=None,
      synthesis_iterations=None,
      synthetic_steps=5,
      synthetic_batch_size=2,
      synthetic_bits=8,
      synthetic_resolution=7,
      synthesis_learning_rate=0.05,
      synthesis_initial_stddev=0.3,
      synthesis_initial_step_size=0.5,
      diagnostics=True,
      client_weighting='uniform',
    )
  )
  spec = run.built.config.spec
  assert (spec.steps, spec.batch_size, spec.bits, spec.resolution) == (
    5,
    2,
    8,
    7,
  )
  assert spec.label_form == 'signed'
  assert run.built.config.initial_stddev == 0.3
  assert run.communication.uplink_bytes == Payload(spec).data_bytes + 4


def test_options_of_methods_reach_them(tmp_path):
  run = building.build(
    small_runs.settings(
      tmp_path, method='low_rank', compression_ratio=50, low_rank_bits=8
    )
  )
  assert run.built.description.endswith('factors in 8 bits')
  assert '--low_rank_bits=8' in [
    f'--{k}={v}' for k, v in run.settings.as_flags().items()
  ]


def test_the_meter_reads_runs_of_the_same_bytes_once(monkeypatch):
  handed = []

  def build(settings, measured):
    handed.append(measured)
    chosen = {'residual_fraction': 0.4} if settings.method == 'auto' else {}
    return types.SimpleNamespace(
      communication=f'of {settings.method}',
      built=types.SimpleNamespace(chosen=chosen),
    )

  monkeypatch.setattr(building, 'build', build)
  meter = building.Meter()
  base = Settings(method='drive', compression_ratio=500.0)
  for changed in (
    dict(),
    dict(seed=1, server_learning_rate=0.3),
    dict(compression_ratio=100.0),
    dict(options={'drive_scale': 'mse'}),
    dict(method='auto'),
    dict(method='auto', seed=1),  # May have chosen otherwise.
  ):
    meter.build(dataclasses.replace(base, **changed))
  assert handed == [None, 'of drive', None, None, None, None]


def test_numbers_that_older_versions_wrote_as_text_are_numbers(tmp_path):
  (tmp_path / 'chosen.json').write_text('{"residual_fraction": "0.4"}')
  settings = Settings(output_dir=str(tmp_path))
  assert run_directory.read_chosen(settings) == {'residual_fraction': 0.4}


def test_clients_that_never_end_are_refused_before_training(
  tmp_path, monkeypatch
):
  rows = dict(x=np.ones([4, 3], np.float32), y=np.zeros(4, np.int32))
  clients = tff.simulation.datasets.ClientData.from_clients_and_tf_fn(
    ['a', 'b'], lambda _: tf.data.Dataset.from_tensor_slices(rows).repeat()
  )

  def build(*, seed):
    del seed
    return task_lib.Task(
      name='endless',
      train_data=clients,
      test_data=tf.data.Dataset.from_tensors((rows['x'], rows['y'])),
      preprocess=lambda columns: (columns['x'], columns['y']),
      models={'any': None},
    )

  monkeypatch.setitem(TASKS, 'endless', TaskPlugin(build, models=['any']))
  settings = Settings(
    output_dir=str(tmp_path / 'new'),
    task='endless',
    model='any',
    compression_ratio=2.0,
  )
  with pytest.raises(
    task_lib.TaskError, match='examples of client a never end. Leave repeat'
  ):
    building.build(settings)
  assert not (tmp_path / 'new').exists()
