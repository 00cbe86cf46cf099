"""Commands: thin files, each with a module beside it that does the work.

What their runs have trained is loaded by the functions here.
"""

# ruff: noqa: F401

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from tff_fedsynth.experiments.running.loading import load_keras_model
  from tff_fedsynth.experiments.running.loading import load_model

__all__ = ['load_keras_model', 'load_model']


def __getattr__(name: str):
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  # Imports TensorFlow, which takes seconds.
  from tff_fedsynth.experiments.running import loading

  return getattr(loading, name)
