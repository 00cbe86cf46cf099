r"""Trains one method on one task.

  fedsynth-train --task=mnist_digits --model=mlp --method=fedsynth \
      --compression_ratio=100 --output_dir=DIR

DIR gets metrics, checkpoints, pictures and a summary. The same command again
goes on where it stopped.
"""

from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments.help import entrance


def main() -> None:
  """Entry point of `fedsynth-train`."""
  with cli.command(goes_on=True):
    entrance.answer('train')
    # Imports TensorFlow, which takes seconds.
    from tff_fedsynth.experiments.basics import training

    training.main()


if __name__ == '__main__':
  main()
