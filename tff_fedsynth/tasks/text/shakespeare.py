"""TFF's Shakespeare (Caldas et al. 2018), one client a role."""

import dataclasses

import tensorflow_federated as tff

from tff_fedsynth.tasks.federated import downloads
from tff_fedsynth.tasks.federated import task as task_lib
from tff_fedsynth.tasks.text import next_token
from tff_fedsynth.tasks.text import tokens

FILE = 'shakespeare.sqlite'


@dataclasses.dataclass(frozen=True)
class Options(next_token.Options, downloads.DownloadOptions):
  """Flags of the task."""


def build(*, seed: int, **fields) -> task_lib.Task:
  """TFF's Shakespeare (Caldas et al. 2018), one client a role.

  Raises:
    TaskError: If the data cannot be had.
  """
  del seed
  o = Options(**fields)
  unit = next_token.CHARACTERS
  load = tff.simulation.datasets.shakespeare.load_data
  file = downloads.open_file(load, FILE, o.cache_dir)
  specs = file.text_specs(unit.key, 'cache_dir')
  return next_token.build(
    'shakespeare_character',
    unit,
    tokens.CHARACTERS,
    file.clients(specs, 'train'),
    next_token.some_texts(file.clients(specs, 'test'), unit.key, o),
    o,
  )
