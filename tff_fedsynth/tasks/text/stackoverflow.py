"""TFF's Stack Overflow, one client a user."""

import dataclasses
import functools

import tensorflow_federated as tff

from tff_fedsynth.tasks.federated import task as task_lib
from tff_fedsynth.tasks.text import next_token

_VOCABULARY_SIZE = 10_000


@dataclasses.dataclass(frozen=True)
class Options(next_token.WordOptions, task_lib.DownloadOptions):
  """Flags of the task."""


def build(*, seed: int, **fields) -> task_lib.Task:
  """TFF's Stack Overflow, one client a user.

  Raises:
    TaskError: If the data or the counts of words cannot be had.
  """
  del seed
  o = Options(**fields)
  datasets = tff.simulation.datasets.stackoverflow
  train, _, test = task_lib.load_from_tff(
    datasets.load_data, 'stackoverflow.sqlite', o.cache_dir
  )
  words = task_lib.load_from_tff(
    functools.partial(
      datasets.load_word_counts,
      vocab_size=o.vocabulary_size or _VOCABULARY_SIZE,
    ),
    'stackoverflow.word_count.tar.bz2',
    o.cache_dir,
    directory='~/.keras/datasets',
  )
  texts = next_token.some_texts(test, next_token.WORDS.key, o.test_examples)
  return next_token.build(
    'stackoverflow_word', next_token.WORDS, words, train, texts, o
  )
