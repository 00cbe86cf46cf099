"""FedSynth (Hu et al. 2022) on TensorFlow Federated."""

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

__all__ = [
  'BudgetTooSmallError',
  'build_fedsynth',
  'build_spec',
  'from_keras',
  'Objective',
  'SecureAggregationError',
  'spec_for_budget',
  'SynthesisConfig',
  'SyntheticSpec',
  'SyntheticSpecError',
  'UnsupportedModelError',
]
