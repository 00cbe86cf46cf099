"""Data, preprocessing and models to train on, by name."""

from tff_fedsynth.options import Plugin
from tff_fedsynth.tasks import mnist_digits

# Shakespeare and Stack Overflow come with the issue on language.
TASKS = {'mnist_digits': Plugin(mnist_digits.build, mnist_digits.Options)}
