"""Data, preprocessing and models to train on, by name."""

from collections.abc import Collection
import dataclasses
import functools

from tff_fedsynth import plugin
from tff_fedsynth.models import architectures
from tff_fedsynth.options import Group
from tff_fedsynth.tasks import client_data
from tff_fedsynth.tasks import emnist
from tff_fedsynth.tasks import mnist_digits
from tff_fedsynth.tasks.text import chat
from tff_fedsynth.tasks.text import client_texts
from tff_fedsynth.tasks.text import next_token
from tff_fedsynth.tasks.text import plays
from tff_fedsynth.tasks.text import shakespeare
from tff_fedsynth.tasks.text import stackoverflow


@dataclasses.dataclass(frozen=True)
class TaskPlugin(plugin.Plugin):
  """Builds a task.

  Attributes:
    models: The names of its models, known before its data are.
  """

  models: Collection[str] = ()


def _characters(build, options_type):
  return TaskPlugin(
    build, (Group(options_type),), models=next_token.CHARACTER_MODELS
  )


def _words(build, options_type):
  return TaskPlugin(
    build, (Group(options_type),), models=next_token.WORD_MODELS
  )


def _images(build, options_type):
  return TaskPlugin(build, (Group(options_type),), models=architectures.MODELS)


TASKS = {
  'chat_word': _words(chat.build, next_token.WordOptions),
  'client_characters': _characters(
    client_texts.characters, client_texts.CharacterOptions
  ),
  'client_data': _images(client_data.build, client_data.Options),
  'client_words': _words(client_texts.words, client_texts.WordOptions),
  'emnist_character': _images(
    functools.partial(emnist.build, only_digits=False), emnist.Options
  ),
  'emnist_digits': _images(
    functools.partial(emnist.build, only_digits=True), emnist.Options
  ),
  'mnist_digits': _images(mnist_digits.build, mnist_digits.Options),
  'plays_character': _characters(plays.build, next_token.Options),
  'shakespeare_character': _characters(shakespeare.build, shakespeare.Options),
  'stackoverflow_word': _words(stackoverflow.build, stackoverflow.Options),
}
