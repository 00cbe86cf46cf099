"""TFF's Stack Overflow, one client a user."""

import dataclasses
import functools
import itertools
import logging
import pathlib

import tensorflow_federated as tff

from tff_fedsynth.tasks.federated import downloads
from tff_fedsynth.tasks.federated import task as task_lib
from tff_fedsynth.tasks.federated.client_file import ClientFile
from tff_fedsynth.tasks.text import next_token

_LOGGER = logging.getLogger(__name__)
FILE = 'stackoverflow.sqlite'
WORD_COUNT = 'stackoverflow.word_count'
_VOCABULARY_SIZE = 10_000
_MOST_COUNTED = 1_000_000


@dataclasses.dataclass(frozen=True)
class Options(next_token.WordOptions, downloads.DownloadOptions):
  """Flags of the task."""


def _read_words(path: pathlib.Path, most: int) -> list[str]:
  """The first words of a file with a word and its count a line.

  Raises:
    TaskError: If it is none.
  """
  try:
    with path.open(encoding='utf-8') as file:
      lines = [line.split() for line in itertools.islice(file, most)]
  except (OSError, UnicodeDecodeError) as e:
    raise task_lib.TaskError(
      f'cache_dir has a {path} that cannot be read: {e}. Remove it.',
      'cache_dir',
    ) from e
  for number, line in enumerate(lines, start=1):
    if len(line) != 2 or not line[1].isdecimal():
      raise task_lib.TaskError(
        f'cache_dir has a {path} whose line {number} is no word and its count. '
        'Mend it, or remove it.',
        'cache_dir',
      )
  words = list(dict.fromkeys(word for word, _ in lines))
  if not words:
    raise task_lib.TaskError(
      f'cache_dir has a {path} without words. Remove it.', 'cache_dir'
    )
  return words


@functools.lru_cache
def _count_words(file: ClientFile, most: int) -> list[str]:
  """The most frequent words of the training clients."""
  key = next_token.WORDS.key
  parts = file.parts(file.text_specs(key, 'cache_dir'), 'train')
  texts = (one for _, columns in parts for one in columns[key].numpy())
  counted = itertools.islice(map(next_token.decoded, texts), _MOST_COUNTED)
  return next_token.most_frequent(counted, most)


def _words(file: ClientFile, o: Options) -> list[str]:
  """The most frequent words: as counted beside the file, by TFF, or by us."""
  most = o.vocabulary_size or _VOCABULARY_SIZE
  beside = file.path.parent / WORD_COUNT
  if beside.exists():
    return _read_words(beside, most)
  try:
    return downloads.load_from_tff(
      functools.partial(
        tff.simulation.datasets.stackoverflow.load_word_counts, vocab_size=most
      ),
      f'{WORD_COUNT}.tar.bz2',
      o.cache_dir,
      directory='~/.keras/datasets',
    )
  except task_lib.TaskError as e:
    _LOGGER.warning(
      'There is no %s, and TFF could not provide it (%s): words are counted on '
      'the training clients of %s instead, at most %d texts.',
      beside,
      e.__cause__,
      file.path,
      _MOST_COUNTED,
    )
    return _count_words(file, most)


def build(*, seed: int, **fields) -> task_lib.Task:
  """TFF's Stack Overflow, one client a user.

  Words are those of `stackoverflow.word_count` beside the data; else those that
  TFF downloads; else they are counted on the training clients.

  Raises:
    TaskError: If the data cannot be had.
  """
  del seed
  o = Options(**fields)
  unit = next_token.WORDS
  load = tff.simulation.datasets.stackoverflow.load_data
  file = downloads.open_file(load, FILE, o.cache_dir)
  specs = file.text_specs(unit.key, 'cache_dir')
  return next_token.build(
    'stackoverflow_word',
    unit,
    _words(file, o),
    file.clients(specs, 'train'),
    next_token.some_texts(file.clients(specs, 'test'), unit.key, o),
    o,
  )
