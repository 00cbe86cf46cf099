"""Starts a TFF worker for the --workers of a command on another machine.

  fedsynth-worker --port=8000

It listens on all addresses of its machine, unencrypted and without a password:
whoever reaches the port can compute as this user. Keep others out by a firewall
or a private network; an ssh tunnel leads through both.
"""

import dataclasses
import os
import socket
import sys

from absl import flags

from tff_fedsynth import options
from tff_fedsynth import tff_worker
from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments.help import entrance
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.options import option


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

  def __post_init__(self):
    options.check(self)


def _serve(argv) -> int:
  del argv
  port = command_flags.read(Options).port
  try:
    # The worker would share a port with another one.
    socket.create_server(('', port)).close()
  except OSError as e:
    raise SettingsError(
      f'Cannot listen on port {port}: {os.strerror(e.errno)}. Choose another --port.'
    ) from e
  process = tff_worker.start(port, output=None)
  print(
    f'A TFF worker listens on port {port} of all addresses of this machine, '
    'unencrypted and without a password. Ctrl-C ends it.',
    flush=True,
  )
  status = process.wait()
  print(f'The worker ended with status {status}.', file=sys.stderr)
  return 1


def define_flags(flag_values: flags.FlagValues) -> None:
  """Defines the flags of the command."""
  command_flags.define(options.fields(Options), flag_values)


def main() -> None:
  """Entry point of `fedsynth-worker`."""
  with cli.command():
    entrance.answer('worker_server')
    cli.start(_serve, define_flags)


if __name__ == '__main__':
  main()
