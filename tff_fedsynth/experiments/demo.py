"""Trains FedAvg, random masks and FedSynth side by side, in a few minutes.

  make demo

It takes real MNIST digits, and shows what a client uploads.
"""

from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments.help import entrance


def main() -> None:
  """Entry point of `make demo`."""
  with cli.command(goes_on=True):
    entrance.answer('demo')
    # Imports TensorFlow, which takes seconds.
    from tff_fedsynth.experiments.basics import demonstration

    demonstration.main()


if __name__ == '__main__':
  main()
