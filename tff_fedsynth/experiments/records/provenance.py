"""Which code and files made a run, and the command that makes it again."""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
from typing import Any

from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.experiments.records import recovery
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.settings import user_modules
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.tasks import TASKS
from tff_fedsynth.tasks.federated import downloads

UNKNOWN = 'unknown'
CLEAN = 'clean'
CHANGED = 'changed'
# What a summary or a row says of the code that made it.
_OF_CODE = ('commit', 'tree')
_OF_MACHINE = (
  'tff_fedsynth_version',
  'tensorflow_version',
  'tensorflow_federated_version',
  'python_version',
  'platform',
)
COLUMNS = (*_OF_CODE, *_OF_MACHINE)

_FILE = 'provenance.json'
_ROOT = pathlib.Path(__file__).parents[3]
_SOURCES = ('tff_fedsynth', 'baselines')
_JOIN = '+'
_GIT_SECONDS = 20


@dataclasses.dataclass(frozen=True)
class Program:
  """What makes a run.

  Attributes:
    name: Of the command.
    flags: Its own, beside those of the settings.
  """

  name: str = 'fedsynth-train'
  flags: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def command(self, flags: Mapping[str, Any]) -> str:
    """A line for a shell; values of `None`, and empty lists, are left out."""
    given = {**flags, **self.flags}
    if 'seeds' in given:
      given.pop('seed', None)
    return shlex.join(
      [
        self.name,
        *(
          f'--{name}={command_flags.text(value)}'
          for name, value in given.items()
          if value not in (None, ())
        ),
        '--output_dir=DIR',
      ]
    )


