"""The table of a directory of runs, to which later commands add rows."""

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

import pandas as pd

from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.records import recovery
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError

_FILE = 'flags.json'


@dataclasses.dataclass(frozen=True)
class Ledger:
  """Rows that stand in a table, and what they have in common.

  Attributes:
    table: Path of the CSV file; it may not exist.
    key: Columns that tell rows apart.
    flags: What all rows share, by name, as text.
    settings: Of the runs, which say what files they read.
    groups: From values of the first column of `key` to what only such rows
      share.
  """

  table: pathlib.Path
  key: tuple[str, ...]
  flags: Mapping[str, str]
  settings: Settings
  groups: Mapping[str, Mapping[str, str]] = dataclasses.field(
    default_factory=dict
  )

  def check(self, cells: Collection[tuple]) -> None:
    """Refuses rows beside which those of other flags would stand.

    Args:
      cells: The keys of all rows that are to come.

    Raises:
      SettingsError: If what is shared is not what it was, or not known, or a file
        that runs read has changed.
    """
    rows = self._rows()
    directory = self.table.parent
    shared = self._shared()
    if rows and shared and self._has_flags_of(shared):
      provenance.check_files(directory, shared['files'], self.settings)
    kept = rows.keys() - set(cells)
    if not kept:
      return
    change = f'Choose another --output_dir, or remove {self.table} first.'
    if shared is None:
      raise SettingsError(
        f'{self.table} holds rows of runs whose flags are not known, and which '
        f'this command would not make again. {change}'
      )
    differing = settings_lib.differences(shared['flags'], self.flags)
    for group in {key[0] for key in kept} & self.groups.keys():
      if group in shared['groups']:
        differing |= settings_lib.differences(
          shared['groups'][group], self.groups[group]
        )
    if differing:
      raise SettingsError(
        f'{directory} holds rows of runs with other flags: '
        f'{"; ".join(differing.values())}. {change}'
      )

  def add(self, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Old rows and new ones, which take the place of those with their keys.

    Notes what they share. Old rows of other flags, which `check` lets pass if
    all of them are to be replaced, are left out.
    """
    shared = self._shared() or dict(flags={}, groups={}, files={})
    merged, groups, files = {}, {}, {}
    if self._has_flags_of(shared):
      groups, files = shared['groups'], shared['files']
      merged = {
        key: row
        for key, row in self._rows().items()
        if key[0] not in self.groups
        or groups.get(key[0], {}) == self.groups[key[0]]
      }
    for row in rows:
      merged[_key(row, self.key)] = dict(row)
    text = dict(
      flags=self.flags,
      groups={**groups, **self.groups},
      files={**provenance.digests(self.settings), **files},
    )
    recovery.write_text(
      self.table.parent / _FILE, json.dumps(text, indent=2) + '\n'
    )
    return list(merged.values())

  def write(self, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Writes the table with what `add` returns."""
    frame = pd.DataFrame(self.add(rows))
    recovery.write_text(self.table, frame.to_csv(index=False))
    return frame

  def _has_flags_of(self, shared: Mapping[str, Mapping[str, str]]) -> bool:
    return not settings_lib.differences(shared['flags'], self.flags)

  def _rows(self) -> dict[tuple, dict[str, Any]]:
    if not self.table.exists():
      return {}
    try:
      frame = pd.read_csv(
        self.table,
        # There is an attack whose name is nan.
        keep_default_na=False,
        na_values=[''],
        # A version, or a commit, can look like a number.
        dtype=dict.fromkeys(provenance.COLUMNS, str),
      )
      return {_key(row, self.key): row for row in frame.to_dict('records')}
    except (KeyError, ValueError) as e:
      raise SettingsError(
        f'{self.table} is no table of this command, or broken: {e}. Choose '
        'another --output_dir, or remove it first.'
      ) from e

  def _shared(self) -> dict[str, dict] | None:
    """`flags`, `groups` and `files` of the rows that stand there."""
    path = self.table.parent / _FILE
    defaults = Settings().as_flags()
    if path.exists():
      shared = json.loads(path.read_text(encoding='utf-8'))
      # A flag that came later was at its default then.
      later = {k: v for k, v in defaults.items() if k in self.flags}
      return {'files': {}, **shared, 'flags': {**later, **shared['flags']}}
    # The table is older than such files are. Any of its runs knows its flags.
    for path in sorted(self.table.parent.glob('runs/**/flags.txt')):
      found = settings_lib.read_flags(path)
      of_runs = defaults.keys() | registry.own_options().keys()
      flags = {
        name: {**defaults, **found}.get(name, '') if name in of_runs else value
        for name, value in self.flags.items()
      }
      return dict(flags=flags, groups={}, files={})
    return None


def _key(row: Mapping[str, Any], columns: tuple[str, ...]) -> tuple:
  # Of a ratio that is not given, and NaN in a table.
  return tuple(None if pd.isna(row[c]) else row[c] for c in columns)
