import concurrent.futures
import shutil
import signal
import subprocess
import sys

import psutil
import pytest

from tff_fedsynth.experiments.workers import ending

# Starts a worker, then leaves in one of these ways.
_PROGRAM = """
import sys, time
from absl import app
import tensorflow_federated as tff
from tff_fedsynth import tff_worker
from tff_fedsynth.experiments.workers import cli

@tff.tensorflow.computation
def one():
  return 1

def main(argv):
  assert one() == 1
  print('workers', *[p.pid for p in tff_worker.worker_processes()], flush=True)
  if argv[1] == 'error':
    raise RuntimeError('on purpose')
  if argv[1] in ('terminate', 'kill'):
    time.sleep(60)

app.run(cli.command(main))
"""


@pytest.mark.parametrize('way', ['error', 'terminate', 'kill'])
def test_no_worker_outlives_a_binary(way):
  process = subprocess.Popen(
    [sys.executable, '-c', _PROGRAM, way],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  line = process.stdout.readline()
  while line and not line.startswith('workers'):
    line = process.stdout.readline()
  workers = [int(pid) for pid in line.split()[1:]]
  assert workers
  if way == 'terminate':
    process.send_signal(signal.SIGTERM)
  if way == 'kill':
    if not shutil.which('setpriv'):
      pytest.skip('Nothing here ends a process with its parent.')
    process.kill()
  # Reads to the end of the pipes, which a surviving worker would keep open.
  _, errors = process.communicate(timeout=60)
  expected = {
    'error': 1,
    'terminate': 128 + signal.SIGTERM,
    'kill': -signal.SIGKILL,
  }
  assert process.returncode == expected[way], errors
  alive = [psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)]
  assert not psutil.wait_procs(alive, timeout=5)[1]
  if way == 'error':
    assert 'on purpose' in errors
  assert 'Exception ignored' not in errors


def test_a_thread_ends_workers_without_signals():
  handler = signal.getsignal(signal.SIGTERM)

  def leave():
    with ending.ending_workers():
      return signal.getsignal(signal.SIGTERM)

  with concurrent.futures.ThreadPoolExecutor(1) as threads:
    assert threads.submit(leave).result() is handler
