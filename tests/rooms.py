"""The rooms of the project: which there are, and which imports which."""

import ast
import collections
from collections.abc import Iterator
import pathlib

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ('tff_fedsynth', 'baselines')
_TOP = 'tff_fedsynth'
COMMANDS = f'{_TOP}/experiments'


def sources(package: str) -> list[pathlib.Path]:
  """The files of a package, relative to the root."""
  files = (ROOT / package).rglob('*.py')
  return sorted(path.relative_to(ROOT) for path in files)


def room_of(source: pathlib.Path) -> str:
  """The room of a file: its folder, but each file at the top is one."""
  if str(source.parent) == _TOP:
    return source.stem
  return str(source.parent).removeprefix(f'{_TOP}/')


def rooms() -> dict[str, list[pathlib.Path]]:
  """The files of each room."""
  found = collections.defaultdict(list)
  for package in PACKAGES:
    for source in sources(package):
      # It only names what the rooms have.
      if source != pathlib.Path(_TOP, '__init__.py'):
        found[room_of(source)].append(source)
  return dict(found)


def _file_of(module: str) -> pathlib.Path | None:
  """The file of one of our modules, or None for a name inside a module."""
  path = pathlib.Path(*module.split('.'))
  for file in (path.with_suffix('.py'), path / '__init__.py'):
    if (ROOT / file).exists():
      return file
  return None


def imported(source: pathlib.Path) -> Iterator[pathlib.Path]:
  """The files of ours that a file imports, anywhere in it."""
  for node in ast.walk(ast.parse((ROOT / source).read_text())):
    if isinstance(node, ast.Import):
      modules = [(alias.name, None) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      modules = [(node.module, alias.name) for alias in node.names]
    else:
      continue
    for module, name in modules:
      if module.split('.')[0] in PACKAGES:
        yield (name and _file_of(f'{module}.{name}')) or _file_of(module)


def imported_rooms(files: list[pathlib.Path]) -> set[str]:
  """The rooms that files import."""
  return {
    room_of(file)
    for source in files
    for file in imported(source)
    if file != pathlib.Path(_TOP, '__init__.py')
  }
