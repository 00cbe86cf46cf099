"""Data, preprocessing and models to train on, by name."""

from tff_fedsynth.tasks import mnist_digits

# Shakespeare, Stack Overflow and EMNIST come with their own issues.
TASKS = {'mnist_digits': mnist_digits.build}
