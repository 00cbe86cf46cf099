"""Runs TFF's computations on workers that may die, here or on other machines.

TFF tries a lost worker again for ever. Here a call to a worker has a deadline, a
worker that does not answer is left out or started anew, and what was computed
is computed again: a round is a function of its arguments alone.
"""

import abc
import asyncio
from collections.abc import Sequence
from concurrent import futures
import contextlib
import importlib.util
import os
import pathlib
import socket
import subprocess
import sys
import threading

from absl import logging
import grpc
import tensorflow_federated as tff

from tff_fedsynth import errors
from tff_fedsynth import tff_worker
from tff_fedsynth.experiments.workers import addresses as addresses_lib
from tff_fedsynth.experiments.workers.deadlines import Deadline
from tff_fedsynth.experiments.workers.deadlines import WorkerLostError

# How often a local worker is started anew for one computation.
MAX_RESTARTS = 3
# One of our own is there for sure, on however busy a machine.
_START_SECONDS = 60.0
# Then it takes a second to find out why.
_CONNECT_SECONDS = 9.0
# Who waits longer than this is told.
_PATIENCE_SECONDS = 1.0
_MAX_MESSAGE_BYTES = 2 * 1000 * 1000 * 1000


class WorkersLostError(errors.UserError, RuntimeError):
  """No worker is left to compute; the message says how they were lost."""


class Worker(tff.framework.AsyncContext):
  """One TFF worker at an address, which computes in a thread of its own."""

  def __init__(
    self, address: str, timeout_seconds: float, connect_seconds: float
  ):
    """Connects.

    Args:
      address: `host:port`.
      timeout_seconds: Of one computation; then the worker is lost.
      connect_seconds: To wait for an answer at all.

    Raises:
      WorkerLostError: If nobody, or something else, answers there.
    """
    self.address = address
    self.is_lost = False
    self._timeout_seconds = timeout_seconds
    # One at a time: what was given up elsewhere may still be under way here.
    self._thread = futures.ThreadPoolExecutor(1)
    self._deadline = Deadline(address)
    channel = grpc.insecure_channel(
      address,
      [
        ('grpc.max_receive_message_length', _MAX_MESSAGE_BYTES),
        ('grpc.max_send_message_length', _MAX_MESSAGE_BYTES),
        # Proxies of the environment are for other hosts.
        ('grpc.enable_http_proxy', 0),
      ],
    )
    stub = tff.framework.RemoteExecutorGrpcStub(
      grpc.intercept_channel(channel, self._deadline)
    )
    try:
      self._connect(channel, stub, connect_seconds)
    except WorkerLostError:
      channel.close()
      raise

    def create_executor(cardinalities):
      cardinalities.setdefault(tff.CLIENTS, 0)
      executor = tff.framework.RemoteExecutor(stub)
      executor.set_cardinalities(cardinalities)
      return executor

    self._context = tff.framework.AsyncExecutionContext(
      executor_fn=tff.framework.ResourceManagingExecutorFactory(
        create_executor
      ),
      compiler_fn=tff.backends.native.desugar_and_transform_to_native,
      transform_args=tff.tensorflow.transform_args,
      transform_result=tff.tensorflow.transform_result,
    )

  def _connect(self, channel, stub, seconds: float) -> None:
    try:
      grpc.channel_ready_future(channel).result(seconds)
    except grpc.FutureTimeoutError as e:
      raise WorkerLostError(self.address, _what_is_wrong(self.address)) from e
    # Others speak gRPC, too.
    self._deadline.start(seconds)
    executor = tff.framework.RemoteExecutor(stub)
    try:
      executor.set_cardinalities({tff.CLIENTS: 0})
    except WorkerLostError:
      raise
    except grpc.RpcError as e:
      raise WorkerLostError(self.address, _NO_WORKER) from e
    executor.close()

  def submit(self, comp, arg) -> futures.Future:
    """Begins a computation, whose future may raise WorkerLostError."""
    return self._thread.submit(self._compute, comp, arg)

  def _compute(self, comp, arg):
    if self.is_lost:
      raise WorkerLostError(self.address, 'it was lost before')
    self._deadline.start(self._timeout_seconds)
    try:
      return asyncio.run(self._context.invoke(comp, arg))
    except WorkerLostError:
      self.is_lost = True
      raise

  async def invoke(self, comp, arg):
    # TFF waits for the first task that fails, and asyncio would print the rest.
    asyncio.current_task().add_done_callback(
      lambda task: task.cancelled() or task.exception()
    )
    # TFF's calls block, so that workers would take turns in one thread.
    return await asyncio.wrap_future(self.submit(comp, arg))


class _Workers(tff.framework.SyncContext, abc.ABC):
  """A context that computes again when a worker is lost."""

  @abc.abstractmethod
  def _compute(self, comp, arg):
    """The result; may raise WorkerLostError."""

  @abc.abstractmethod
  def _lost(self, losses: Sequence[WorkerLostError]) -> None:
    """Replaces the worker lost last, or raises WorkersLostError."""

  def invoke(self, comp, arg):
    losses = []
    while True:
      try:
        return self._compute(comp, arg)
      except WorkerLostError as e:
        losses.append(e)
        logging.warning('A TFF worker was lost: %s. Computing again.', e)
        self._lost(losses)


