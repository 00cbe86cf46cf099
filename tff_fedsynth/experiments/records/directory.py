"""Where results go: checked before anything is computed."""

import pathlib
import tempfile

from tff_fedsynth.experiments.settings.settings import SettingsError


def check(output_dir: str) -> pathlib.Path:
  """The directory of `--output_dir`, which exists or can be made.

  Nothing is left there.

  Raises:
    SettingsError: If there is none, or nothing can be written to it.
  """
  if not output_dir:
    raise SettingsError('--output_dir is required: where results go.')
  directory = pathlib.Path(output_dir)
  try:
    existing = next(p for p in (directory, *directory.parents) if p.exists())
    if not existing.is_dir():
      raise SettingsError(
        f'--output_dir={directory} is no directory: {existing} is a file. '
        'Choose another --output_dir.'
      )
    with tempfile.TemporaryFile(dir=existing):
      pass
  except OSError as e:
    raise SettingsError(
      f'Nothing can be written to --output_dir={directory}: {e.strerror}. '
      'Choose another --output_dir.'
    ) from e
  return directory
