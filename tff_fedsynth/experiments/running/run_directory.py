"""What the directory of a run says of it: its flags, and what was measured for it."""

import json
import pathlib
from typing import Any

from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.records import directory as directory_lib
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.records import run_lock
from tff_fedsynth.experiments.running import rounds
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError

# The only flag that a run may go on with another value of.
_GROWS = 'total_rounds'
_TRAIN = provenance.Program()


def check(settings: Settings) -> pathlib.Path:
  """The directory, if it is new, empty, or holds the same run.

  Raises:
    SettingsError: If it holds something else, or another process writes there.
  """
  directory = directory_lib.check(settings.output_dir)
  run_lock.check_free(directory)
  flags_file = directory / rounds.FLAGS
  new = settings.as_flags()
  if flags_file.exists():
    # A flag that came after that run was at its default then.
    old = {**Settings().as_flags(), **settings_lib.read_flags(flags_file)}
    differing = settings_lib.differences(old, new)
    if int(old[_GROWS]) < int(new[_GROWS]):
      del differing[_GROWS]
    if differing:
      raise SettingsError(
        f'{directory} holds a run with other flags: '
        f'{"; ".join(differing.values())}. '
        'Choose another --output_dir, or use the same flags to go on; only '
        f'--{_GROWS} may grow.'
      )
    provenance.check_files(directory, provenance.files_of(directory), settings)
  elif directory.exists() and any(
    path.name != run_lock.NAME for path in directory.iterdir()
  ):
    raise SettingsError(
      f'{directory} is not empty and holds no run (no flags.txt). Choose '
      'another --output_dir.'
    )
  return directory


def read_chosen(settings: Settings) -> dict[str, Any]:
  """The options that were measured for a run; empty if there are none."""
  path = pathlib.Path(settings.output_dir) / rounds.CHOSEN
  chosen = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
  # Older versions wrote numbers as text.
  return {k: float(v) if isinstance(v, str) else v for k, v in chosen.items()}


def full_flags(settings: Settings) -> dict[str, Any]:
  """All flags of a run, with those that were measured for it before it began.

  None of them is of another method, or fixed by the method's name.
  """
  values = {**settings.by_flag(), **read_chosen(settings)}
  return {k: v for k, v in values.items() if v not in (None, ())}


def fixed_flags(method: str) -> dict[str, Any]:
  """What the name of a method fixes, by the names that flags would have."""
  return dict(METHODS[method].fixed)


def made_again(
  settings: Settings, program: provenance.Program = _TRAIN
) -> dict[str, str]:
  """Columns of a row: the `command` that makes it, and all `flags` as JSON."""
  flags = full_flags(settings)
  fixed = fixed_flags(settings.method)
  return dict(
    command=program.command(flags),
    flags=json.dumps({**flags, **fixed, **program.flags}),
  )
