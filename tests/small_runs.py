"""Runs on few clients and rounds, some of which stop in the middle."""

import dataclasses
import pathlib
from unittest import mock

import pytest
import tensorflow_federated as tff

from tff_fedsynth.experiments.pictures import showing
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.settings.settings import Settings


class _StoppedError(Exception):
  pass


def settings(output_dir, **kwargs):
  """A small run; what is no field of `Settings` goes to its options."""
  small = dict(
    num_clients=40,
    clients_per_round=2,
    local_epochs=1,
    batch_size=25,
    total_rounds=3,
    rounds_per_checkpoint=1,
  )
  if kwargs.get('method', 'fedsynth') == 'fedsynth':
    small.update(synthesis_iterations=5, compression_ratio=2000)
  values = {k: v for k, v in {**small, **kwargs}.items() if v is not None}
  fields = {f.name for f in dataclasses.fields(Settings)}
  return Settings(
    output_dir=str(output_dir),
    **{k: v for k, v in values.items() if k in fields},
    options={k: v for k, v in values.items() if k not in fields},
  )


def growing(output_dir, total_rounds, **kwargs):
  """A run whose checkpoints do not divide the numbers of rounds in tests."""
  return settings(
    output_dir,
    total_rounds=total_rounds,
    rounds_per_checkpoint=2,
    client_weighting='uniform',
    **kwargs,
  )


def train(output_dir, **kwargs):
  return showing.execute(building.build(settings(output_dir, **kwargs)))


def changed(run, **fields):
  """The same run with other settings, without building it again."""
  other = dataclasses.replace(run.settings, **fields)
  return dataclasses.replace(
    run, setup=dataclasses.replace(run.setup, settings=other)
  )


def directory(run):
  return pathlib.Path(run.settings.output_dir)


def stop(run, before):
  """Executes a run that ends before the checkpoint of a round is written."""
  save = tff.program.FileProgramStateManager.save

  async def save_or_stop(self, state, version):
    if version == before:
      raise _StoppedError()
    await save(self, state, version)

  with (
    mock.patch.object(
      tff.program.FileProgramStateManager, 'save', save_or_stop
    ),
    pytest.raises(_StoppedError),
  ):
    showing.execute(run)
