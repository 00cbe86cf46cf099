"""Data, preprocessing and models to train on, by name."""

from collections.abc import Collection
import dataclasses
import functools

from tff_fedsynth import plugin
from tff_fedsynth.models import image
from tff_fedsynth.tasks import emnist
from tff_fedsynth.tasks import language
from tff_fedsynth.tasks import mnist_digits
from tff_fedsynth.tasks import task


@dataclasses.dataclass(frozen=True)
class TaskPlugin(plugin.Plugin):
  """Builds a task.

  Attributes:
    models: The names of its models, known before its data are.
  """

  models: Collection[str] = ()


def _characters(build, options_type):
  return TaskPlugin(build, options_type, models=language.CHARACTER_MODELS)


def _words(build, options_type):
  return TaskPlugin(build, options_type, models=language.WORD_MODELS)


def _images(build, options_type):
  return TaskPlugin(build, options_type, models=image.MODELS)


TASKS = {
  'chat_word': _words(language.build_chat, language.WordOptions),
  'emnist_character': _images(
    functools.partial(emnist.build, only_digits=False), task.DownloadOptions
  ),
  'emnist_digits': _images(
    functools.partial(emnist.build, only_digits=True), task.DownloadOptions
  ),
  'mnist_digits': _images(mnist_digits.build, mnist_digits.Options),
  'plays_character': _characters(language.build_plays, language.Options),
  'shakespeare_character': _characters(
    language.build_shakespeare, language.DownloadedOptions
  ),
  'stackoverflow_word': _words(
    language.build_stackoverflow, language.DownloadedWordOptions
  ),
}
