"""Lets TFF compute also in notebooks and in other threads than the main one."""

import asyncio
from collections.abc import Iterator
import contextlib
import functools

import tensorflow_federated as tff

# What TFF has in other threads, where it computes nothing.
_NO_CONTEXT = 'RuntimeErrorContext'


@functools.cache
def _context_of_threads() -> tff.framework.SyncContext:
  """One context, and so one worker, for all threads that have none."""
  return tff.backends.native.create_sync_local_cpp_execution_context()


@contextlib.contextmanager
def computing() -> Iterator[None]:
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
