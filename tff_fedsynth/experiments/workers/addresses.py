"""Addresses of TFF workers, as --workers has them."""

from collections.abc import Sequence
import ipaddress
import re

from tff_fedsynth.experiments.settings.settings import SettingsError

_MAX_PORT = 65535
# A name or IPv4 address, or IPv6 in brackets; then the port.
_ADDRESS = re.compile(r'(?:\[([^\[\]]+)\]|([^\[\]:/@\s]+)):([0-9]+)', re.ASCII)


def _is_ipv6(host: str) -> bool:
  try:
    ipaddress.IPv6Address(host)
  except ValueError:
    return False
  return True


def parse(texts: Sequence[str]) -> list[str]:
  """Checks addresses, without asking the network.

  Args:
    texts: `host:port` each, or `[host]:port` with IPv6.

  Returns:
    The same without spaces around them.

  Raises:
    SettingsError: If one is none, or stands there twice.
  """
  found = {}
  for text in map(str.strip, texts):
    if not text:
      raise SettingsError(
        '--workers has an empty entry. Take out the comma that is too many.'
      )
    match = _ADDRESS.fullmatch(text)
    if not match or (match[1] and not _is_ipv6(match[1])):
      raise SettingsError(
        f'--workers must be host:port each, such as host1:8000, with IPv6 in '
        f'brackets, [::1]:8000. Found {text!r}.'
      )
    host, port = (match[1] or match[2]).lower(), int(match[3])
    if not 1 <= port <= _MAX_PORT:
      raise SettingsError(
        f'The port of a worker must be from 1 to {_MAX_PORT}. Found {text!r} '
        'in --workers.'
      )
    if (host, port) in found:
      raise SettingsError(
        f'--workers names {text} twice. Name each worker once.'
      )
    found[host, port] = text
  return list(found.values())
