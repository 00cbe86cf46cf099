"""Data, preprocessing and models to train on, by name."""

import functools

from tff_fedsynth.options import Plugin
from tff_fedsynth.tasks import emnist
from tff_fedsynth.tasks import language
from tff_fedsynth.tasks import mnist_digits
from tff_fedsynth.tasks import task

TASKS = {
  'chat_word': Plugin(language.build_chat, language.WordOptions),
  'emnist_character': Plugin(
    functools.partial(emnist.build, only_digits=False), task.DownloadOptions
  ),
  'emnist_digits': Plugin(
    functools.partial(emnist.build, only_digits=True), task.DownloadOptions
  ),
  'mnist_digits': Plugin(mnist_digits.build, mnist_digits.Options),
  'plays_character': Plugin(language.build_plays, language.Options),
  'shakespeare_character': Plugin(
    language.build_shakespeare, language.DownloadedOptions
  ),
  'stackoverflow_word': Plugin(
    language.build_stackoverflow, language.DownloadedWordOptions
  ),
}
