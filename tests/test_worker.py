import signal
import subprocess
import sys

import psutil
import pytest

# Starts a worker, then leaves in one of three ways.
_PROGRAM = """
import sys, time
from absl import app
import tensorflow_federated as tff
from tff_fedsynth.experiments import cli, worker

@tff.tensorflow.computation
def one():
  return 1

def main(argv):
  assert one() == 1
  print('workers', *[p.pid for p in worker.worker_processes()], flush=True)
  if argv[1] == 'error':
    raise RuntimeError('on purpose')
  if argv[1] == 'wait':
    time.sleep(60)

app.run(cli.command(main))
"""


@pytest.mark.parametrize('way', ['return', 'error', 'wait'])
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
  if way == 'wait':
    process.send_signal(signal.SIGTERM)
  # Reads to the end of the pipes, which a surviving worker would keep open.
  _, errors = process.communicate(timeout=60)
  expected = {'return': 0, 'error': 1, 'wait': 128 + signal.SIGTERM}
  assert process.returncode == expected[way], errors
  assert not [pid for pid in workers if psutil.pid_exists(pid)]
  if way == 'error':
    assert 'on purpose' in errors
