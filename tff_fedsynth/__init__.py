"""FedSynth (Hu et al. 2022) on TensorFlow Federated.

Importing the package is quick; TensorFlow comes with the first name that is used.
"""

# ruff: noqa: F401

import importlib
from typing import TYPE_CHECKING

# Ends TFF's worker with the program.
from tff_fedsynth import tff_worker

if TYPE_CHECKING:
  from tff_fedsynth.budget import build_spec
  from tff_fedsynth.budget import spec_for_budget
  from tff_fedsynth.client.config import SynthesisConfig
  from tff_fedsynth.client.objectives import Objective
  from tff_fedsynth.compression.codec import Codec
  from tff_fedsynth.errors import BudgetTooSmallError
  from tff_fedsynth.errors import OptionError
  from tff_fedsynth.errors import UnsupportedModelError
  from tff_fedsynth.errors import UserError
  from tff_fedsynth.learning_process import build_codec_fed_avg
  from tff_fedsynth.learning_process import build_fedsynth
  from tff_fedsynth.learning_process import SecureAggregationError
  from tff_fedsynth.models.from_keras import from_keras
  from tff_fedsynth.payload.payload import SyntheticPayload
  from tff_fedsynth.payload.payload import SyntheticPayload as Payload
  from tff_fedsynth.payload.sketch import Sketch
  from tff_fedsynth.payload.spec import SyntheticSpec
  from tff_fedsynth.payload.spec import SyntheticSpecError
  from tff_fedsynth.server.config import CentralPrivacy
  from tff_fedsynth.server.config import Defense
  from tff_fedsynth.server.config import ServerConfig

# The same imports once more, for `__getattr__`.
_MODULE_OF = {
  'BudgetTooSmallError': 'errors',
  'build_codec_fed_avg': 'learning_process',
  'build_fedsynth': 'learning_process',
  'build_spec': 'budget',
  'CentralPrivacy': 'server.config',
  'Codec': 'compression.codec',
  'Defense': 'server.config',
  'from_keras': 'models.from_keras',
  'Objective': 'client.objectives',
  'OptionError': 'errors',
  'SecureAggregationError': 'learning_process',
  'ServerConfig': 'server.config',
  'Sketch': 'payload.sketch',
  'spec_for_budget': 'budget',
  'SynthesisConfig': 'client.config',
  'SyntheticPayload': 'payload.payload',
  'SyntheticSpec': 'payload.spec',
  'SyntheticSpecError': 'payload.spec',
  'UnsupportedModelError': 'errors',
  'UserError': 'errors',
}
__all__ = list(_MODULE_OF)
# Names of before, which stay usable.
_ALIASES = {'Payload': 'SyntheticPayload'}


def __getattr__(name: str):
  name = _ALIASES.get(name, name)
  if name not in _MODULE_OF:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module = importlib.import_module(f'{__name__}.{_MODULE_OF[name]}')
  return getattr(module, name)


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])
