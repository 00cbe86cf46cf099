"""Starts a TFF worker for the --workers of a driver on another machine.

TFF's protocol has neither encryption nor passwords: whoever reaches the port can
compute as this user. Reach it through an ssh tunnel or a private network.
"""

import dataclasses
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

from absl import flags

from tff_fedsynth import options
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.experiments.workers import cli
from tff_fedsynth.experiments.workers import confine
from tff_fedsynth.experiments.workers import contexts
from tff_fedsynth.options import option

_EVERYWHERE = 'all'
_UNSHARE = ('unshare', '--net', '--pid', '--fork', '--kill-child=KILL')


@dataclasses.dataclass(frozen=True)
class Options:
  """Flags of the command."""

  port: int = option(
    8000,
    'Sets the port that the worker listens on.',
    group='Worker',
    minimum=1,
    maximum=65535,
  )
  bind: str = option(
    '127.0.0.1',
    'Names the address that the worker listens on, or all for all of them.',
    group='Worker',
  )

  def __post_init__(self):
    options.check(self)


def _unshare() -> list[str]:
  """A command that gives others a network of their own.

  Raises:
    SettingsError: If this machine has none.
  """
  for rights in ([], ['--user', '--map-root-user']):
    command = [*_UNSHARE, *rights]
    if (
      shutil.which(command[0])
      and not subprocess.run(
        [*command, 'true'], stderr=subprocess.DEVNULL, check=False
      ).returncode
    ):
      return command
  raise SettingsError(
    "TFF's worker listens on all addresses, and this machine allows no network "
    'namespace (unshare) to confine it to one. Give --bind=all if nobody else '
    'reaches this machine.'
  )


def start(port: int, bind: str) -> subprocess.Popen:
  """Starts a worker.

  Args:
    port: To listen on.
    bind: The address to listen on, or 'all'.

  Raises:
    SettingsError: If that cannot be listened on.
  """
  if not bind:  # The system would take it for all addresses.
    raise SettingsError('--bind must be an address, or all.')
  command = [contexts.binary(), f'--port={port}']
  if bind == _EVERYWHERE:
    return contexts.start(command)
  family = socket.AF_INET6 if ':' in bind else socket.AF_INET
  with socket.socket(family) as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      listener.bind((bind, port))
      listener.listen()
    except OSError as e:
      raise SettingsError(
        f'Cannot listen on {bind}, port {port}: {e}. Choose another --port or '
        '--bind.'
      ) from e
    script = pathlib.Path(confine.__file__)
    descriptor = listener.fileno()
    return contexts.start(
      [
        *_unshare(),
        *(sys.executable, script, str(descriptor), str(port)),
        *command,
      ],
      pass_fds=[descriptor],
    )


def _main(argv) -> int:
  del argv
  o = command_flags.read(Options)
  process = start(o.port, o.bind)
  print(f'A TFF worker listens on {o.bind}:{o.port}.')
  sys.stdout.flush()
  try:
    return process.wait()
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()


def define_flags(flag_values: flags.FlagValues) -> None:
  """Defines the flags of the command."""
  command_flags.define(options.fields(Options), flag_values)


def main() -> None:
  """Entry point of `fedsynth-worker`."""
  cli.start(_main, define_flags)
