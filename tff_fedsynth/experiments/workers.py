"""Runs TFF's computations on workers that may die, here or on other machines.

TFF tries a lost worker again for ever. Here a call to a worker has a deadline, a
worker that does not answer is left out or started anew, and what was computed
is computed again: a round is a function of its arguments alone.
"""

import abc
import asyncio
import collections
from collections.abc import Sequence
from concurrent import futures
import importlib.util
import os
import pathlib
import shutil
import socket
import subprocess
import time

from absl import logging
import grpc
import tensorflow_federated as tff

# How often a local worker is started anew for one computation.
MAX_RESTARTS = 3
_CONNECT_SECONDS = 60.0
# A worker that answers with these is gone, stopped, or another one by now.
_LOST = (
  grpc.StatusCode.CANCELLED,
  grpc.StatusCode.DEADLINE_EXCEEDED,
  grpc.StatusCode.UNAVAILABLE,
)
_MAX_MESSAGE_BYTES = 2 * 1000 * 1000 * 1000


class WorkersLostError(RuntimeError):
  """No worker is left to compute; the message says how they were lost."""


class WorkerLostError(grpc.RpcError):
  """One worker did not answer. TFF does not try again on this error."""

  def __init__(self, address: str, reason: str):
    super().__init__(f'{address}: {reason}')
    self.address = address


class _CallDetails(
  collections.namedtuple(
    '_CallDetails', ('method', 'timeout', 'metadata', 'credentials')
  ),
  grpc.ClientCallDetails,
):
  wait_for_ready = None
  compression = None


class _Deadline(grpc.UnaryUnaryClientInterceptor):
  """Gives all calls of a computation one deadline."""

  def __init__(self, address: str, seconds: float):
    self._address = address
    self._seconds = seconds
    self._end = time.monotonic() + seconds

  def start(self) -> None:
    """A computation begins."""
    self._end = time.monotonic() + self._seconds

  def intercept_unary_unary(self, continuation, client_call_details, request):
    left = max(self._end - time.monotonic(), 0.001)
    details = client_call_details
    call = continuation(
      _CallDetails(details.method, left, details.metadata, details.credentials),
      request,
    )
    error = call.exception()
    if isinstance(error, grpc.RpcError) and error.code() in _LOST:
      raise WorkerLostError(self._address, error.code().name)
    return call


class Worker(tff.framework.AsyncContext):
  """One TFF worker at an address, which computes in a thread of its own."""

  def __init__(self, address: str, timeout_seconds: float):
    """Connects.

    Args:
      address: `host:port`.
      timeout_seconds: Of one computation; then the worker is lost.

    Raises:
      WorkerLostError: If nobody answers there within a minute.
    """
    self.address = address
    self.is_lost = False
    # One at a time: what was given up elsewhere may still be under way here.
    self._thread = futures.ThreadPoolExecutor(1)
    self._deadline = _Deadline(address, timeout_seconds)
    channel = grpc.insecure_channel(
      address,
      [
        ('grpc.max_receive_message_length', _MAX_MESSAGE_BYTES),
        ('grpc.max_send_message_length', _MAX_MESSAGE_BYTES),
        # Proxies of the environment are for other hosts.
        ('grpc.enable_http_proxy', 0),
      ],
    )
    try:
      grpc.channel_ready_future(channel).result(_CONNECT_SECONDS)
    except grpc.FutureTimeoutError as e:
      raise WorkerLostError(address, 'no TFF worker answers there') from e
    stub = tff.framework.RemoteExecutorGrpcStub(
      grpc.intercept_channel(channel, self._deadline)
    )

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

  def submit(self, comp, arg) -> futures.Future:
    """Begins a computation, whose future may raise WorkerLostError."""
    return self._thread.submit(self._compute, comp, arg)

  def _compute(self, comp, arg):
    if self.is_lost:
      raise WorkerLostError(self.address, 'it was lost before')
    self._deadline.start()
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

  def _compute(self, comp, arg):
    if self._process is None or self._process.poll() is not None:
      self.stop()
      port = unused_port()
      self._process = start_process(port)
      self._worker = Worker(f'localhost:{port}', self._timeout_seconds)
    return self._worker.submit(comp, arg).result()

  def _lost(self, losses):
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
    if self._process is not None:
      self._process.kill()
      self._process.wait()
    self._process = self._worker = None


class RemoteWorkers(_Workers):
  """Workers elsewhere, each with a part of a round's clients."""

  def __init__(self, addresses: Sequence[str], timeout_seconds: float):
    """Connects to all.

    Args:
      addresses: `host:port` each.
      timeout_seconds: Of one computation.

    Raises:
      WorkersLostError: If one does not answer.
    """
    try:
      self._workers = [Worker(a, timeout_seconds) for a in addresses]
    except WorkerLostError as e:
      raise WorkersLostError(
        f'{e}. Start it with fedsynth-worker there, or leave it out of '
        '--workers.'
      ) from e
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


def unused_port() -> int:
  """A port of this machine that nobody listens on."""
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


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
  threads = max(4, len(os.sched_getaffinity(0)))
  return subprocess.Popen(
    command,
    env=dict(os.environ, TF_NUM_INTEROP_THREADS=str(threads)),
    stdin=subprocess.DEVNULL,
    **arguments,
  )


def start_process(port: int) -> subprocess.Popen:
  """Starts a worker that ends with this thread, if the system can do that."""
  die_with_parent = []
  if shutil.which('setpriv'):
    die_with_parent = ['setpriv', '--pdeathsig', 'KILL']
  return start(
    [*die_with_parent, binary(), f'--port={port}'],
    # It must not keep our pipes open.
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
