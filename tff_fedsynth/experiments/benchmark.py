"""What FedSynth costs beside TFF's FedAvg, on the same clients, in one run.

  python -m tff_fedsynth.experiments.benchmark

Seconds vary with the machine; the ratios are what counts.
"""


def main() -> None:
  """Entry point of `fedsynth-benchmark`."""
  # Imports TensorFlow, which takes seconds.
  from tff_fedsynth.experiments import timing

  timing.main()


if __name__ == '__main__':
  main()
