"""TFF's Shakespeare (Caldas et al. 2018), one client a role."""

import dataclasses

import tensorflow_federated as tff

from tff_fedsynth.tasks.federated import task as task_lib
from tff_fedsynth.tasks.text import next_token
from tff_fedsynth.tasks.text import tokens


@dataclasses.dataclass(frozen=True)
class Options(next_token.Options, task_lib.DownloadOptions):
  """Flags of the task."""


def build(*, seed: int, **fields) -> task_lib.Task:
  """TFF's Shakespeare (Caldas et al. 2018), one client a role.

  Raises:
    TaskError: If the data cannot be had.
  """
  del seed
  o = Options(**fields)
  train, test = task_lib.load_from_tff(
    tff.simulation.datasets.shakespeare.load_data,
    'shakespeare.sqlite',
    o.cache_dir,
  )
  texts = next_token.some_texts(
    test, next_token.CHARACTERS.key, o.test_examples
  )
  return next_token.build(
    'shakespeare_character',
    next_token.CHARACTERS,
    tokens.CHARACTERS,
    train,
    texts,
    o,
  )