def _git(root: pathlib.Path, *arguments: str) -> str | None:
  """What git says, or `None` where it fails or there is none."""
  # Those of a hook that we run in would lead elsewhere.
  environment = {k: v for k, v in os.environ.items() if k[:4] != 'GIT_'}
  try:
    result = subprocess.run(
      ['git', '--no-optional-locks', '-C', str(root), *arguments],
      capture_output=True,
      env=environment,
      encoding='utf-8',
      errors='replace',
      timeout=_GIT_SECONDS,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return result.stdout.strip() if result.returncode == 0 else None


def code(root: pathlib.Path = _ROOT) -> dict[str, str]:
  """The commit of a checkout, and whether its packages are as they are there.

  Args:
    root: The directory that the packages are in.

  Returns:
    `commit`, and `tree`: `clean`, or `changed` where a file of the packages is
    changed or new. Both are `unknown` where the packages are no part of a
    checkout, as those that were installed.
  """
  # What is installed inside of somebody's checkout is no part of it.
  package = f'{_SOURCES[0]}/__init__.py'
  commit = None
  if _git(root, 'ls-files', '--error-unmatch', package):
    commit = _git(root, 'rev-parse', 'HEAD')
  if not commit:
    return dict(commit=UNKNOWN, tree=UNKNOWN)
  changes = _git(
    root, 'status', '--porcelain', '--untracked-files=all', '--', *_SOURCES
  )
  tree = UNKNOWN if changes is None else CHANGED if changes else CLEAN
  return dict(commit=commit, tree=tree)


def _version(distribution: str) -> str:
  try:
    return importlib.metadata.version(distribution)
  except importlib.metadata.PackageNotFoundError:
    return UNKNOWN


@functools.cache
def of_process() -> Mapping[str, str]:
  """`COLUMNS` of the code that runs here, as it was when this was called first.

  A process goes on with what it imported, whatever happens to the files.
  """
  return dict(
    code(),
    tff_fedsynth_version=_version('tff-fedsynth'),
    tensorflow_version=_version('tensorflow'),
    tensorflow_federated_version=_version('tensorflow-federated'),
    python_version=platform.python_version(),
    platform=platform.platform(),
  )


def _known(value) -> str:
  # A missing value of a table is NaN.
  return value if isinstance(value, str) and value else UNKNOWN


def merged(*parts: Mapping[str, Any]) -> dict[str, str]:
  """`COLUMNS` of what was made in parts, each value once, in order.

  Commits and trees stay side by side: as many of one as of the other.
  """
  codes = dict.fromkeys(pair for part in parts for pair in _codes(part))
  columns = {
    name: _JOIN.join(pair[i] for pair in codes)
    for i, name in enumerate(_OF_CODE)
  }
  for name in _OF_MACHINE:
    values = dict.fromkeys(_known(part.get(name)) for part in parts)
    columns[name] = _JOIN.join(values)
  return columns


def _codes(columns: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Pairs of commit and tree."""
  commits, trees = (_known(columns.get(name)) for name in _OF_CODE)
  return list(zip(commits.split(_JOIN), trees.split(_JOIN)))


def _entries(directory: pathlib.Path) -> list[dict[str, Any]]:
  try:
    return json.loads((directory / _FILE).read_text(encoding='utf-8'))
  except (FileNotFoundError, json.JSONDecodeError):
    return []


def record(
  directory: pathlib.Path,
  done: int,
  files: Mapping[str, str | None] | None = None,
) -> None:
  """Notes that this process goes on with a run.

  Args:
    directory: Of the run. provenance.json in it has an entry for each start
      of which some rounds are left.
    done: How many rounds are left of earlier starts.
    files: The `digests` of what it reads.
  """
  entries = [e for e in _entries(directory) if e['after_round'] < done]
  if done and (not entries or entries[0]['after_round']):
    # It was begun before there was this file.
    entries.insert(0, dict.fromkeys(COLUMNS, UNKNOWN) | dict(after_round=0))
  entries.append({'after_round': done, **of_process(), 'files': files or {}})
  recovery.write_text(directory / _FILE, json.dumps(entries, indent=2) + '\n')


def _files(settings: Settings) -> dict[str, pathlib.Path]:
  """Lists the files that a run reads, by name; they may not exist."""
  given = settings.options
  found = {f'plugin {n}': user_modules.file_of(n) for n in settings.plugin}
  for name, field in registry.own_options().items():
    if field.metadata['is_file'] and name in given:
      found[name] = pathlib.Path(given[name])
  if settings.task in TASKS:
    cache = pathlib.Path(given.get('cache_dir') or downloads.TFF_DIRECTORY)
    for name in TASKS[settings.task].cached_files:
      found[name] = cache / name
  return {name: path.expanduser() for name, path in found.items() if path}


@functools.lru_cache
def _sha256(path: pathlib.Path, size: int, modified: int) -> str:
  """Hashes a file, again only where its size or time has changed."""
  del size, modified
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def digests(settings: Settings) -> dict[str, str | None]:
  """Computes the SHA-256 of each file that a run reads.

  They are those of options that name files, the data of TFF in `cache_dir`, and the
  files of plugins, but not what these import.

  Returns:
    Digests in hexadecimal by the names of options and files; `None` for a file that
    is not there.
  """
  found = {}
  for name, path in _files(settings).items():
    found[name] = None
    if path.is_file():
      stat = path.stat()
      found[name] = _sha256(path.absolute(), stat.st_size, stat.st_mtime_ns)
  return found


def changed_files(
  recorded: Mapping[str, str | None], settings: Settings
) -> list[str]:
  """Lists the paths of files whose content is another than was recorded.

  A file that is gone, or of which nothing was recorded, is not among them.
  """
  paths = _files(settings)
  return [
    str(paths[name])
    for name, digest in digests(settings).items()
    if digest is not None and recorded.get(name, digest) != digest
  ]


def check_files(
  directory: pathlib.Path,
  recorded: Mapping[str, str | None],
  settings: Settings,
) -> None:
  """Raises `SettingsError` where a file changed since results were made of it."""
  if changed := changed_files(recorded, settings):
    raise SettingsError(
      f'{directory} holds results of another content of {", ".join(changed)}. '
      'Put back what was there, or choose another --output_dir.'
    )


def files_of(directory: pathlib.Path) -> dict[str, str | None]:
  """Reads the `digests` of the run in a directory; none of an old run."""
  return {
    name: digest
    for entry in _entries(directory)
    for name, digest in entry.get('files', {}).items()
  }


def made_by(directory: pathlib.Path) -> dict[str, str]:
  """`COLUMNS` of all that made the run in a directory; see `merged`."""
  return merged(*(_entries(directory) or [{}]))


def is_of(columns: Mapping[str, Any], current: Mapping[str, str]) -> bool:
  """Whether something was made by the code that `current` names, unchanged."""
  if _codes(columns) != _codes(current):
    return False
  if current['commit'] == UNKNOWN:
    version = _known(columns.get('tff_fedsynth_version'))
    return version == current['tff_fedsynth_version'] != UNKNOWN
  return current['tree'] == CLEAN


def in_words(columns: Mapping[str, Any]) -> str:
  """What made something, such as "commit 1234567890, then unknown commit"."""
  version = _known(columns.get('tff_fedsynth_version'))
  words = []
  for commit, tree in _codes(columns):
    if commit == UNKNOWN:
      of_version = '' if UNKNOWN in version else f' of version {version}'
      words.append(f'unknown commit{of_version}')
    else:
      changes = '' if tree == CLEAN else ' with changes that are in no commit'
      words.append(f'commit {commit[:10]}{changes}')
  return ', then '.join(words)


def notes(
  rows: Iterable[Mapping[str, Any]], current: Mapping[str, str]
) -> tuple[list[int], list[str]]:
  """Numbers those of some rows that other code made, or code that was changed.

  Returns:
    A number for each row, 0 for the code of `current`; and the words for the
    numbers from 1.
  """
  words = {}
  numbers = [
    0
    if is_of(row, current)
    else words.setdefault(in_words(row), len(words) + 1)
    for row in rows
  ]
  return numbers, list(words)
