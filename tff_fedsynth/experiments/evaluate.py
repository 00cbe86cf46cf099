r"""Tells how right the models of finished runs are on a file of examples.

  fedsynth-evaluate --run_dir=DIR --examples=FILE.npz

FILE.npz holds arrays x, inputs as the model takes them, and y, class numbers.
Pixels of 0 to 255 (uint8) are divided by 255, as for training; other numbers
are taken as they are. Nothing is trained or written.
"""

from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments.help import entrance


def main() -> None:
  """Entry point of `fedsynth-evaluate`."""
  with cli.command():
    entrance.answer('evaluate')
    # Imports TensorFlow, which takes seconds.
    from tff_fedsynth.experiments.basics import evaluation

    evaluation.main()


if __name__ == '__main__':
  main()
