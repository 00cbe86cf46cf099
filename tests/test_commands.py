"""Commands start quickly: nothing heavy is imported before it is needed."""

import subprocess
import sys

import pytest

import tff_fedsynth

COMMANDS = (
  'ablate',
  'attack',
  'benchmark',
  'compare',
  'demo',
  'faults',
  'privacy',
  'train',
  'worker_server',
)


def _run(code):
  return subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
  ).stdout


def test_importing_the_commands_imports_no_tensorflow():
  imports = '; '.join(
    f'import tff_fedsynth.experiments.{name}' for name in COMMANDS
  )
  assert _run(f"{imports}; import sys; print('tensorflow' in sys.modules)") == (
    'False\n'
  )


def test_public_names_are_there_when_they_are_used():
  for name in tff_fedsynth.__all__:
    assert getattr(tff_fedsynth, name).__name__ == name
    assert name in dir(tff_fedsynth)
  with pytest.raises(AttributeError, match="no attribute 'nothing'"):
    _ = tff_fedsynth.nothing
