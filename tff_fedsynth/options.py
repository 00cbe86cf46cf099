"""Dataclass fields that are also absl flags, with the help they need."""

from collections.abc import Mapping
import dataclasses
import numbers
from typing import Any
from typing import get_args

from absl import flags


class OptionError(ValueError):
  """An option out of its range; the message says what to change."""


def option(default, help_text: str, choices: tuple = ()) -> Any:
  """A dataclass field that becomes a flag.

  Args:
    default: Of the field.
    help_text: Of the flag.
    choices: The only values allowed, if there are any; see `check`.
  """
  return dataclasses.field(
    default=default, metadata={'help': help_text, 'choices': choices}
  )


def check(instance) -> None:
  """Raises `OptionError` where a field has none of its `choices`."""
  for name, field in fields(type(instance)).items():
    value, choices = getattr(instance, name), field.metadata['choices']
    if choices and not any(_is_choice(value, c) for c in choices):
      raise OptionError(f'{name} must be one of {choices}, found {value!r}.')


def is_integer(value) -> bool:
  """Whether a value is an integer of Python or NumPy, and no truth value."""
  return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_choice(value, choice) -> bool:
  # 8.0 and True equal integers, but are no numbers of bits.
  if is_integer(choice):
    return is_integer(value) and value == choice
  return isinstance(value, type(choice)) and value == choice


def check_at_least_one(instance, *names: str) -> None:
  """Raises `OptionError` where a field is given and no integer from 1 up."""
  for name in names:
    value = getattr(instance, name)
    if value is not None and not (is_integer(value) and value >= 1):
      raise OptionError(
        f'{name} must be at least 1, and an integer, found {value!r}.'
      )


def check_seed(seed: int) -> None:
  """Raises `OptionError` for what TensorFlow's stateless functions cannot take."""
  if not (is_integer(seed) and -(2**31) <= seed < 2**31):
    raise OptionError(
      f'A seed must be an integer from {-(2**31)} to {2**31 - 1}, found '
      f'{seed!r}.'
    )


def fields(cls) -> dict[str, dataclasses.Field]:
  """The fields of a dataclass that are options, by name."""
  return {f.name: f for f in dataclasses.fields(cls) if 'help' in f.metadata}


_DEFINE = {
  bool: flags.DEFINE_bool,
  float: flags.DEFINE_float,
  int: flags.DEFINE_integer,
  str: flags.DEFINE_string,
}


def define_flags(
  options: Mapping[str, dataclasses.Field],
  flag_values: flags.FlagValues,
  with_defaults: bool = True,
) -> None:
  """Defines one flag for each option.

  Args:
    options: From the name of a flag to a field made by `option`.
    flag_values: Where to define them.
    with_defaults: Whether a flag has its field's default, or `None`, which
      tells whether it was given.
  """
  for name, field in options.items():
    # The type inside `Optional`, or the type itself.
    types = [t for t in get_args(field.type) if t is not type(None)]
    define = _DEFINE[types[0] if types else field.type]
    help_text = field.metadata['help']
    if not with_defaults and field.default is not None:
      help_text += f' Default: {field.default}.'
    define(
      name,
      field.default if with_defaults else None,
      help_text,
      flag_values=flag_values,
    )


@dataclasses.dataclass(frozen=True)
class Plugin:
  """Something chosen by its name in a registry, with flags of its own.

  Attributes:
    build: A function that takes options as keyword arguments, those given.
    options_type: A dataclass whose fields, made by `option`, are its options.
    prefix: Stands before each field's name in the flag's name.
    fixed: Options that this name fixes, and that are no flags of it.
  """

  build: Any
  options_type: type | None = None
  prefix: str = ''
  fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def flags(self) -> dict[str, dataclasses.Field]:
    """Its options, by the names of their flags."""
    if self.options_type is None:
      return {}
    return {
      self.prefix + name: field
      for name, field in fields(self.options_type).items()
      if name not in self.fixed
    }

  def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for `build` out of the values of all flags that were given."""
    own = {f: given[f] for f in self.flags if f in given}
    return {
      **self.fixed,
      **{name.removeprefix(self.prefix): v for name, v in own.items()},
    }
