"""Next words, or characters, of anybody's texts: an SQLite file, and its column."""

from collections.abc import Callable
from collections.abc import Iterable
import dataclasses
import functools

from tff_fedsynth.tasks.federated import own_clients
from tff_fedsynth.tasks.federated import task as task_lib
from tff_fedsynth.tasks.text import next_token
from tff_fedsynth.tasks.text import tokens

_VOCABULARY_SIZE = 10_000


@dataclasses.dataclass(frozen=True)
class CharacterOptions(own_clients.Options, next_token.Options):
  """Flags of the task of characters."""


@dataclasses.dataclass(frozen=True)
class WordOptions(own_clients.Options, next_token.WordOptions):
  """Flags of the task of words."""


def _read(specs, file, split):
  """Clients of a split, once all of their texts could be read."""
  return file.read_clients(specs, split, lambda columns: None), None


def _build(
  name: str,
  unit: next_token.Unit,
  o: next_token.Options,
  known: Callable[[Iterable[str]], list[str]],
) -> task_lib.Task:
  """A task whose tokens are `known` of the texts of the clients that train."""
  files = o.open()
  specs = files[0].text_specs(o.features, 'features')
  parts = own_clients.split(o, files, functools.partial(_read, specs))
  train, test = (parts[name][0] for name in ('train', 'test'))
  found = known(
    next_token.decoded(text)
    for client in train.client_ids
    for text in train.read(train.find(client))[o.features].numpy()
  )
  if not found:
    raise files[0].error(f'the column {o.features!r} has no text.')
  return next_token.build(
    name,
    dataclasses.replace(unit, key=o.features),
    found,
    train,
    next_token.some_texts(test, o.features, o),
    o,
  )


def characters(*, seed: int, **fields) -> task_lib.Task:
  """Next characters: those bytes of UTF-8 that are in the clients that train.

  Args:
    seed: Not used: the split is that of the file.
    **fields: Of `CharacterOptions`.

  Raises:
    OptionError, TaskError: If files or the column are not as they must be.
  """
  del seed
  known = lambda texts: sorted({c for t in texts for c in tokens.bytes_of(t)})
  o = CharacterOptions(**fields)
  return _build('client_characters', next_token.CHARACTERS, o, known)


def words(*, seed: int, **fields) -> task_lib.Task:
  """Next words: the most frequent ones of the clients that train.

  Args:
    seed: Not used: the split is that of the file.
    **fields: Of `WordOptions`.

  Raises:
    OptionError, TaskError: If files or the column are not as they must be.
  """
  del seed
  o = WordOptions(**fields)
  most = o.vocabulary_size or _VOCABULARY_SIZE
  known = functools.partial(next_token.most_frequent, most=most)
  return _build('client_words', next_token.WORDS, o, known)
