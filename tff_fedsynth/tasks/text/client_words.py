"""Next words of anybody's texts: an SQLite file of clients, and its column."""

import dataclasses
import functools

from tff_fedsynth.tasks.federated import own_clients
from tff_fedsynth.tasks.federated import task as task_lib
from tff_fedsynth.tasks.text import next_token

_VOCABULARY_SIZE = 10_000


@dataclasses.dataclass(frozen=True)
class Options(own_clients.Options, next_token.WordOptions):
  """Flags of the task."""


def _read(specs, file, split):
  """Clients of a split, once all of their texts could be read."""
  return file.read_clients(specs, split, lambda columns: None), None


def build(*, seed: int, **fields) -> task_lib.Task:
  """Builds the task; words are counted on the clients that train.

  Args:
    seed: Not used: the split is that of the file.
    **fields: Of `Options`.

  Raises:
    OptionError, TaskError: If files or the column are not as they must be.
  """
  del seed
  o = Options(**fields)
  files = o.open()
  specs = files[0].text_specs(o.features, 'features')
  parts = own_clients.split(o, files, functools.partial(_read, specs))
  train, test = (parts[name][0] for name in ('train', 'test'))
  words = next_token.most_frequent(
    (
      next_token.decoded(text)
      for client in train.client_ids
      for text in train.read(train.find(client))[o.features].numpy()
    ),
    o.vocabulary_size or _VOCABULARY_SIZE,
  )
  if not words:
    raise files[0].error(f'the column {o.features!r} has no words.')
  return next_token.build(
    'client_words',
    dataclasses.replace(next_token.WORDS, key=o.features),
    words,
    train,
    next_token.some_texts(test, o.features, o),
    o,
  )
