"""Trains one method on one task."""

from absl import app

from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments import runner
from tff_fedsynth.experiments import settings


def _train(argv) -> None:
  del argv
  asked = settings.from_flags(runner.own_options())
  finished = runner.read_summary(asked)
  if finished is not None:
    print(
      f'{asked.output_dir} is finished: accuracy '
      f'{finished["final_accuracy"]:.4f} after {finished["rounds"]} rounds; '
      'nothing to do.'
    )
    return
  run = runner.build(asked)
  print(f'{run.settings.method}: {run.built.description}')
  bytes_up = run.communication.uplink_bytes
  print(f'A client uploads {bytes_up} bytes a round, as metered.')
  summary = runner.execute(run)
  print(
    f'Accuracy {summary["final_accuracy"]:.4f} after {summary["rounds"]} rounds '
    f'at 1/{summary["compression_ratio"]:.0f} of the model. Results are in '
    f'{run.settings.output_dir}'
  )
  if 'epsilon' in summary:
    print(
      f'The models are ({summary["epsilon"]:.2f}, {summary["delta"]:g}) '
      'differentially private for a client; metrics are not.'
    )


def main() -> None:
  """Entry point of `fedsynth-train`."""
  settings.define_flags(runner.own_options())
  app.run(cli.command(_train))