class LocalWorker(_Workers):
  """A worker process of our own, started when needed, and anew when lost."""

  def __init__(self, timeout_seconds: float):
    self._timeout_seconds = timeout_seconds
    self._process = None
    self._worker = None
    # A worker ends with the thread that started it; those of callers may end.
    self._starter = futures.ThreadPoolExecutor(1)
    self._lock = threading.RLock()

  def _compute(self, comp, arg):
    with self._lock:
      if self._process is None or self._process.poll() is not None:
        self.stop()
        (port,) = unused_ports(1)
        self._process = self._starter.submit(start_process, port).result()
        self._worker = Worker(
          f'localhost:{port}', self._timeout_seconds, _START_SECONDS
        )
      worker = self._worker
    return worker.submit(comp, arg).result()

  def _lost(self, losses):
    with self._lock:
      # Unless another thread has replaced it.
      if self._worker is None or self._worker.is_lost:
        self.stop()
    if len(losses) > MAX_RESTARTS:
      raise WorkersLostError(
        f'TFF workers were lost {len(losses)} times in one computation '
        f'({"; ".join(map(str, losses))}). If the machine ran out of memory, '
        'choose fewer --clients_per_round; if they were slow, a longer '
        '--round_timeout_seconds.'
      ) from losses[-1]

  def stop(self) -> None:
    """Ends the process; the next computation starts another."""
    with self._lock:
      if self._process is not None:
        self._process.kill()
        self._process.wait()
      self._process = self._worker = None


class RemoteWorkers(_Workers):
  """Workers elsewhere, each with a part of a round's clients."""

  def __init__(self, addresses: Sequence[str], timeout_seconds: float):
    """Connects to all, at the same time.

    Args:
      addresses: `host:port` each.
      timeout_seconds: Of one computation.

    Raises:
      SettingsError: If an address is none.
      WorkersLostError: If one does not answer within 10 seconds.
    """
    addresses = addresses_lib.parse(addresses)
    connect = lambda a: Worker(a, timeout_seconds, _CONNECT_SECONDS)
    with futures.ThreadPoolExecutor(len(addresses)) as threads:
      begun = [threads.submit(connect, address) for address in addresses]
      _, waiting = futures.wait(begun, _PATIENCE_SECONDS)
      if waiting:
        missing = [a for a, b in zip(addresses, begun) if b in waiting]
        print(
          f'Waiting up to {_CONNECT_SECONDS + 1:g} s for TFF workers at '
          f'{", ".join(missing)}.',
          file=sys.stderr,
          flush=True,
        )
    errors = [e for b in begun if (e := b.exception()) is not None]
    lost = [e for e in errors if isinstance(e, WorkerLostError)]
    if lost:
      raise WorkersLostError(
        f'{"; ".join(map(str, lost))}. Start it with fedsynth-worker there, or '
        'leave it out of --workers.'
      ) from lost[0]
    self._workers = [b.result() for b in begun]
    self._distribute()

  def _distribute(self) -> None:
    self._context = tff.backends.native.create_mergeable_comp_execution_context(
      self._workers
    )

  def _compute(self, comp, arg):
    return self._context.invoke(comp, arg)

  def _lost(self, losses):
    self._workers = [w for w in self._workers if not w.is_lost]
    if not self._workers:
      raise WorkersLostError(
        'All TFF workers of --workers were lost: '
        f'{"; ".join(map(str, losses))}. Start them again, and the same command '
        'goes on from the last checkpoint.'
      ) from losses[-1]
    self._distribute()


_NO_WORKER = 'what listens there is no TFF worker'


def _what_is_wrong(address: str) -> str:
  """Why nobody has answered at an address."""
  host, _, port = address.rpartition(':')
  try:
    with socket.create_connection((host.strip('[]'), int(port)), timeout=1.0):
      return f'{_NO_WORKER}, or it is stopped'
  except OSError as e:
    return f'no TFF worker answers there ({e})'


def unused_ports(count: int) -> list[int]:
  """Different ports of this machine that nobody listens on."""
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
    for s in sockets:
      s.bind(('localhost', 0))
    return [s.getsockname()[1] for s in sockets]


def binary() -> str:
  """The path of TFF's worker, without importing TFF."""
  (package,) = importlib.util.find_spec(
    'tensorflow_federated'
  ).submodule_search_locations
  return str(pathlib.Path(package) / 'data' / 'worker_binary')


def start(
  command: Sequence[str | os.PathLike], **arguments
) -> subprocess.Popen:
  """Starts the command of a worker, with threads for operations that wait.

  With one thread, as on a single core, iterators of data sets stall for seconds.

  Args:
    command: The program and its arguments.
    **arguments: Of `subprocess.Popen`.
  """
  environment = {
    # With more, glibc's memory grows from round to round and is not given back.
    'MALLOC_ARENA_MAX': '1',
    **os.environ,
    'TF_NUM_INTEROP_THREADS': str(max(4, len(os.sched_getaffinity(0)))),
  }
  return subprocess.Popen(
    command, env=environment, stdin=subprocess.DEVNULL, **arguments
  )


def start_process(port: int) -> subprocess.Popen:
  """Starts a worker that ends with this thread, if the system can do that."""
  return start(
    [*tff_worker.ending_with_parent(), binary(), f'--port={port}'],
    # It must not keep our pipes open.
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
