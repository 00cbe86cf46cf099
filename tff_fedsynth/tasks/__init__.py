"""Data, preprocessing and models to train on, by name."""

import functools

from tff_fedsynth.options import Plugin
from tff_fedsynth.tasks import emnist
from tff_fedsynth.tasks import mnist_digits

# Shakespeare and Stack Overflow come with the issue on language.
TASKS = {
  'emnist_character': Plugin(
    functools.partial(emnist.build, only_digits=False), emnist.Options
  ),
  'emnist_digits': Plugin(
    functools.partial(emnist.build, only_digits=True), emnist.Options
  ),
  'mnist_digits': Plugin(mnist_digits.build, mnist_digits.Options),
}
