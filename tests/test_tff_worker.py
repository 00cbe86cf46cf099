"""Programs that use the library leave no worker and no stray message behind."""

import os
import shutil
import signal
import subprocess
import sys

import psutil
import pytest

from tff_fedsynth import tff_worker

_USE = """
import os, signal, sys, time
# What starts the tests in the background may ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

@tff.tensorflow.computation
def one():
  return 1

if sys.argv[1] != 'unused':
  assert one() == 1
  (worker,) = tff_fedsynth.tff_worker.worker_processes()
  print(worker.pid, flush=True)
if sys.argv[1] == 'error':
  raise RuntimeError('on purpose')
if sys.argv[1] == 'exit':
  sys.exit(3)
if sys.argv[1] in ('SIGINT', 'SIGKILL'):
  os.kill(os.getpid(), getattr(signal, sys.argv[1]))
  time.sleep(60)
if sys.argv[1] == 'os._exit':
  os._exit(4)
if sys.argv[1] == 'other context':
  kept = tff.framework.get_context_stack().current
  tff.backends.native.set_sync_local_cpp_execution_context()
  assert one() == 1
if sys.argv[1] == 'in the middle':
  import threading
  main = threading.main_thread().ident
  threading.Timer(1.0, signal.pthread_kill, [main, signal.SIGINT]).start()
  import numpy as np
  import tensorflow as tf

  @tff.tensorflow.computation(np.int32)
  def for_ever(step):
    return tf.while_loop(lambda i: i >= 0, lambda i: [i * step], [step])[0]

  for_ever(1)
if sys.argv[1] == 'fork':
  child = os.fork()
  if child == 0:
    sys.exit()  # As a whole Python, unlike children of multiprocessing.
  assert os.waitpid(child, 0)[1] == 0
  assert worker.is_running() and one() == 1
if sys.argv[1] == 'wait':
  sys.stdin.readline()
  assert worker.is_running() and one() == 1
"""
_OURS_FIRST = 'import tff_fedsynth; import tensorflow_federated as tff'
_TFF_FIRST = """
import tensorflow_federated as tff
assert tff.tensorflow.computation(lambda: 1)() == 1
import tff_fedsynth
"""

# From a way to end to the exit status, and what the last line says.
_ENDS = {
  'unused': (0, ''),
  'error': (1, 'RuntimeError: on purpose'),
  'exit': (3, ''),
  'SIGINT': (-signal.SIGINT, 'KeyboardInterrupt'),
  'in the middle': (-signal.SIGINT, 'KeyboardInterrupt'),
  'other context': (0, ''),  # And as a program ends normally.
}
# These end Python before it can do anything; so does SIGTERM.
_SUDDEN_ENDS = {
  'SIGKILL': (-signal.SIGKILL, ''),
  'os._exit': (4, ''),
}
_CASES = [
  *((_OURS_FIRST, way, *end) for way, end in {**_ENDS, **_SUDDEN_ENDS}.items()),
  (_TFF_FIRST, 'normal', 0, ''),
  (_TFF_FIRST, 'error', *_ENDS['error']),
]


def _start(imports, *arguments):
  return subprocess.Popen(
    [sys.executable, '-c', imports + _USE, *arguments],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL='3'),
  )


def _finish(process, text=None):
  """What a program wrote, to the end of its pipes; it does not outlive a test."""
  try:
    return process.communicate(text, timeout=120)
  except subprocess.TimeoutExpired:
    tff_worker.end_workers(psutil.Process(process.pid))
    process.kill()
    raise


def _left(pids):
  """Which of the processes are there after some time to end."""
  processes = [psutil.Process(p) for p in pids if psutil.pid_exists(p)]
  return psutil.wait_procs(processes, timeout=10)[1]


@pytest.mark.parametrize(
  'imports, way, status, last_line',
  _CASES,
  ids=[
    f'{"TFF" if i is _TFF_FIRST else "ours"} first, {way}'
    for i, way, *_ in _CASES
  ],
)
def test_no_worker_outlives_a_program(imports, way, status, last_line):
  if way in _SUDDEN_ENDS and not shutil.which('setpriv'):
    pytest.skip('Nothing here ends a process with its parent.')
  process = _start(imports, way)
  # Reads to the end of the pipes, which a surviving worker would keep open.
  output, errors = _finish(process)
  assert process.returncode == status, errors
  assert not _left(map(int, output.split()))
  lines = errors.splitlines()
  assert (lines[-1] if lines else '') == last_line, errors
  assert 'Exception ignored' not in errors


@pytest.mark.parametrize('imports', [_OURS_FIRST, _TFF_FIRST])
def test_a_forked_child_leaves_the_worker_of_its_parent(imports):
  process = _start(imports, 'fork')
  output, errors = _finish(process)
  assert process.returncode == 0, errors
  assert not _left(map(int, output.split()))
  assert 'Exception ignored' not in errors


def test_workers_of_a_child_are_its_own():
  process = _start(_OURS_FIRST, 'wait')
  pid = int(process.stdout.readline())
  assert not [p for p in tff_worker.end_workers() if p.pid == pid]
  _, errors = _finish(process, 'go on\n')
  assert process.returncode == 0, errors
  assert not _left([pid])
