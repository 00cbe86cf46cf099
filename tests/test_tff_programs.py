"""The process in TFF's own loops and programs."""

import asyncio

import numpy as np
import pytest
import small_process
import tensorflow_federated as tff

from tff_fedsynth import tff_worker


@pytest.fixture(scope='module')
def process():
  return small_process.build()


def test_runs_with_tff_simulation_loop(process):
  rounds = []
  state = tff.simulation.run_training_process(
    process,
    lambda round_num: rounds.append(round_num) or small_process.clients(2),
    total_rounds=2,
  )
  assert rounds == [1, 2]
  np.testing.assert_array_equal(state.client_work['seed'], [0, 2])


class _Iterator(tff.program.FederatedDataSourceIterator):
  """`train_model` deep-copies the iterator, which tf.data does not survive."""

  federated_type = tff.FederatedType(
    tff.SequenceType(
      tff.types.tensorflow_to_type(small_process.MODEL.input_spec)
    ),
    tff.CLIENTS,
  )

  @classmethod
  def from_bytes(cls, buffer):
    del buffer
    return cls()

  def to_bytes(self):
    return b'no state'

  def select(self, k=None):
    return small_process.clients(k)


class _Source(tff.program.FederatedDataSource):
  federated_type = _Iterator.federated_type

  def iterator(self):
    return _Iterator()


def test_runs_with_tff_train_model_program(process, tmp_path):
  context = tff.backends.native.create_async_local_cpp_execution_context()
  context = tff.program.NativeFederatedContext(context)
  metrics = tff.program.MemoryReleaseManager()
  outputs = tff.program.MemoryReleaseManager()
  previous = tff.framework.get_context_stack().current
  tff.framework.set_default_context(context)
  try:
    asyncio.run(
      tff.learning.programs.train_model(
        train_process=process,
        train_data_source=_Source(),
        train_per_round_clients=2,
        train_total_rounds=2,
        program_state_manager=tff.program.FileProgramStateManager(
          str(tmp_path)
        ),
        model_output_manager=outputs,
        train_metrics_manager=metrics,
        evaluation_manager=None,
        evaluation_periodicity=1,
      )
    )
  finally:
    tff.framework.set_default_context(previous)
    # The destructor of the context would wait for its worker, at times for ever.
    tff_worker.end_workers()
  assert sorted(metrics.values()) == [1, 2]
  finalized = metrics.values()[2]['finalizer']
  assert finalized['rejected_clients'] == 0
