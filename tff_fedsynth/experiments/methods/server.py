"""The server's part of a method, from its flags."""

from collections.abc import Mapping
from typing import Any

from tff_fedsynth.errors import OptionError
from tff_fedsynth.experiments.settings.setup import Setup
from tff_fedsynth.options import Group
from tff_fedsynth.server.config import CentralPrivacy
from tff_fedsynth.server.config import Defense
from tff_fedsynth.server.config import ServerConfig

_DEFENSE = Group(Defense)
_PRIVACY = Group(CentralPrivacy, 'dp_')
GROUPS = (_DEFENSE, _PRIVACY)


def check(values: Mapping[str, Any]) -> None:
  """Raises `OptionError` for flags that do not go together."""
  if ('dp_noise_multiplier' in values) != ('dp_clip_norm' in values):
    raise OptionError(
      'dp_noise_multiplier and dp_clip_norm make differential privacy '
      'together. Give both or none.',
      'dp_noise_multiplier',
      'dp_clip_norm',
    )
  if 'dp_delta' in values and 'dp_clip_norm' not in values:
    raise OptionError(
      'dp_delta needs dp_clip_norm. Leave it out.', 'dp_delta', 'dp_clip_norm'
    )


def config(setup: Setup, values: Mapping[str, Any]) -> ServerConfig:
  """What the server does with decoded updates.

  Args:
    setup: Of the run.
    values: Of the flags in `GROUPS`, and maybe others.

  Raises:
    OptionError: If they do not go together.
  """
  check(values)
  privacy = None
  if 'dp_clip_norm' in values:
    privacy = CentralPrivacy(
      clients_per_round=setup.settings.clients_per_round,
      **_PRIVACY.arguments(values),
    )
  return ServerConfig(Defense(**_DEFENSE.arguments(values)), privacy)
