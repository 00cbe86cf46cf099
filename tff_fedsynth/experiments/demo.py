"""FedAvg, random masks and FedSynth side by side, in a few minutes.

python -m tff_fedsynth.experiments.demo --output_dir=demo
"""


def main() -> None:
  """Entry point of `make demo`."""
  # Imports TensorFlow, which takes seconds.
  from tff_fedsynth.experiments import demonstration

  demonstration.main()


if __name__ == '__main__':
  main()
