"""Where TFF computes: on workers that may die, in notebooks, in any thread.

TFF tries a lost worker again for ever. Here a call to a worker has a deadline, a
worker that does not answer is left out or started anew, and what was computed
is computed again: a round is a function of its arguments alone.
"""

import asyncio
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import contextlib
import functools
import math
import re
import threading
import time

from absl import logging
import grpc
import tensorflow_federated as tff

from tff_fedsynth import errors
from tff_fedsynth import tff_worker
from tff_fedsynth.experiments.settings.settings import SettingsError

# How often a local worker is started anew for one computation.
MAX_RESTARTS = 3
# For a first answer, which takes long only where nobody hears.
_CONNECT_SECONDS = 9.0
_MAX_MESSAGE_BYTES = 2 * 1000 * 1000 * 1000
# A name or IPv4 address, or IPv6 in brackets; then the port.
_ADDRESS = re.compile(r'(\[[0-9a-f:.]+\]|[^\[\]:/@\s]+):([0-9]{1,5})', re.I)
# What a call of a worker that is gone or stopped ends with.
_LOST = {
  grpc.StatusCode.CANCELLED: 'it was given up',
  grpc.StatusCode.DEADLINE_EXCEEDED: 'it does not answer in time',
  grpc.StatusCode.UNAVAILABLE: 'no TFF worker answers there',
}
# What TFF has in other threads than the main one, where it computes nothing.
_NO_CONTEXT = 'RuntimeErrorContext'


class WorkersLostError(errors.UserError, RuntimeError):
  """No worker is left to compute; the message says how they were lost."""


class WorkerLostError(grpc.RpcError):
  """One worker did not answer. TFF does not try again on this error."""


def parse_addresses(texts: Sequence[str]) -> list[str]:
  """Checks addresses of workers, without asking the network.

  Args:
    texts: `host:port` each, or `[host]:port` with IPv6.

  Returns:
    The same without spaces around them.

  Raises:
    SettingsError: If one is none.
  """
  texts = [text.strip() for text in texts]
  for text in texts:
    match = _ADDRESS.fullmatch(text)
    if not match or not 1 <= int(match[2]) <= 65535:
      raise SettingsError(
        '--workers must be host:port each, such as host1:8000, with IPv6 in '
        f'brackets, [::1]:8000, and a port from 1 to 65535. Found {text!r}.'
      )
  return texts


class _Deadline(grpc.UnaryUnaryClientInterceptor):
  """Gives all calls of a computation one deadline.

  They raise `WorkerLostError` if the worker does not answer until then.
  """

  def __init__(self, address: str):
    self._address = address
    self._end = math.inf

  def start(self, seconds: float) -> None:
    """Begins a computation."""
    self._end = time.monotonic() + seconds

  def intercept_unary_unary(self, continuation, client_call_details, request):
    left = max(self._end - time.monotonic(), 0.001)
    call = continuation(client_call_details._replace(timeout=left), request)
    error = call.exception()
    if isinstance(error, grpc.RpcError) and error.code() in _LOST:
      raise WorkerLostError(
        f'{self._address}: {_LOST[error.code()]} ({error.details()})'
      )
    return call


class Worker(tff.framework.AsyncContext):
  """One TFF worker at an address.

  Attributes:
    is_lost: Whether it has failed to answer.
  """

  def __init__(self, address: str, timeout_seconds: float):
    """Connects when it is first needed.

    Args:
      address: `host:port`.
      timeout_seconds: Of one computation; then the worker is lost.
    """
    self.is_lost = False
    self._timeout_seconds = timeout_seconds
    # What was given up elsewhere may still be under way here.
    self._one_at_a_time = threading.Lock()
    self._deadline = _Deadline(address)
    channel = grpc.insecure_channel(
      address,
      [
        ('grpc.max_receive_message_length', _MAX_MESSAGE_BYTES),
        ('grpc.max_send_message_length', _MAX_MESSAGE_BYTES),
        # Proxies of the environment are for other hosts.
        ('grpc.enable_http_proxy', 0),
      ],
    )
    self._stub = tff.framework.RemoteExecutorGrpcStub(
      grpc.intercept_channel(channel, self._deadline)
    )
    self._context = tff.framework.AsyncExecutionContext(
      executor_fn=tff.framework.ResourceManagingExecutorFactory(self._executor),
      compiler_fn=tff.backends.native.desugar_and_transform_to_native,
      transform_args=tff.tensorflow.transform_args,
      transform_result=tff.tensorflow.transform_result,
    )

  def _executor(self, cardinalities) -> tff.framework.RemoteExecutor:
    executor = tff.framework.RemoteExecutor(self._stub)
    executor.set_cardinalities({tff.CLIENTS: 0, **cardinalities})
    return executor

  def _run(self, seconds: float, function: Callable) -> futures.Future:
    """Calls a function in a thread; the future may raise WorkerLostError."""
    future = futures.Future()

    def run():
      try:
        with self._one_at_a_time:
          self._deadline.start(seconds)
          future.set_result(function())
      except BaseException as e:  # Is raised where the result is asked for.
        self.is_lost |= isinstance(e, WorkerLostError)
        future.set_exception(e)

    # Python does not wait for it at exit, when a call may be under way.
    threading.Thread(target=run, daemon=True).start()
    return future

  def connect(self) -> futures.Future:
    """Asks for a first answer."""
    return self._run(_CONNECT_SECONDS, lambda: self._executor({}).close())

  def submit(self, comp, arg) -> futures.Future:
    """Begins a computation."""
    compute = lambda: asyncio.run(self._context.invoke(comp, arg))
    return self._run(self._timeout_seconds, compute)

  async def invoke(self, comp, arg):
    # TFF waits for the first task that fails, and asyncio would print the rest.
    asyncio.current_task().add_done_callback(
      lambda task: task.cancelled() or task.exception()
    )
    # TFF's calls block, so that workers would take turns in one thread.
    return await asyncio.wrap_future(self.submit(comp, arg))


