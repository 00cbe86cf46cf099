"""What is often added takes two or three files, its test included."""

import os
import shutil
import subprocess
import sys

from additions import ADDITIONS
import pytest
from rooms import PACKAGES
from rooms import ROOT

MOST_FILES = {
  'compressor': 3,
  'task': 3,
  'objective': 2,
  'form of inputs': 2,
  'option': 2,
}


def _add(root, files) -> None:
  for name, change in files.items():
    path = root / name
    if isinstance(change, str):
      assert not path.exists(), f'{name} is there already.'
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(change)
      continue
    text = path.read_text()
    for line, before in change:
      assert text.count(line) == 1, f'{line!r} in {name}'
      text = text.replace(line, before + line)
    path.write_text(text)


@pytest.mark.parametrize('what', ADDITIONS)
def test_files_of_an_addition(what):
  files = ADDITIONS[what]
  assert len(files) == MOST_FILES[what]
  assert sum(name.startswith('tests/') for name in files) == 1


def test_additions_work(tmp_path):
  for folder in (*PACKAGES, 'tests', 'examples'):
    shutil.copytree(
      ROOT / folder,
      tmp_path / folder,
      ignore=shutil.ignore_patterns('__pycache__'),
    )
  for name in ('BUILD', 'pyproject.toml'):
    shutil.copy(ROOT / name, tmp_path)
  tests = []
  for files in ADDITIONS.values():
    _add(tmp_path, files)
    tests += [name for name in files if name.startswith('tests/')]
  # In the rooms they are no stranger than the rest.
  result = subprocess.run(
    [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider']
    + ['tests/test_rooms.py', *tests],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': f'{tmp_path}'},
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert result.returncode == 0, result.stdout[-4000:]
