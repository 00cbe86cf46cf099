"""Runs a server that listens everywhere where only one address reaches it.

TFF's worker listens on all addresses of its machine. This program runs it in a
network namespace of its own and forwards one listening socket, inherited from
outside, to it. Started by path, so that it need not import TensorFlow:

  unshare ... python confine.py FILE_DESCRIPTOR PORT COMMAND ...
"""

import asyncio
import fcntl
import socket
import struct
import subprocess
import sys

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def _raise_loopback() -> None:
  """A new namespace has a loopback device, but it is down."""
  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, _SIOCSIFFLAGS, struct.pack('16sh', b'lo', _IFF_UP))


async def _copy(reader, writer) -> None:
  try:
    while data := await reader.read(1 << 20):
      writer.write(data)
      await writer.drain()
  except ConnectionError:
    pass  # Either side may hang up.
  finally:
    writer.close()


async def _forward(listener: socket.socket, port: int, command) -> int:
  process = await asyncio.create_subprocess_exec(
    *command, stdin=subprocess.DEVNULL
  )

  async def serve(reader, writer):
    try:
      inner_reader, inner_writer = await asyncio.open_connection(
        '127.0.0.1', port
      )
    except OSError:
      writer.close()  # It is starting; the client tries again.
      return
    await asyncio.gather(
      _copy(reader, inner_writer), _copy(inner_reader, writer)
    )

  async with await asyncio.start_server(serve, sock=listener):
    return await process.wait()


def main() -> int:
  """Runs until the command ends; returns its exit status."""
  descriptor, port, *command = sys.argv[1:]
  _raise_loopback()
  listener = socket.socket(fileno=int(descriptor))
  return asyncio.run(_forward(listener, int(port), command))


if __name__ == '__main__':
  sys.exit(main())
