"""Modules of users that add tasks, models, methods, objectives to registries.

Importing them is all. It comes before names are looked up, and before flags are
defined, as what is in the registries decides both.
"""

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import functools
import importlib
import os
import pathlib
import sys
import traceback

from tff_fedsynth.errors import OptionError


def names(texts: Iterable[str]) -> tuple[str, ...]:
  """Each module once; a text may name several, as that of a list does."""
  parts = (part.strip() for text in texts for part in str(text).split(','))
  return tuple(dict.fromkeys(filter(None, parts)))


def file_of(name: str) -> pathlib.Path | None:
  """Finds the file of a module that was loaded, or of a path."""
  path = pathlib.Path(name).expanduser().absolute()
  if path.suffix == '.py':
    return path
  file = getattr(sys.modules.get(name), '__file__', None)
  return file and pathlib.Path(file)


def load(texts: Iterable[str]) -> None:
  """Imports modules, those that were not yet.

  Args:
    texts: Names of modules, or paths that end with .py; see `names`.

  Raises:
    OptionError: If one cannot be imported.
  """
  for name in names(texts):
    _load(name)


@functools.cache  # A path counts from where the process was at first.
def _load(name: str) -> None:
  path = pathlib.Path(name).expanduser().absolute()
  is_file = path.suffix == '.py'
  module = path.stem if is_file else name
  if is_file and not path.is_file():
    raise _error(name, f'there is no file {path}')
  try:
    with _first_on_path(path.parent if is_file else pathlib.Path.cwd()):
      importlib.invalidate_caches()
      found = importlib.import_module(module)
  except Exception as e:  # Whatever a user's module does.
    raise _error(name, f'{type(e).__name__}: {e}{_place(e)}') from e
  other = getattr(found, '__file__', None)
  if is_file and not (other and os.path.samefile(other, path)):
    raise _error(name, f'another module is called {module}: {other or found}')


def _error(name: str, cause: str) -> OptionError:
  return OptionError(
    f'--plugin={name} cannot be imported: {cause}. Give the name of a module, '
    'or the path of a file that ends with .py, which can.'
  )


@contextlib.contextmanager
def _first_on_path(directory: pathlib.Path) -> Iterator[None]:
  # That of a console script is where the script is.
  sys.path.insert(0, str(directory))
  try:
    yield
  finally:
    with contextlib.suppress(ValueError):  # The module may have removed it.
      sys.path.remove(str(directory))


def _place(error: Exception) -> str:
  """The first line of an import that is neither ours nor Python's."""
  for frame in traceback.extract_tb(error.__traceback__):
    is_python = frame.filename.startswith('<frozen importlib')
    if not is_python and frame.filename not in (__file__, importlib.__file__):
      return f' ({frame.filename}, line {frame.lineno})'
  return ''
