"""Finds the last good state of a run that was stopped in the middle of writing."""

import csv
import json
import os
import pathlib
import shutil
from typing import Any

from absl import logging
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.experiments import tff_contexts

_KEY = 'round'
# What JSON has no numbers for, as Python calls it.
_NO_NUMBERS = ('NaN', 'Infinity', '-Infinity')


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file that is there whole or not at all."""
  temporary = path.with_name(path.name + '.part')
  try:
    temporary.write_text(text, encoding='utf-8')
    os.replace(temporary, path)
  except OSError:
    temporary.unlink(missing_ok=True)  # The disk may be full.
    raise


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes JSON, where "NaN", "Infinity" and "-Infinity" are text."""
  plain = json.loads(json.dumps(value), parse_constant=str)
  write_text(path, json.dumps(plain, indent=2) + '\n')


def read_json(path: pathlib.Path) -> Any:
  """Reads what `write_json` wrote, with numbers for such text."""

  def with_numbers(found: dict[str, Any]) -> dict[str, Any]:
    return {k: float(v) if v in _NO_NUMBERS else v for k, v in found.items()}

  return json.loads(path.read_text(encoding='utf-8'), object_hook=with_numbers)


def _read_rows(path: pathlib.Path) -> tuple[list[str], list[dict]]:
  """The header of a CSV file, and its rows 0, 1, 2, ... as far as they are whole."""
  if not path.exists():
    return [], []
  text = path.read_text(errors='replace', encoding='utf-8')
  # A line without its end was cut off, however good it looks.
  lines = text[: text.rfind('\n') + 1].splitlines()
  reader = csv.reader(lines)
  header = next(reader, [])
  rows = []
  for values in reader:
    row = dict(zip(header, values))
    if len(values) != len(header) or row.get(_KEY) != str(len(rows)):
      break
    rows.append(row)
  return header, rows


def _loads(loop, manager, version: int, structure) -> bool:
  """Whether a checkpoint can be read and holds what is expected."""
  try:
    state = loop.run_until_complete(manager.load(version, structure))
    tf.nest.assert_same_structure(
      tf.nest.flatten(structure), tf.nest.flatten(state)
    )
  except (MemoryError, tf.errors.ResourceExhaustedError):
    raise  # The file is not to blame, and would be removed.
  # Whatever is wrong with the file, an older one is better.
  except Exception as e:
    logging.warning('Checkpoint %d is broken: %s', version, e)
    return False
  return True


def recover(directory: pathlib.Path, process) -> int:
  """Removes what is broken of a run, so that it goes on from its last good state.

  That is the last checkpoint that can be read, and up to which metrics.csv has
  all rows. Later checkpoints, and rows that are cut off, are removed. If
  nothing is good the run starts again.

  Args:
    directory: Of the run, with metrics.csv and checkpoints/ where it began.
    process: The process whose state was saved.

  Returns:
    The round to go on from; 0 if no round is done.
  """
  checkpoints = directory / 'checkpoints'
  metrics = directory / 'metrics.csv'
  if not checkpoints.exists():
    metrics.unlink(missing_ok=True)
    return 0
  for path in checkpoints.glob('*_temp*'):
    shutil.rmtree(path)  # It was being written.
  manager = tff.program.FileProgramStateManager(str(checkpoints))
  header, rows = _read_rows(metrics)
  structure = process.initialize()
  with tff_contexts.event_loop() as loop:
    versions = loop.run_until_complete(manager.get_versions()) or []
    for version in reversed(versions):
      if version < len(rows) and _loads(loop, manager, version, structure):
        _rewrite(metrics, header, rows[: version + 1])
        return version
      path = checkpoints / f'program_state_{version}'
      logging.warning('Going back behind round %d of %s.', version, directory)
      shutil.rmtree(path)
  metrics.unlink(missing_ok=True)
  return 0


def _rewrite(path, header, rows) -> None:
  lines = [header, *([row[name] for name in header] for row in rows)]
  temporary = path.with_name(path.name + '.part')
  with temporary.open('w', newline='', encoding='utf-8') as file:
    csv.writer(file).writerows(lines)
  os.replace(temporary, path)
