"""What FedSynth costs beside TFF's FedAvg, on the same clients, in one run.

Seconds vary with the machine; the ratios are what counts.
"""

import dataclasses

from absl import flags
import tqdm

from tff_fedsynth import options
from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.timing import server_timing
from tff_fedsynth.experiments.timing import timing
from tff_fedsynth.models import weights as weights_lib
from tff_fedsynth.options import option


@dataclasses.dataclass(frozen=True)
class Options:
  """Flags of the command."""

  rounds: int = option(
    3, 'Times so many rounds of each case.', group='Benchmark', minimum=1
  )
  models: tuple[str, ...] = option(
    ('mlp', 'cnn'), 'Times these models.', timing.WORKLOADS, group='Benchmark'
  )
  compression_ratios: tuple[int, ...] = option(
    (500, 100),
    'Times FedSynth at these budgets: bytes of the float32 model over those of an '
    'upload.',
    group='Benchmark',
    minimum=1,
  )
  growth: bool = option(
    True,
    'Times more and more steps and examples, too.',
    group='Benchmark',
  )
  crowd: bool = option(
    False, 'Times 10, 100 and 1000 clients, too.', group='Benchmark'
  )
  worker_counts: tuple[int, ...] = option(
    (),
    'Times rounds on each of these numbers of TFF workers, too.',
    group='Benchmark',
    minimum=1,
  )
  payload_counts: tuple[int, ...] = option(
    (),
    'Times what the server does with each of these numbers of payloads, too.',
    group='Benchmark',
    minimum=1,
  )
  xla: bool = option(
    False,
    'Times XLA, too, which takes minutes a round on the cnn.',
    group='Benchmark',
  )

  def __post_init__(self):
    options.check(self)


def _print_rows(cases, measured) -> None:
  base = measured[0][0]
  header = f'{"s/round":>8} {"ratio":>6} {"first s":>8} {"peak MiB":>9}'
  print(f'{"":42} {header}')
  for case, (seconds, first, memory) in zip(cases, measured, strict=True):
    print(
      f'{case!s:42} {seconds:8.2f} {seconds / base:6.2f} {first:8.1f} '
      f'{memory:9.0f}'
    )


def _print_server(bench, case: timing.Case, o: Options) -> None:
  print(
    'Server: replay of payloads, mean of as many updates, and the clients of a '
    'FedAvg round'
  )
  print(
    f'{"payloads":>8} {"replay s":>9} {"peak MiB":>9} {"mean s":>8} '
    f'{"peak MiB":>9} {"clients s":>10} {"replay/clients":>15}'
  )
  for row in server_timing.time_server(bench, case, o.payload_counts, o.rounds):
    print(
      f'{row.count:8} {row.replay_seconds:9.3f} {row.replay_memory:9.0f} '
      f'{row.mean_seconds:8.3f} {row.mean_memory:9.0f} '
      f'{row.client_seconds:10.2f} '
      f'{row.replay_seconds / row.client_seconds:15.3f}'
    )


def _growth_cases() -> list[list[timing.Case]]:
  replace = dataclasses.replace
  l2 = timing.Case('update_l2', steps=2, batch_size=5)
  return [
    [replace(l2, steps=n) for n in (2, 4, 8, 16)],
    [replace(timing.UPDATE_L2, batch_size=n) for n in (5, 10, 20, 40)],
  ]


def _crowd_cases() -> list[list[timing.Case]]:
  return [
    [dataclasses.replace(case, clients=n) for n in (10, 100, 1000)]
    for case in (timing.Case(), timing.UPDATE_L2)
  ]


def _benchmark(argv) -> None:
  del argv
  o = command_flags.read(Options)
  rounds = o.rounds
  for name in o.models:
    bench = timing.Bench(name, rounds)
    timed = [
      timing.Case(objective, ratio)
      for objective in ('update_l2', 'data_loss')
      for ratio in o.compression_ratios
    ]
    cases = [timing.Case(), *timed]
    if o.xla:
      cases.append(dataclasses.replace(timed[0], use_xla=True))
    print(f'\n{name}, {weights_lib.model_parameters(bench.model):,} parameters')
    _print_rows(cases, bench.time(cases))
    for case in (timed[0], timed[-1]):
      print(
        f'{case}: a round of one client through TFF takes '
        f'{bench.tff_overhead(case):.2f} times the same loop in one tf.function'
      )
    if o.payload_counts:
      _print_server(bench, timed[0], o)
  if o.growth:
    bench = timing.Bench('mlp', rounds)
    print('\nGrowth, mlp; the ratio is to the first line')
    for cases in tqdm.tqdm(_growth_cases(), unit='table'):
      _print_rows(cases, bench.time(cases))
  if o.crowd:
    print('\nClients with one real batch each, mlp; ratio to the first line')
    bench = timing.Bench('mlp', rounds, timing.CROWD)
    for cases in tqdm.tqdm(_crowd_cases(), unit='table'):
      _print_rows(cases, bench.time(cases))
  if o.worker_counts:
    bench = timing.Bench('mlp', rounds)
    for case in (timing.Case(), timing.UPDATE_L2):
      seconds = bench.time_workers(case, o.worker_counts)
      for count, s in zip(o.worker_counts, seconds, strict=True):
        print(
          f'{case!s:42} workers {count}, a core each: {s:6.2f} s/round, '
          f'{seconds[0] / s:4.2f} times as fast as the first'
        )


def define_flags(flag_values: flags.FlagValues) -> None:
  """Defines the flags of the command."""
  command_flags.define(options.fields(Options), flag_values)
  cli.define_worker_flags(flag_values)


def main() -> None:
  """Entry point of `fedsynth-benchmark`."""
  cli.start(_benchmark, define_flags)
