"""The cells of a table, one after the other: none is lost, and none fails unseen."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import pathlib
from typing import Any

from absl import logging

from tff_fedsynth.errors import UserError
from tff_fedsynth.experiments import cli

_MOST_CHARACTERS = 200


class FailedCellsError(UserError, RuntimeError):
  """Some cells of a table failed, and the others are in it."""


class Grid:
  """Runs cells, and writes the table after each that was run.

  As a context manager it raises `FailedCellsError` at the end if a cell failed.

  Attributes:
    table: What `write` returned last.
    failed: From the name of a cell to why it failed.
  """

  def __init__(self, write: Callable[[Sequence[Mapping[str, Any]]], Any]):
    """Begins a table.

    Args:
      write: Writes it, given all rows so far.
    """
    self._write = write
    self._rows = []
    self._written = 0
    self._cells = 0
    self.table = None
    self.failed = {}

  @contextlib.contextmanager
  def cell(self, name: str) -> Iterator[None]:
    """Notes that the block failed, if it did, and goes on behind it.

    Args:
      name: Of the cell, for messages.

    Raises:
      UserError: Of the first cell, when there is nothing yet to go on with.
      OSError, tf.errors.OpError: If the disk is full: no other cell has room.
    """
    is_first, self._cells = not self._cells, self._cells + 1
    try:
      yield
    except Exception as e:
      is_mistake = isinstance(e, UserError)
      if cli.is_disk_full(e) or (is_first and is_mistake):
        raise
      message, *_ = str(e).splitlines() or ['']
      self.failed[name] = f'{type(e).__name__}: {message[:_MOST_CHARACTERS]}'
      logging.error('%s failed.', name, exc_info=not is_mistake)

  def add(self, *rows: Mapping[str, Any], is_new: bool = True) -> None:
    """Adds rows of a cell, and writes the table unless they stood there."""
    self._rows += rows
    if is_new:
      self._update()

  def _update(self) -> None:
    self.table = self._write(self._rows)
    self._written = len(self._rows)

  def __enter__(self) -> 'Grid':
    return self

  def __exit__(self, error_type, *_) -> None:
    if error_type is not None:
      return
    if self._written < len(self._rows):
      self._update()
    if self.failed:
      listed = '; '.join(f'{k} ({v})' for k, v in self.failed.items())
      raise FailedCellsError(
        f'{len(self.failed)} of {self._cells} cells failed: {listed}. The same '
        'command tries them again, and leaves the others alone.'
      )


@contextlib.contextmanager
def shown(output_dir: str) -> Iterator[None]:
  """Prints table.md at the end, also where some cells failed."""

  def show():
    directory = pathlib.Path(output_dir)
    table = directory / 'table.md'
    if table.exists():
      print(table.read_text(encoding='utf-8'))
      print(f'Results are in {directory}.')

  try:
    yield
  except FailedCellsError:
    show()
    raise
  show()
