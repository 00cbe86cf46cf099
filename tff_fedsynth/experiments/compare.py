r"""Compares methods at equal bytes: every method, budget and seed, once.

  fedsynth-compare --task=mnist_digits --methods=all \
      --compression_ratios=20,100,500,2000 --seeds=0,1,2 --output_dir=DIR

Methods see the same clients, data and initial weights. DIR gets a table and
pictures of all runs. The same command again goes on where it stopped.
"""

from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments.help import entrance


def main() -> None:
  """Entry point of `fedsynth-compare`."""
  with cli.command(goes_on=True):
    entrance.answer('compare')
    # Imports TensorFlow, which takes seconds.
    from tff_fedsynth.experiments.comparing import compare_command

    compare_command.main()


if __name__ == '__main__':
  main()
