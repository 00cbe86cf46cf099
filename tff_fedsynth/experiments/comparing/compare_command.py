"""The flags of the comparison."""

import dataclasses
import functools
from typing import Any

from absl import flags

from tff_fedsynth import options
from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments.comparing import comparison as comparison_lib
from tff_fedsynth.experiments.comparing.cells import Comparison
from tff_fedsynth.experiments.comparing.cells import OF_CELLS
from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.records import grid as grid_lib
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError

_compared = functools.partial(options.option, group='Comparison')


@dataclasses.dataclass(frozen=True)
class Options(settings_lib.Seeds):
  """Flags of the comparison beside those that all its runs share."""

  methods: tuple[str, ...] = _compared(
    ('all',),
    'Compares these methods; fedavg is always among them.',
    ('all', *METHODS),
  )
  compression_ratios: tuple[float, ...] = _compared(
    (20.0, 100.0, 500.0, 2000.0),
    'Compares at these budgets: bytes of the float32 model over the bytes that a '
    'client may upload in a round.',
    **options.limits_of(Settings, 'compression_ratio'),
  )
  tune: bool = _compared(
    False,
    'Chooses the server learning rate of each method and budget first.',
  )
  tuning_server_learning_rates: tuple[float, ...] = _compared(
    (0.1, 0.3, 1.0),
    'Chooses from these server learning rates, with --tune.',
    **options.limits_of(Settings, 'server_learning_rate'),
  )
  tuning_seeds: tuple[int, ...] = _compared(
    (100,),
    'Chooses by runs with these seeds, with --tune; none may be in --seeds.',
    **options.limits_of(Settings, 'seed'),
  )
  tuning_rounds: int = _compared(
    20, 'Sets how many rounds these runs are trained, with --tune.', minimum=1
  )
  tuning_options: tuple[str, ...] = _compared(
    (),
    'Chooses a flag of a method too, with --tune: METHOD:FLAG=VALUE,VALUE; give '
    'it once for each method.',
    is_repeated=True,
  )


def _tuning_option(
  text: str, flag_values: flags.FlagValues
) -> tuple[str, tuple[str, tuple[Any, ...]]]:
  """What `METHOD:FLAG=VALUE,VALUE` says.

  Raises:
    SettingsError: If it is not of that form, or the method has no such flag.
  """
  method, _, rest = text.partition(':')
  name, _, values = rest.partition('=')
  if method not in METHODS or name not in METHODS[method].flags or not values:
    raise SettingsError(
      f'--tuning_options={text} must be a method, one of its flags and values, '
      'such as fedsynth_drive:residual_fraction=0,0.5,1.'
    )
  parse = flag_values[name].parser.parse
  try:
    return method, (name, tuple(map(parse, values.split(','))))
  except ValueError as e:
    raise SettingsError(f'--tuning_options={text}: {e}') from e


def _tuning_options(
  texts, flag_values
) -> dict[str, tuple[str, tuple[Any, ...]]]:
  """What all `--tuning_options` say, by method.

  Raises:
    SettingsError: See `_tuning_option`; or for two of one method.
  """
  found = dict(_tuning_option(text, flag_values) for text in texts)
  if len(found) < len(texts):
    raise SettingsError(
      'Only one flag of a method can be chosen, but --tuning_options names a '
      'method twice. Leave one of them out.'
    )
  return found


def read(flag_values: flags.FlagValues = flags.FLAGS) -> Comparison:
  """The comparison that flags ask for."""
  o = command_flags.read(Options, flag_values)
  return Comparison(
    base=settings_lib.from_flags(registry.own_options(), flag_values),
    methods=tuple(METHODS) if 'all' in o.methods else o.methods,
    ratios=o.compression_ratios,
    seeds=o.seeds,
    tuning_rates=o.tuning_server_learning_rates if o.tune else (),
    tuning_seeds=o.tuning_seeds,
    tuning_rounds=o.tuning_rounds,
    tuning_options=_tuning_options(o.tuning_options, flag_values),
  )


def _main(argv) -> None:
  del argv
  comparison = read()
  with grid_lib.shown(comparison.base.output_dir):
    comparison_lib.compare(comparison)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of the comparison and those that all its runs share."""
  building.define_flags(flag_values, Options, OF_CELLS)


def main() -> None:
  """Entry point of `fedsynth-compare`."""
  cli.start(_main, define_flags)
