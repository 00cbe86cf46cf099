"""Trains FedSynth with lying clients, with and without the server's defence.

python -m tff_fedsynth.experiments.attack --compression_ratio=2000 \
    --total_rounds=20 --attackers=1,2,4 --seeds=0,1,2 --output_dir=DIR
"""


def main() -> None:
  """Entry point of `fedsynth-attack`."""
  # Imports TensorFlow, which takes seconds.
  from tff_fedsynth.experiments import siege

  siege.main()


if __name__ == '__main__':
  main()
