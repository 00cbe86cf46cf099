"""What one training run is made of: one dataclass, and flags derived from it."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

from absl import flags

from tff_fedsynth import options as options_lib
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.settings import user_modules
from tff_fedsynth.options import option


class SettingsError(options_lib.OptionError):
  """Settings that do not go together; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """One training run. Names and defaults are those of the flags.

  `options` are the flags that only some tasks or methods have, those given. The
  modules of `plugin` are imported, so that others find what they add.

  Raises:
    OptionError: If a field is out of its range, or a module cannot be imported.
    SettingsError: If fields do not go together.
  """

  output_dir: str = option(
    '',
    'Names the directory for all results; a run that stopped there goes on.',
    group='Results',
    default_text='required',
    is_path=True,
  )
  plugin: tuple[str, ...] = option(
    (),
    'Imports a module first, or a file that ends with .py, which may add '
    'tasks, models, methods and objectives; give it once for each.',
    group='Data',
    is_repeated=True,
  )
  task: str = option(
    'mnist_digits', 'Chooses the data that clients train on.', group='Data'
  )
  model: str = option(
    'mlp', 'Chooses the model to train; each task has its own.', group='Data'
  )
  method: str = option(
    'fedsynth', 'Chooses what clients upload.', group='Budget'
  )
  compression_ratio: float | None = option(
    None,
    'Sets the budget: bytes of the float32 model over the bytes that a client '
    'may upload in a round.',
    group='Budget',
    minimum=0.001,
  )
  uplink_bytes: int | None = option(
    None,
    'Sets the budget: bytes that a client may upload in a round.',
    group='Budget',
    minimum=1,
  )
  total_rounds: int = option(
    60, 'Sets how many rounds are trained.', group='Training', minimum=1
  )
  clients_per_round: int = option(
    10, 'Sets how many clients train in a round.', group='Training', minimum=1
  )
  local_epochs: int = option(
    5,
    'Sets how often a client goes through its data in a round.',
    group='Training',
    minimum=1,
  )
  batch_size: int = option(
    10,
    'Sets how many real examples a client takes a step on.',
    group='Training',
    minimum=1,
  )
  client_learning_rate: float = option(
    0.1, 'Sets the learning rate of SGD on clients.', group='Training', above=0
  )
  client_clip_norm: float | None = option(
    None,
    'Clips gradients on clients to this norm.',
    group='Training',
    default_text='no clipping',
    above=0,
  )
  server_learning_rate: float = option(
    1.0,
    'Sets the learning rate of the optimizer on the server.',
    group='Training',
    above=0,
  )
  server_optimizer: str = option(
    'sgd',
    'Chooses the optimizer on the server; momentum is SGD with momentum 0.9.',
    ('sgd', 'momentum', 'adam'),
    group='Training',
  )
  client_weighting: str = option(
    'num_examples',
    'Weighs clients by their numbers of examples, or all alike.',
    ('num_examples', 'uniform'),
    group='Training',
  )
  seed: int = option(
    0,
    'Decides the split of the data, their order, the initial weights and all '
    'that methods draw.',
    group='Training',
    minimum=0,
  )
  rounds_per_evaluation: int = option(
    1,
    'Evaluates the model whenever so many rounds were trained.',
    group='Results',
    minimum=1,
  )
  rounds_per_checkpoint: int = option(
    10,
    'Writes a checkpoint whenever so many rounds were trained.',
    group='Results',
    minimum=1,
  )
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    options_lib.check(self)
    # Frozen.
    object.__setattr__(self, 'plugin', user_modules.names(self.plugin))
    user_modules.load(self.plugin)
    if self.compression_ratio is not None and self.uplink_bytes is not None:
      raise SettingsError(
        '--compression_ratio and --uplink_bytes are both budgets. Give one.'
      )

  def by_flag(self) -> dict[str, Any]:
    """Every setting but the place of its results, by flag name."""
    values = {f: getattr(self, f) for f in options_lib.fields(Settings)}
    del values['output_dir']
    return {**values, **self.options}

  def as_flags(self) -> dict[str, str]:
    """`by_flag` as text."""
    values = self.by_flag().items()
    return {k: '' if v is None else command_flags.text(v) for k, v in values}


def read_flags(path: pathlib.Path) -> dict[str, str]:
  """Reads the flags that a run has written as text, by name, those with a value."""
  lines = path.read_text(encoding='utf-8').splitlines()
  pairs = (line.removeprefix('--').split('=', 1) for line in lines)
  # Older versions also wrote those without one.
  return {name: value for name, value in pairs if value}


def _is_same(a: str, b: str) -> bool:
  """Whether texts are the same, or the same number: 500 is 500.0."""
  try:
    return a == b or float(a) == float(b)
  except ValueError:
    return False


def differences(
  old: Mapping[str, str], new: Mapping[str, str]
) -> dict[str, str]:
  """In words how flags differ, by name; what is not there counts as empty."""
  pairs = {
    name: (old.get(name, ''), new.get(name, ''))
    for name in sorted(old.keys() | new.keys())
  }
  return {
    name: f'--{name}: {there!r} there, {now!r} now'
    for name, (there, now) in pairs.items()
    if not _is_same(there, now)
  }


@dataclasses.dataclass(frozen=True)
class Seeds:
  """The option of commands that make a run for each seed, in place of `seed`."""

  seeds: tuple[int, ...] = option(
    (0, 1, 2),
    'Makes a run with each of these seeds, which decide the split of the data, '
    'their order, the initial weights and all that methods draw.',
    group='Training',
    minimum=0,
  )

  def __post_init__(self):
    options_lib.check(self)


def define_flags(
  own_options: Mapping[str, dataclasses.Field],
  flag_values: flags.FlagValues = flags.FLAGS,
  without: Sequence[str] = (),
) -> None:
  """Defines a flag for each field of `Settings`, and for each own option.

  Args:
    own_options: Flags that only some tasks or methods have.
    flag_values: Where to define them.
    without: Names that are no flags.
  """
  for declared, with_defaults in (
    (options_lib.fields(Settings), True),
    (own_options, False),
  ):
    kept = {k: v for k, v in declared.items() if k not in without}
    command_flags.define(kept, flag_values, with_defaults)


def from_flags(
  own_options: Mapping[str, dataclasses.Field],
  flag_values: flags.FlagValues = flags.FLAGS,
) -> Settings:
  """The `Settings` that the parsed flags say; see `define_flags`.

  Raises:
    OptionError, SettingsError: If they do not go together.
  """
  shared = {
    name: flag_values[name].value
    for name in options_lib.fields(Settings)
    if name in flag_values
  }
  own = {k: v for k, v in own_options.items() if k in flag_values}
  return Settings(**shared, options=command_flags.given(own, flag_values))
