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
  reached = (
    f'Accuracy {summary["last_accuracy"]:.4f} in the last evaluation, '
    f'{summary["final_accuracy"]:.4f} in the mean of the last '
    f'{summary["final_evaluations"]},'
  )
  if summary['diverged']:
    reached = f'Accuracy NaN, as the run diverged: {summary["diverged"]},'
  text = (
    f'{reached} after {summary["rounds"]} rounds at '
    f'1/{summary["compression_ratio"]:.0f} of the model.'
  )
  if summary['rejected_clients']:
    uploads = summary['rounds'] * summary['flags']['clients_per_round']
    text += f' The server rejected {summary["rejected_clients"]} of {uploads} uploads.'
  return text


def _accuracy(summary: Mapping[str, Any]) -> str:
  """Says the same in short, of what an older version may have written."""
  if summary.get('diverged'):
    return f'accuracy NaN, as {summary["diverged"]},'
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
  print(f'Results are in {run.settings.output_dir}')
  if 'epsilon' in summary:
    print(
      f'The models are ({summary["epsilon"]:.2f}, {summary["delta"]:g}) '
      'differentially private for a client; metrics are not.'
    )
  print(result(summary))


def define_flags(flag_values: flags.FlagValues) -> None:
  """Defines the flags of the command."""
  building.define_flags(flag_values)


def main() -> None:
  """Entry point of `fedsynth-train`."""
  cli.start(_train, define_flags)
