"""Compares methods at equal bytes: every method, budget and seed, once.

python -m tff_fedsynth.experiments.compare --task=mnist_digits --methods=all \
    --compression_ratios=20,100,500,2000 --seeds=0,1,2 --output_dir=DIR
"""


def main() -> None:
  """Entry point of `fedsynth-compare`."""
  # Imports TensorFlow, which takes seconds.
  from tff_fedsynth.experiments import comparison

  comparison.main()


if __name__ == '__main__':
  main()
