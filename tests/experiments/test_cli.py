"""What commands print, and how they end; real processes."""

import contextlib
import os
import re
import signal
import subprocess
import sys

import psutil
import pytest
import tensorflow_federated as tff

from tff_fedsynth import tff_worker
from tff_fedsynth.experiments import tff_contexts

_TINY_RUN = (
  *('--num_clients=20', '--clients_per_round=2', '--local_epochs=1'),
  '--batch_size=50',
)
# All that `fedsynth-train` prints on both streams, a progress bar in pieces.
_OWN_LINES = re.compile(
  r'fedsynth: .* bytes of synthetic data .*|A client uploads \d+ bytes .*'
  r'|(fedsynth: +\d+%\|.*\| \d/2 \[.*\])?'
  r'|Accuracy 0\.\d+ in the last evaluation, .*|Results are in .*'
)


@contextlib.contextmanager
def _started(command, *arguments):
  """A command as a user gives it; killed in the end if it still runs."""
  environment = {**os.environ, 'PYTHONUNBUFFERED': '1'}
  del environment['TF_CPP_MIN_LOG_LEVEL']  # That of the tests.
  process = subprocess.Popen(
    [sys.executable, '-m', f'tff_fedsynth.experiments.{command}', *arguments],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,  # Takes what ends a piece of a progress bar for a line's end.
    env=environment,
    # What starts the tests in the background may ignore it.
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
  )
  try:
    yield process
  finally:
    process.kill()
    process.wait()


def _read_until(process, text):
  line = ' '
  while text not in line:
    line = process.stdout.readline()
    assert line, f'It ended without {text}.'


def test_a_command_prints_its_own_lines_alone(tmp_path):
  with _started(
    *('train', *_TINY_RUN, f'--output_dir={tmp_path / "run"}'),
    *('--method=fedsynth', '--compression_ratio=500', '--total_rounds=2'),
    '--synthesis_iterations=2',
  ) as process:
    output, _ = process.communicate()
  assert process.returncode == 0, output
  lines = output.splitlines()
  assert [line for line in lines if not _OWN_LINES.fullmatch(line)] == []
  assert lines[-2] == f'Results are in {tmp_path / "run"}'


@pytest.mark.parametrize(
  'where', ['here', pytest.param('elsewhere', marks=pytest.mark.slow)]
)
def test_ctrl_c_ends_a_run_with_one_line_and_no_worker(where, tmp_path):
  arguments = ['--method=fedavg', '--total_rounds=9999', *_TINY_RUN]
  with contextlib.ExitStack() as stack:
    if where == 'elsewhere':
      port = tff_worker.unused_port()
      stack.callback(tff_worker.start(port).kill)
      arguments.append(f'--workers=localhost:{port}')
    process = stack.enter_context(
      _started('train', *arguments, f'--output_dir={tmp_path / "run"}')
    )
    _read_until(process, '2/9999')
    workers = psutil.Process(process.pid).children()
    assert len(workers) == (where == 'here')
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    *bar, last = output.splitlines()
    assert last == 'Stopped. The same command goes on where this one stopped.'
    assert all(not line or line.startswith('fedavg: ') for line in bar), output
    assert not psutil.wait_procs(workers, timeout=10)[1]


def test_ctrl_c_before_tensorflow_is_there_ends_with_one_line():
  # It imports TensorFlow before it looks for the file.
  arguments = ['--run_dir=x', '--examples=x.npz']
  with _started('evaluate', *arguments) as process:
    while 'libtensorflow' not in ''.join(
      m.path for m in psutil.Process(process.pid).memory_maps()
    ):
      assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
  assert (process.returncode, output) == (130, 'Stopped.\n')


def test_a_worker_serves_others_until_ctrl_c_ends_it():
  port = tff_worker.unused_port()
  with _started('worker_server', f'--port={port}') as process:
    assert process.stdout.readline() == (
      f'A TFF worker listens on port {port} of all addresses of this machine, '
      'unencrypted and without a password. Ctrl-C ends it.\n'
    )
    context = tff_contexts.RemoteWorkers([f'localhost:{port}'], 60.0)
    with tff.framework.get_context_stack().install(context):
      assert tff.tensorflow.computation(lambda: 1)() == 1
    with _started('worker_server', f'--port={port}') as second:
      output, _ = second.communicate(timeout=60)
    assert second.returncode == 2 and output == (
      f'Error: Cannot listen on port {port}: Address already in use. Choose '
      'another --port.\n'
    )
    workers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
  assert (process.returncode, output) == (130, 'Stopped.\n')
  assert len(workers) == 1 and not psutil.wait_procs(workers, timeout=10)[1]
