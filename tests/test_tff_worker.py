"""Scripts that use the library end, also through a pipe, and nothing is patched."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
import tensorflow_federated as tff

from tff_fedsynth import tff_worker

_IMPORTS = """
import importlib, subprocess, sys
meta_path = [*sys.meta_path]
before = {m: {**vars(m)} for m in (importlib, subprocess)}

def changed():
  # Modules below importlib become attributes of it when they are imported.
  return [
    name
    for module, attributes in before.items()
    for name, value in vars(module).items()
    if not hasattr(value, '__spec__') and attributes.get(name) is not value
  ]

import tff_fedsynth
assert not changed() and sys.meta_path == meta_path
import tensorflow_federated as tff
"""
_USE = """
import os, signal, sys
# What starts the tests in the background may ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

@tff.tensorflow.computation
def one():
  return 1

assert one() == 1
(worker,) = tff_fedsynth.tff_worker.worker_processes()
print(worker.pid, flush=True)
"""
# From a way to end to its code, the exit status, and the last line of errors.
_ENDS = {
  'normal': ('assert tff_fedsynth.build_fedsynth and not changed()', 0, ''),
  'error': ("raise RuntimeError('x')", 1, 'RuntimeError: x'),
  'sys.exit': ('sys.exit(3)', 3, ''),
  'Ctrl-C': (
    """
import threading
import numpy as np
import tensorflow as tf

@tff.tensorflow.computation(np.int32)
def for_ever(step):
  return tf.while_loop(lambda i: i >= 0, lambda i: [i * step], [step])[0]

main = threading.main_thread().ident
threading.Timer(2.0, signal.pthread_kill, [main, signal.SIGINT]).start()
for_ever(1)
""",
    -signal.SIGINT,
    'KeyboardInterrupt',
  ),
}


@pytest.mark.parametrize(
  'way',
  # It ends as an error does.
  [
    'normal',
    'error',
    'Ctrl-C',
    pytest.param('sys.exit', marks=pytest.mark.slow),
  ],
)
def test_a_script_through_a_pipe_ends_and_leaves_no_worker(way):
  end, status, last_line = _ENDS[way]
  with subprocess.Popen(
    [sys.executable, '-c', _IMPORTS + _USE + end],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL='3'),
  ) as process:
    # Reads to the end of the pipes, which a surviving worker would keep open.
    output, errors = process.communicate(timeout=120)
  assert process.returncode == status, errors
  assert 'Exception ignored' not in errors
  assert (errors.splitlines() or [''])[-1] == last_line, errors
  pid = int(output)
  alive = [psutil.Process(pid)] if psutil.pid_exists(pid) else []
  assert not psutil.wait_procs(alive, timeout=10)[1]


def test_tff_starts_another_worker_after_one_was_ended():
  one = tff.tensorflow.computation(lambda: 1)
  previous = None
  for _ in range(3):
    assert one() == 1
    worker = tff_worker.worker_processes()[-1]
    assert worker != previous
    tff_worker.end_workers()
    assert not tff_worker.worker_processes()
    previous = worker
