"""Breaks runs in many ways, and checks that they end as if nothing happened.

python -m tff_fedsynth.experiments.faults --kills=20 --output_dir=DIR

A small run is made once undisturbed; then once for each fault in `FAULTS`, which
leaves a broken run, or a whole one; the same command is given again until it
ends, and the metrics are compared number by number. Takes about 15 minutes.
"""


def main() -> None:
  """Entry point of `fedsynth-faults`."""
  # Imports TensorFlow, which takes seconds.
  from tff_fedsynth.experiments import fault_injection

  fault_injection.main()


if __name__ == '__main__':
  main()
