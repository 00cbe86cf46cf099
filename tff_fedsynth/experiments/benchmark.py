"""Times FedSynth beside TFF's FedAvg, on the same clients, in one run.

  fedsynth-benchmark

Seconds vary with the machine; the ratios are what counts.
"""

from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments.help import entrance


def main() -> None:
  """Entry point of `fedsynth-benchmark`."""
  with cli.command():
    entrance.answer('benchmark')
    # Imports TensorFlow, which takes seconds.
    from tff_fedsynth.experiments.measuring import benchmark_command

    benchmark_command.main()


if __name__ == '__main__':
  main()
