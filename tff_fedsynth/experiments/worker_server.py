"""Starts a TFF worker for the --workers of a command on another machine.

  fedsynth-worker --port=8000

TFF's protocol has neither encryption nor passwords: whoever reaches the port
can compute as this user. Reach it through an ssh tunnel or a private network.
"""

from tff_fedsynth.experiments.help import entrance


def main() -> None:
  """Entry point of `fedsynth-worker`."""
  entrance.answer('worker_server')
  # Imports TensorFlow, which takes seconds.
  from tff_fedsynth.experiments.workers import serving

  serving.main()


if __name__ == '__main__':
  main()
