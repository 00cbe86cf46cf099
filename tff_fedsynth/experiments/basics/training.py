"""Trains one method on one task."""

from collections.abc import Mapping
from typing import Any

from absl import flags

from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.experiments.pictures import showing
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings import settings


def result(summary: Mapping[str, Any]) -> str:
  """What a run reached, in a sentence."""
  if summary['final_accuracy'] is None:
    return (
      'There is no accuracy: the model was not evaluated after round 0. Lower '
      '--rounds_per_evaluation in another run.'
    )
  return (
    f'Accuracy {summary["last_accuracy"]:.4f} in the last evaluation, '
    f'{summary["final_accuracy"]:.4f} in the mean of the last '
    f'{summary["final_evaluations"]}, after {summary["rounds"]} rounds at '
    f'1/{summary["compression_ratio"]:.0f} of the model.'
  )


def _accuracy(summary: Mapping[str, Any]) -> str:
  """The same in short, of what an older version may have written."""
  known = {
    'in the last evaluation': summary.get('last_accuracy'),
    'in the mean of the last ones': summary['final_accuracy'],
  }
  texts = [f'{v:.4f} {where}' for where, v in known.items() if v is not None]
  return f'accuracy {", ".join(texts)},' if texts else 'no accuracy'


def _train(argv) -> None:
  del argv
  asked = settings.from_flags(registry.own_options())
  finished = runner.read_summary(asked)
  if finished is not None:
    print(
      f'{asked.output_dir} is finished: {_accuracy(finished)} after '
      f'{finished["rounds"]} rounds; nothing to do.'
    )
    return
  run = building.build(asked)
  print(f'{run.settings.method}: {run.built.description}')
  bytes_up = run.communication.uplink_bytes
  print(f'A client uploads {bytes_up} bytes a round, as metered.')
  summary = showing.execute(run)
  print(result(summary))
  print(f'Results are in {run.settings.output_dir}')
  if 'epsilon' in summary:
    print(
      f'The models are ({summary["epsilon"]:.2f}, {summary["delta"]:g}) '
      'differentially private for a client; metrics are not.'
    )


def define_flags(flag_values: flags.FlagValues) -> None:
  """Defines the flags of the command."""
  building.define_flags(flag_values)


def main() -> None:
  """Entry point of `fedsynth-train`."""
  cli.start(_train, define_flags)
