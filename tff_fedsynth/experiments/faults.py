"""Breaks runs in many ways, and checks that they end as if nothing happened.

  fedsynth-faults --kills=20 --output_dir=DIR

A small run is made once undisturbed; then once for each fault, which leaves a
broken run, or a whole one; the same command is given again until it ends, and
the metrics are compared number by number. Takes about 15 minutes.
"""

from tff_fedsynth.experiments import entrance


def main() -> None:
  """Entry point of `fedsynth-faults`."""
  entrance.answer('faults')
  # Imports TensorFlow, which takes seconds.
  from tff_fedsynth.experiments import fault_injection

  fault_injection.main()


if __name__ == '__main__':
  main()
