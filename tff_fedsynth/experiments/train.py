"""Trains one method on one task.

python -m tff_fedsynth.experiments.train --task=mnist_digits --model=mlp \
    --method=fedsynth --compression_ratio=100 --output_dir=DIR
"""


def main() -> None:
  """Entry point of `fedsynth-train`."""
  # Imports TensorFlow, which takes seconds.
  from tff_fedsynth.experiments import training

  training.main()


if __name__ == '__main__':
  main()
