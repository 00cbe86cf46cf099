"""Workers that are killed, stopped or elsewhere; notebooks and threads."""

import asyncio
from concurrent import futures
import contextlib
import gc
import os
import pathlib
import signal
import socket
import threading

import conftest
import fault_injection
import grpc
import numpy as np
import pytest
import small_runs
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import build_fedsynth
from tff_fedsynth import SynthesisConfig
from tff_fedsynth import SyntheticSpec
from tff_fedsynth import tff_worker
from tff_fedsynth.experiments import tff_contexts
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings.settings import SettingsError

MODEL = conftest.make_classifier()


@tff.tensorflow.computation(np.int32)
def slow(steps):
  """Takes a second or more, and then says how often it stepped."""
  matrix = tf.random.stateless_normal([300, 300], [0, 0])

  def step(i, m):
    return i + 1, tf.linalg.l2_normalize(m @ matrix)

  i, m = tf.while_loop(lambda i, _: i < steps, step, (0, matrix))
  # Else the products would be pruned.
  return i + tf.cast(0.0 * m[0, 0], tf.int32)


@contextlib.contextmanager
def _local(seconds):
  context = tff_contexts.LocalWorker(seconds)
  with tff.framework.get_context_stack().install(context):
    try:
      yield context
    finally:
      context.stop()


@contextlib.contextmanager
def _processes(count):
  """Workers, as if on other machines: their processes and addresses."""
  ports, processes = [], []
  try:
    for _ in range(count):
      ports.append(tff_worker.unused_port())
      processes.append(tff_worker.start(ports[-1]))
    yield processes, [f'localhost:{port}' for port in ports]
  finally:
    for process in processes:
      process.kill()
      process.wait()


def test_a_local_worker_that_is_killed_is_replaced():
  with _local(seconds=60.0) as context:
    assert slow(1) == 1
    lost = context._process
    timer = threading.Timer(1.0, lost.kill)
    timer.start()
    assert slow(3000) == 3000
    timer.join()
    assert context._process.pid != lost.pid and lost.poll() is not None


def test_a_local_worker_that_is_always_lost_is_an_error(monkeypatch):
  monkeypatch.setattr(tff_contexts, 'MAX_RESTARTS', 1)
  with _local(seconds=2.0) as context:
    with pytest.raises(tff_contexts.WorkersLostError, match='lost 2 times'):
      slow(10**9)
    assert context._process is None


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


def test_a_round_is_the_same_on_any_workers_and_after_some_are_lost(caplog):
  process = build_fedsynth(
    MODEL,
    tff.learning.optimizers.build_sgdm(0.1),
    config=SynthesisConfig(SyntheticSpec((6,), (3,)), iterations=3),
  )
  with _local(60.0):
    expected = _round(process)
  start = np.concatenate([np.ravel(w) for w in MODEL.initial_weights[0]])
  assert np.abs(expected - start).max() > 1e-3
  stack = tff.framework.get_context_stack()
  with _processes(2) as (processes, addresses):
    with stack.install(tff_contexts.RemoteWorkers(addresses, 10.0)):
      np.testing.assert_allclose(_round(process), expected, atol=1e-6)
      os.kill(processes[0].pid, signal.SIGSTOP)
      np.testing.assert_allclose(_round(process), expected, atol=1e-6)
      os.kill(processes[1].pid, signal.SIGKILL)
      with pytest.raises(
        tff_contexts.WorkersLostError, match='All TFF workers'
      ):
        _round(process)
  gc.collect()
  assert not [r for r in caplog.records if r.name == 'asyncio']


def test_addresses_are_taken_over():
  texts = [' host1:8000', 'host-2.lan:1 ', '10.0.0.7:65535', '[fe80::1]:8000']
  found = tff_contexts.parse_addresses(texts)
  assert found == [text.strip() for text in texts]


@pytest.mark.parametrize(
  'address',
  ['', 'host1', 'host1:', ':8000', 'http://host1:8000', 'host1:8000/']
  + ['host 1:8000', 'host1:x', 'host1:-1', '::1:8000', '[host1]:8000', '[::1]']
  + ['host1:0', 'host1:65536'],
)
def test_what_is_no_address_is_refused_before_anybody_is_asked(address):
  with pytest.raises(SettingsError, match=r'must be host:port .* Found '):
    tff_contexts.RemoteWorkers(['host2:8000', address], 60.0)


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


def test_what_is_wrong_at_each_address_is_told_at_once(monkeypatch):
  monkeypatch.setattr(tff_contexts, '_CONNECT_SECONDS', 3.0)
  with (
    _processes(1) as (_, [good]),
    socket.create_server(('localhost', 0)) as listener,
    _other_grpc() as other,
  ):
    silent = f'localhost:{listener.getsockname()[1]}'
    nobody = f'localhost:{tff_worker.unused_port()}'
    unknown = 'nobody.invalid:8000'
    with pytest.raises(tff_contexts.WorkersLostError) as error:
      tff_contexts.RemoteWorkers([good, nobody, unknown, silent, other], 60.0)
  message = str(error.value)
  assert f'{nobody}: no TFF worker answers there (' in message
  assert f'{unknown}: no TFF worker answers there (' in message
  assert f'{silent}: it does not answer in time (' in message
  assert f'{other}: what listens there is no TFF worker. Start' in message
  assert good not in message and 'fedsynth-worker' in message


def _settings(directory):
  return small_runs.settings(directory, method='fedavg', total_rounds=1)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run that was executed as ever."""
  run = building.build(_settings(tmp_path_factory.mktemp('runs') / 'plain'))
  runner.execute(run)
  return run


def _assert_same(run, directory):
  found = fault_injection.metrics(directory)
  assert found == fault_injection.metrics(pathlib.Path(run.settings.output_dir))


def test_a_run_in_a_notebook_puts_its_event_loop_aside(run, tmp_path):
  async def notebook():
    loop = asyncio.get_running_loop()
    later = loop.create_task(asyncio.sleep(0, 'done'))
    runner.execute(small_runs.changed(run, output_dir=str(tmp_path)))
    assert asyncio.get_running_loop() is loop
    return await later

  try:
    assert asyncio.run(notebook()) == 'done'
  finally:
    asyncio.set_event_loop_policy(None)
  _assert_same(run, tmp_path)


def test_a_run_is_built_and_executed_in_a_thread(run, tmp_path):
  def thread():
    with pytest.raises(RuntimeError, match='context'):
      slow(1)
    return runner.execute(building.build(_settings(tmp_path)))

  with futures.ThreadPoolExecutor(1) as threads:
    assert threads.submit(thread).result()['rounds'] == 1
  _assert_same(run, tmp_path)
