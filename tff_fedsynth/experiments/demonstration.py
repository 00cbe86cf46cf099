"""FedAvg, random masks and FedSynth side by side, in a few minutes."""

import pathlib

from absl import app
from absl import flags

from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments import plots
from tff_fedsynth.experiments import run_lock
from tff_fedsynth.experiments import runner
from tff_fedsynth.experiments.settings import Settings

_METHODS = ('fedavg', 'random_mask', 'fedsynth')
_RATIO = 500


def _demo(argv) -> None:
  del argv
  directory = pathlib.Path(flags.FLAGS.output_dir)
  with run_lock.held(directory):
    _compare(directory)


def _compare(directory: pathlib.Path) -> None:
  asked = [
    Settings(
      output_dir=str(directory / method),
      method=method,
      compression_ratio=None if method == 'fedavg' else _RATIO,
      total_rounds=flags.FLAGS.total_rounds,
    )
    for method in _METHODS
  ]
  finished = [runner.read_summary(s) for s in asked]
  # All are checked and built before the first one trains.
  runs = [runner.build(s) for s, done in zip(asked, finished) if not done]
  print(
    'Training an MLP of 159,010 parameters on real MNIST digits: 100 clients '
    'with two labels each, 10 a round.'
  )
  made = map(runner.execute, runs)
  summaries = [done or next(made) for done in finished]
  row = '{:12}  {:>8}  {:>24}  {:>6}'
  print()
  print(row.format('method', 'accuracy', 'bytes up a client, round', 'ratio'))
  for s in summaries:
    print(
      row.format(
        s['method'],
        f'{s["final_accuracy"]:.3f}',
        f'{s["uplink_bytes"]:,}',
        f'{s["compression_ratio"]:.0f}',
      )
    )
  picture = directory / 'accuracy_over_rounds.png'
  plots.plot_accuracy(
    {
      f'{s["method"]}, {s["uplink_bytes"]:,} bytes up': directory
      / s['method']
      / 'metrics.csv'
      for s in summaries
    },
    runner.ACCURACY,
    picture,
  )
  print(f'\nWhat a client uploads: {directory / "fedsynth" / "synthetic.png"}')
  print(f'Accuracy over rounds: {picture}')


def main() -> None:
  """Entry point of `make demo`."""
  flags.DEFINE_string('output_dir', 'demo', 'Where results go.')
  flags.DEFINE_integer('total_rounds', 40, 'Rounds of each method.', 1)
  app.run(cli.command(_demo))
