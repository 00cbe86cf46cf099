"""FedSynth (Hu et al. 2022) on TensorFlow Federated.

Importing the package is quick; TensorFlow comes with the first name that is used.
"""

# ruff: noqa: F401

import importlib
from typing import TYPE_CHECKING

# Ends TFF's worker with the program.
from tff_fedsynth import tff_worker

if TYPE_CHECKING:
  from tff_fedsynth.communication import BudgetTooSmallError
  from tff_fedsynth.learning_process import build_fedsynth
  from tff_fedsynth.learning_process import SecureAggregationError
  from tff_fedsynth.models.conversion import from_keras
  from tff_fedsynth.models.conversion import UnsupportedModelError
  from tff_fedsynth.objectives import Objective
  from tff_fedsynth.specs import build_spec
  from tff_fedsynth.specs import spec_for_budget
  from tff_fedsynth.synthesis import SynthesisConfig
  from tff_fedsynth.synthetic_data import SyntheticSpec
  from tff_fedsynth.synthetic_data import SyntheticSpecError

# The same imports once more, for `__getattr__`.
_MODULE_OF = {
  'BudgetTooSmallError': 'communication',
  'build_fedsynth': 'learning_process',
  'build_spec': 'specs',
  'from_keras': 'models.conversion',
  'Objective': 'objectives',
  'SecureAggregationError': 'learning_process',
  'spec_for_budget': 'specs',
  'SynthesisConfig': 'synthesis',
  'SyntheticSpec': 'synthetic_data',
  'SyntheticSpecError': 'synthetic_data',
  'UnsupportedModelError': 'models.conversion',
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str):
  if name not in _MODULE_OF:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module = importlib.import_module(f'{__name__}.{_MODULE_OF[name]}')
  return getattr(module, name)


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])
