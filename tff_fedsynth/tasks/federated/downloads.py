"""Data that TFF downloads, and where it keeps them."""

from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any

from tff_fedsynth import options
from tff_fedsynth.options import option
from tff_fedsynth.tasks.federated.client_file import ClientFile
from tff_fedsynth.tasks.federated.task import TaskError

# Where TFF keeps what it downloads.
TFF_DIRECTORY = '~/.tff'
_URL = 'https://storage.googleapis.com/tff-datasets-public'


@dataclasses.dataclass(frozen=True)
class DownloadOptions:
  """Flags of tasks on data that TFF downloads."""

  cache_dir: str | None = option(
    None,
    "Names the directory that holds TFF's data, or gets them.",
    group='Data',
    default_text=TFF_DIRECTORY,
    is_path=True,
  )

  def __post_init__(self):
    options.check(self)


def load_from_tff(
  load: Callable[..., Any],
  file: str,
  cache_dir: str | None,
  directory: str = TFF_DIRECTORY,
) -> Any:
  """Data that TFF downloads, or finds where it keeps them.

  Args:
    load: One of `tff.simulation.datasets`, takes `cache_dir`.
    file: Where TFF keeps the data, in the cache directory.
    cache_dir: Of the user; `None` for TFF's own.
    directory: TFF's own.

  Raises:
    TaskError: If they cannot be had; the message says which file to put where.
  """
  try:
    return load(cache_dir=cache_dir)
  except Exception as e:
    raise TaskError(
      f'TFF could not provide its data. It downloads them from {_URL} the first '
      f'time, and keeps them as {cache_dir or directory}/{file}. On a machine '
      'without network, put the unpacked file there, or name its directory as '
      'cache_dir. The '
      f'cause was: {type(e).__name__}: {e}',
      'cache_dir',
    ) from e


def open_file(load: Callable, name: str, cache_dir: str | None) -> ClientFile:
  """A file that TFF downloads, or finds where it keeps them.

  Args:
    load: Of `tff.simulation.datasets`, takes `cache_dir`.
    name: Of the file, in the cache directory.
    cache_dir: Of the user; `None` for TFF's own.

  Raises:
    TaskError: If it cannot be had or read; the message says what to do.
  """
  path = pathlib.Path(cache_dir or TFF_DIRECTORY).expanduser() / name
  if not path.exists():
    load_from_tff(load, name, cache_dir)
  return ClientFile(
    path,
    'cache_dir',
    'If a download broke off, remove it, and TFF does it again.',
  )
