r"""Tells how right the models of finished runs are on a file of examples.

  fedsynth-evaluate --run_dir=DIR --examples=FILE.npz

FILE.npz holds arrays x, inputs as the data of the run have them, and y, class
numbers. The task of the run preprocesses them as for training: pixels are
integers of 0 to 255 or floats of 0 to 1, and --feature_divisor divides numbers
of any type. What could be meant otherwise is refused. Nothing is trained or
written.
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
