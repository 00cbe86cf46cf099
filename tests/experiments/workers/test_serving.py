"""A worker that serves others; a real process."""

import socket

import psutil
import pytest
import tff_contexts

from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.experiments.workers import contexts
from tff_fedsynth.experiments.workers import serving


def _own_address():
  """An address of this machine that others reach, or `None`."""
  for addresses in psutil.net_if_addrs().values():
    for a in addresses:
      if a.family == socket.AF_INET and not a.address.startswith('127.'):
        return a.address
  return None


def test_a_server_is_reached_at_its_address_only():
  (port,) = contexts.unused_ports(1)
  try:
    process = serving.start(port, '127.0.0.1')
  except SettingsError:
    pytest.skip('This machine has no network namespaces.')
  children = []
  try:
    with tff_contexts.default_context(
      contexts.RemoteWorkers([f'127.0.0.1:{port}'], 60.0)
    ):
      assert tff_contexts.slow(1) == 1
    children = psutil.Process(process.pid).children(recursive=True)
    assert 'worker_binary' in [child.name() for child in children]
    others = _own_address()
    if others is not None:
      with pytest.raises(OSError):
        socket.create_connection((others, port), timeout=5)
    with pytest.raises(SettingsError, match='--bind must be an address'):
      serving.start(port, '')
    with pytest.raises(SettingsError, match='Cannot listen on 127.0.0.1'):
      serving.start(port, '127.0.0.1')
  finally:
    process.kill()
    process.wait()
  _, alive = psutil.wait_procs(children, timeout=10)
  assert not alive
