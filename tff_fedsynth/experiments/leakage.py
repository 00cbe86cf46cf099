r"""Measures what uploads tell about a client's data, on a trained model.

  fedsynth-leakage --task=mnist_digits --model=mlp --compression_ratio=500 \
      --total_rounds=20 --seeds=0,1,2 --output_dir=DIR

Trains FedSynth (or goes on, or reads a finished run) for each seed, then lets
some clients upload to the final model, synthetic data and the plain update.
"""

from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments.help import entrance


def main() -> None:
  """Entry point of `fedsynth-leakage`."""
  with cli.command(goes_on=True):
    entrance.answer('leakage')
    # Imports TensorFlow, which takes seconds.
    from tff_fedsynth.experiments.trust import disclosure

    disclosure.main()


if __name__ == '__main__':
  main()
