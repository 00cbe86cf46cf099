"""What one training run is made of: one dataclass, and flags derived from it."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from absl import flags

from tff_fedsynth import options as options_lib
from tff_fedsynth.options import option


class SettingsError(ValueError):
  """Settings that do not go together; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """One training run. Names and defaults are those of the flags.

  `options` are the flags that only some tasks or methods have, those given.
  """

  output_dir: str = option('', 'Where results go. Required.')
  task: str = option('mnist_digits', 'Data to train on.')
  model: str = option('mlp', 'Model to train.')
  method: str = option('fedsynth', 'What clients upload.')
  compression_ratio: float | None = option(
    None, 'Budget: bytes of the float32 model over bytes uploaded.'
  )
  uplink_bytes: int | None = option(
    None, 'Budget: bytes that one client may upload a round.'
  )
  total_rounds: int = option(60, 'Rounds of training.')
  clients_per_round: int = option(10, 'Clients that train in a round.')
  local_epochs: int = option(5, 'Passes of a client over its data.')
  batch_size: int = option(10, 'Examples in a real batch.')
  client_learning_rate: float = option(0.1, 'Of SGD on clients.')
  client_clip_norm: float | None = option(
    None, 'Largest norm of a gradient on clients.'
  )
  server_learning_rate: float = option(1.0, 'Of the optimizer on the server.')
  server_optimizer: str = option(
    'sgd', 'sgd, momentum (0.9) or adam.', ('sgd', 'momentum', 'adam')
  )
  client_weighting: str = option(
    'num_examples', 'Weight of a client.', ('num_examples', 'uniform')
  )
  seed: int = option(0, 'Of data split, order, initial weights and methods.')
  rounds_per_evaluation: int = option(1, 'Rounds between evaluations.')
  rounds_per_checkpoint: int = option(10, 'Rounds between checkpoints.')
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    options_lib.check(self)
    options_lib.check_at_least_one(
      self,
      'total_rounds',
      'clients_per_round',
      'local_epochs',
      'batch_size',
      'rounds_per_evaluation',
      'rounds_per_checkpoint',
    )
    if self.compression_ratio is not None and self.uplink_bytes is not None:
      raise SettingsError(
        '--compression_ratio and --uplink_bytes are both budgets. Give one.'
      )
    for name in ('compression_ratio', 'uplink_bytes', 'client_clip_norm'):
      value = getattr(self, name)
      if value is not None and value <= 0:
        raise SettingsError(f'--{name} must be positive, found {value}.')

  def by_flag(self) -> dict[str, Any]:
    """Every setting but the place of its results, by flag name."""
    values = {f: getattr(self, f) for f in options_lib.fields(Settings)}
    del values['output_dir']
    return {**values, **self.options}

  def as_flags(self) -> dict[str, str]:
    """`by_flag` as text."""
    return {k: '' if v is None else str(v) for k, v in self.by_flag().items()}


def define_flags(
  own_options: Mapping[str, dataclasses.Field],
  flag_values: flags.FlagValues = flags.FLAGS,
) -> None:
  """Defines a flag for each field of `Settings`, and for each own option.

  Args:
    own_options: Flags that only some tasks or methods have.
    flag_values: Where to define them.
  """
  options_lib.define_flags(options_lib.fields(Settings), flag_values)
  options_lib.define_flags(own_options, flag_values, with_defaults=False)


def from_flags(
  own_options: Mapping[str, dataclasses.Field],
  flag_values: flags.FlagValues = flags.FLAGS,
) -> Settings:
  """The `Settings` that the parsed flags say; see `define_flags`.

  Raises:
    OptionError, SettingsError: If they do not go together.
  """
  given = {name: flag_values[name].value for name in own_options}
  return Settings(
    **{f: flag_values[f].value for f in options_lib.fields(Settings)},
    options={k: v for k, v in given.items() if v is not None},
  )