class _Workers(tff.framework.SyncContext):
  """A context that computes again when a worker is lost.

  `_compute` may raise WorkerLostError; then `_replace` replaces the worker, or
  raises WorkersLostError.
  """

  def invoke(self, comp, arg):
    losses = []
    while True:
      try:
        return self._compute(comp, arg)
      except WorkerLostError as e:
        losses.append(e)
        logging.warning('A TFF worker was lost: %s. Computing again.', e)
        self._replace(losses)


class LocalWorker(_Workers):
  """A worker process of our own, started when needed, and anew when lost.

  It is for one thread at a time.
  """

  def __init__(self, timeout_seconds: float):
    self._timeout_seconds = timeout_seconds
    self._process = None

  def _compute(self, comp, arg):
    if self._process is None or self._process.poll() is not None:
      port = tff_worker.unused_port()
      self._process = tff_worker.start(port)
      self._worker = Worker(f'localhost:{port}', self._timeout_seconds)
    return self._worker.submit(comp, arg).result()

  def _replace(self, losses):
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
      self._process = None


class RemoteWorkers(_Workers):
  """Workers elsewhere, each with a part of a round's clients."""

  def __init__(self, addresses: Sequence[str], timeout_seconds: float):
    """Connects to all, at the same time.

    Args:
      addresses: `host:port` each.
      timeout_seconds: Of one computation.

    Raises:
      SettingsError: If an address is none.
      WorkersLostError: If one does not answer within 9 seconds.
    """
    addresses = parse_addresses(addresses)
    self._workers = [Worker(a, timeout_seconds) for a in addresses]
    answers = [worker.connect() for worker in self._workers]
    lost = []
    for address, answer in zip(addresses, answers, strict=True):
      error = answer.exception()
      if isinstance(error, WorkerLostError):
        lost.append(str(error))
      elif error is not None:  # Others speak gRPC, too.
        lost.append(f'{address}: what listens there is no TFF worker')
    if lost:
      raise WorkersLostError(
        f'{"; ".join(lost)}. Start it with fedsynth-worker there, or leave it '
        'out of --workers.'
      )
    self._distribute()

  def _distribute(self) -> None:
    self._context = tff.backends.native.create_mergeable_comp_execution_context(
      self._workers
    )

  def _compute(self, comp, arg):
    return self._context.invoke(comp, arg)

  def _replace(self, losses):
    self._workers = [w for w in self._workers if not w.is_lost]
    if not self._workers:
      raise WorkersLostError(
        'All TFF workers of --workers were lost: '
        f'{"; ".join(map(str, losses))}. Start them again, and the same command '
        'goes on from the last checkpoint.'
      ) from losses[-1]
    self._distribute()


@functools.cache
def _context_of_threads() -> tff.framework.SyncContext:
  """Makes one context, and so one worker, for all threads that have none."""
  return tff.backends.native.create_sync_local_cpp_execution_context()


@contextlib.contextmanager
def in_any_thread() -> Iterator[None]:
  """Gives a thread without a TFF context that of the main thread's kind."""
  stack = tff.framework.get_context_stack()
  with contextlib.ExitStack() as installed:
    if type(stack.current).__name__ == _NO_CONTEXT:
      installed.enter_context(stack.install(_context_of_threads()))
    yield


@contextlib.contextmanager
def event_loop() -> Iterator[asyncio.AbstractEventLoop]:
  """Gives TFF an event loop, also where another runs, as in a notebook.

  Python runs one loop a thread. The one that runs already has to wait for this
  block anyway, so it is put aside for as long.
  """
  running = asyncio._get_running_loop()
  asyncio._set_running_loop(None)
  try:
    previous = asyncio.get_event_loop_policy().get_event_loop()
  except RuntimeError:  # A thread without one.
    previous = None
  loop = asyncio.new_event_loop()
  asyncio.set_event_loop(loop)
  try:
    yield loop
  finally:
    asyncio.set_event_loop(previous)
    loop.close()
    asyncio._set_running_loop(running)
