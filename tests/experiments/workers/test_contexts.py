"""Workers that are killed, stopped, or on other addresses; real processes."""

from concurrent import futures
import contextlib
import gc
import os
import signal
import socket
import threading

import conftest
import grpc
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
import tff_contexts

from tff_fedsynth import build_fedsynth
from tff_fedsynth import SynthesisConfig
from tff_fedsynth import SyntheticSpec
from tff_fedsynth import tff_worker
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.experiments.workers import contexts

MODEL = conftest.make_classifier()


@contextlib.contextmanager
def _local(seconds=60.0):
  with tff_contexts.default_context(contexts.LocalWorker(seconds)) as context:
    try:
      yield context
    finally:
      context.stop()


@contextlib.contextmanager
def _processes(count):
  """Workers, as if on other machines: their processes and addresses."""
  ports = contexts.unused_ports(count)
  processes = [contexts.start_process(port) for port in ports]
  try:
    yield processes, [f'localhost:{port}' for port in ports]
  finally:
    for process in processes:
      process.kill()
      process.wait()


def _after_a_second(act):
  thread = threading.Timer(1.0, act)
  thread.start()
  return thread


@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_local_worker_is_replaced(how):
  with _local(seconds=15.0) as context:
    assert tff_contexts.slow(1) == 1
    lost = context._process
    thread = _after_a_second(lambda: os.kill(lost.pid, how))
    assert tff_contexts.slow(3000) == 3000
    thread.join()
    assert context._process.pid != lost.pid and lost.poll() is not None


def test_a_worker_that_is_always_lost_is_an_error(monkeypatch):
  monkeypatch.setattr(contexts, 'MAX_RESTARTS', 1)
  with _local(seconds=2.0) as context:
    with pytest.raises(contexts.WorkersLostError, match='lost 2 times'):
      tff_contexts.slow(10**9)
    assert context._process is None


def _process():
  return build_fedsynth(
    MODEL,
    tff.learning.optimizers.build_sgdm(0.1),
    config=SynthesisConfig(SyntheticSpec((6,), (3,)), iterations=3),
  )


def _round(process):
  """The weights after a round with five clients."""
  random = np.random.RandomState(0)
  data = [
    tf.data.Dataset.from_tensor_slices(
      (
        random.normal(size=(20, 6)).astype(np.float32),
        random.randint(0, 3, 20).astype(np.int32),
      )
    ).batch(10)
    for _ in range(5)
  ]
  state = process.next(process.initialize(), data).state
  weights = process.get_model_weights(state).trainable
  return np.concatenate([np.ravel(w) for w in weights])


def test_the_number_of_workers_does_not_matter():
  process = _process()
  with _local():
    expected = _round(process)
  start = np.concatenate([np.ravel(w) for w in MODEL.initial_weights[0]])
  assert np.abs(expected - start).max() > 1e-3
  with _processes(4) as (_, addresses):
    for count in (1, 2, 4):
      with tff_contexts.default_context(
        contexts.RemoteWorkers(addresses[:count], 60.0)
      ):
        np.testing.assert_allclose(_round(process), expected, atol=1e-6)


def test_the_rest_computes_what_lost_workers_did_not(caplog):
  process = _process()
  with _local():
    expected = _round(process)
  with _processes(3) as (processes, addresses):
    context = contexts.RemoteWorkers(addresses, 10.0)
    with tff_contexts.default_context(context):
      _round(process)
      os.kill(processes[0].pid, signal.SIGKILL)
      os.kill(processes[1].pid, signal.SIGSTOP)
      np.testing.assert_allclose(_round(process), expected, atol=1e-6)
      os.kill(processes[2].pid, signal.SIGKILL)
      with pytest.raises(contexts.WorkersLostError, match='All TFF workers'):
        _round(process)
  gc.collect()
  assert not [r for r in caplog.records if r.name == 'asyncio']


def test_a_killed_worker_is_seen_at_once():
  tff_worker.end_workers()  # Of contexts that tests before left.
  # Its main thread is a zombie before others of its threads are gone.
  with _local() as context:
    for _ in range(5):
      assert tff_contexts.slow(1) == 1
      process = context._process
      assert [p.pid for p in tff_worker.end_workers()] == [process.pid]
      assert process.poll() is not None


@contextlib.contextmanager
def _silent():
  """The address of something that listens, and says nothing."""
  with socket.create_server(('localhost', 0)) as listener:
    yield f'localhost:{listener.getsockname()[1]}'


@contextlib.contextmanager
def _other_grpc():
  """The address of a gRPC server without TFF's services."""
  server = grpc.server(futures.ThreadPoolExecutor(1))
  port = server.add_insecure_port('localhost:0')
  server.start()
  try:
    yield f'localhost:{port}'
  finally:
    server.stop(None).wait()


def test_what_is_wrong_at_an_address_is_told(monkeypatch, capsys):
  monkeypatch.setattr(contexts, '_CONNECT_SECONDS', 3.0)
  unknown = 'nobody.invalid:8000'
  with (
    _processes(1) as (_, [good]),
    _silent() as silent,
    _other_grpc() as other,
  ):
    # After the others listen, so that none of them has its port.
    nobody = 'localhost:{}'.format(*contexts.unused_ports(1))
    asked = [good, nobody, unknown, silent, other]
    with pytest.raises(contexts.WorkersLostError) as error:
      contexts.RemoteWorkers(asked, 60.0)
  message = str(error.value)
  assert f'{nobody}: no TFF worker answers there (' in message
  assert f'{unknown}: no TFF worker answers there (' in message
  assert f'{silent}: what listens there is no TFF worker, or' in message
  assert f'{other}: what listens there is no TFF worker. Start' in message
  assert good not in message and 'fedsynth-worker' in message
  waits = capsys.readouterr().err
  assert 'Waiting up to 4 s for TFF workers at ' in waits
  assert nobody in waits and silent in waits and other not in waits


def test_all_addresses_are_tried_at_once(monkeypatch):
  together = threading.Barrier(3)

  def connect(address, *_):
    together.wait(timeout=60)  # For ever, one after the other.
    raise contexts.WorkerLostError(address, 'tried')

  monkeypatch.setattr(contexts, 'Worker', connect)
  with pytest.raises(
    contexts.WorkersLostError, match='a:1: tried; b:1: tried; c:1: tried'
  ):
    contexts.RemoteWorkers(['a:1', 'b:1', 'c:1'], 60.0)


def test_addresses_are_read_before_anybody_is_asked():
  with pytest.raises(SettingsError, match='must be host:port'):
    contexts.RemoteWorkers(['localhost'], 60.0)


def test_threads_share_a_worker_that_is_lost():
  with _local() as context:
    assert tff_contexts.slow(1) == 1
    first = context._process

    def compute(steps):
      tff.framework.set_default_context(context)
      return tff_contexts.slow(steps)

    with futures.ThreadPoolExecutor(3) as threads:
      thread = _after_a_second(first.kill)
      assert list(threads.map(compute, [2000] * 3)) == [2000] * 3
      thread.join()
    assert context._process.poll() is None and context._process is not first
