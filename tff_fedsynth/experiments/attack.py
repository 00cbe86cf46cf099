r"""Trains FedSynth with lying clients, with and without the server's defense.

  fedsynth-attack --compression_ratio=2000 --total_rounds=20 \
      --attackers=1,2,4 --seeds=0,1,2 --output_dir=DIR

DIR gets a table of accuracies, for each attack with each way to defend.
"""

from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments.help import entrance


def main() -> None:
  """Entry point of `fedsynth-attack`."""
  with cli.command(goes_on=True):
    entrance.answer('attack')
    # Imports TensorFlow, which takes seconds.
    from tff_fedsynth.experiments.trust import siege

    siege.main()


if __name__ == '__main__':
  main()
