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
    cached_files: Names of the files that it reads in `cache_dir`.
  """

  models: Collection[str] = ()
  cached_files: Collection[str] = ()


def _task(models, build, options_type, *cached_files):
  group = Group(options_type)
  return TaskPlugin(build, (group,), models=models, cached_files=cached_files)


_characters = functools.partial(_task, next_token.CHARACTER_MODELS)
_words = functools.partial(_task, next_token.WORD_MODELS)
_images = functools.partial(_task, architectures.MODELS)


TASKS = {
  'chat_word': _words(chat.build, next_token.WordOptions),
  'client_characters': _characters(
    client_texts.characters, client_texts.CharacterOptions
  ),
  'client_data': _images(client_data.build, client_data.Options),
  'client_words': _words(client_texts.words, client_texts.WordOptions),
  'emnist_character': _images(
    functools.partial(emnist.build, only_digits=False),
    emnist.Options,
    emnist.FILE,
  ),
  'emnist_digits': _images(
    functools.partial(emnist.build, only_digits=True),
    emnist.Options,
    emnist.FILE,
  ),
  'mnist_digits': _images(mnist_digits.build, mnist_digits.Options),
  'plays_character': _characters(plays.build, next_token.Options),
  'shakespeare_character': _characters(
    shakespeare.build, shakespeare.Options, shakespeare.FILE
  ),
  'stackoverflow_word': _words(
    stackoverflow.build,
    stackoverflow.Options,
    stackoverflow.FILE,
    stackoverflow.WORD_COUNT,
  ),
}
