"""Options: fields of dataclasses that know what they may hold, and say so.

A field is declared once, with its range and its help. `check` holds an instance to
it, and the command line makes a flag, its check and its help out of the same.
"""

from collections.abc import Collection
from collections.abc import Mapping
import dataclasses
import math
import numbers
import os
import types
from typing import Any
from typing import get_args
from typing import get_origin

import numpy as np

from tff_fedsynth.errors import OptionError
from tff_fedsynth.errors import unknown

# Seeds and sizes are int32 in TensorFlow.
MAX_INTEGER = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a field may hold, beside its type.

  Attributes:
    minimum: The least number.
    above: What a number must be larger than.
    maximum: The largest number.
    below: What a number must be smaller than.
    is_infinite: Whether infinity is a number here.
    words: What may stand in place of a number.
    choices: The only values, if there are any; a registry may grow.
  """

  minimum: float | None = None
  above: float | None = None
  maximum: float | None = None
  below: float | None = None
  is_infinite: bool = False
  words: tuple[str, ...] = ()
  choices: Collection = ()

  def __str__(self) -> str:
    if self.minimum is not None and self.maximum is not None:
      return f'between {self.minimum} and {self.maximum}'
    bounds = {
      'at least': self.minimum,
      'above': self.above,
      'at most': self.maximum,
      'below': self.below,
    }
    return ' and '.join(f'{k} {v}' for k, v in bounds.items() if v is not None)

  def holds(self, value: float) -> bool:
    """Whether a number is within the bounds."""
    return (
      (self.minimum is None or value >= self.minimum)
      and (self.above is None or value > self.above)
      and (self.maximum is None or value <= self.maximum)
      and (self.below is None or value < self.below)
    )


def option(
  default,
  help_text: str,
  choices: Collection = (),
  *,
  group: str = '',
  default_text: str = '',
  is_plain: bool = False,
  is_path: bool = False,
  is_file: bool = False,
  is_repeated: bool = False,
  **limits,
) -> Any:
  """A dataclass field that can be a flag.

  Args:
    default: Of the field.
    help_text: Sentences that can be read alone; range and default follow them.
    choices: The only values allowed, if there are any.
    group: The heading that it stands under.
    default_text: What happens without it, where `default` does not say.
    is_plain: Whether its name says enough without the prefix of its `Group`.
    is_path: Whether it is a directory, where `~` stands for the home directory.
    is_file: The same of a file.
    is_repeated: Whether each item of a list is a flag of its own.
    **limits: Of `Limits`; for a list, those of each item.
  """
  return dataclasses.field(
    default=default,
    metadata={
      'help': help_text,
      'group': group,
      'default_text': default_text,
      'is_plain': is_plain,
      'is_path': is_path or is_file,
      'is_file': is_file,
      'is_repeated': is_repeated,
      'limits': Limits(choices=choices, **limits),
    },
  )


def limited(default=dataclasses.MISSING, **limits) -> Any:
  """A dataclass field that is checked, and is no flag; see `option`."""
  return dataclasses.field(
    default=default, metadata={'limits': Limits(**limits)}
  )


@dataclasses.dataclass(frozen=True)
class Group:
  """The options of a dataclass, with the names that they have as flags.

  Attributes:
    cls: The dataclass.
    prefix: Stands before the name of a field, unless the option `is_plain`.
  """

  cls: type
  prefix: str = ''

  @property
  def flags(self) -> dict[str, dataclasses.Field]:
    """Its options, by the names of their flags."""
    return {self.flag(name): field for name, field in fields(self.cls).items()}

  def flag(self, name: str) -> str:
    """The flag of an option of the dataclass; other names stay as they are."""
    field = fields(self.cls).get(name)
    return (
      name
      if field is None or field.metadata['is_plain']
      else (self.prefix + name)
    )

  def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the dataclass, out of the values of some flags."""
    return {
      name: given[flag]
      for name in fields(self.cls)
      if (flag := self.flag(name)) in given
    }


def limits_of(cls, name: str) -> dict[str, Any]:
  """Arguments for an `option` that has the limits of a field."""
  limits = _field(cls, name).metadata['limits']
  return {
    f.name: getattr(limits, f.name)
    for f in dataclasses.fields(Limits)
    if getattr(limits, f.name) != f.default
  }


def _field(cls, name: str) -> dataclasses.Field:
  (field,) = (f for f in dataclasses.fields(cls) if f.name == name)
  return field


def text(value) -> str:
  """A value as a user would write it."""
  if isinstance(value, bool):
    return 'on' if value else 'off'
  if isinstance(value, tuple):
    return ','.join(map(text, value))
  return f'{value:g}' if isinstance(value, float) else str(value)


def fields(cls) -> dict[str, dataclasses.Field]:
  """The fields of a dataclass that are options, by name."""
  return {f.name: f for f in dataclasses.fields(cls) if 'help' in f.metadata}


def kind(field: dataclasses.Field) -> type:
  """bool, int, float or str: of the field, or of the items of a list."""
  alternatives = _alternatives(field.type)
  (found, *_) = [t for t in (bool, int, float, str) if t in alternatives]
  return found


def is_list(field: dataclasses.Field) -> bool:
  """Whether a field holds a tuple of values."""
  return get_origin(field.type) is tuple


def _alternatives(type_hint) -> tuple:
  if get_origin(type_hint) is tuple:
    return get_args(type_hint)[:1]
  return get_args(type_hint) or (type_hint,)


def is_integer(value) -> bool:
  """Whether a value is an integer of Python or NumPy, and no truth value."""
  return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def pick(registry: Mapping[str, Any], name: str, what: str, error=OptionError):
  """What a registry has under a name.

  Raises:
    OptionError, or the type given: If it has nothing.
  """
  if name not in registry:
    raise error(unknown(what, name, registry), what)
  return registry[name]


def _wrong_number(value, kind_: type, limits: Limits) -> str | None:
  """What a number must be, and is not; `None` if it is."""
  if kind_ is int and not is_integer(value):
    return 'a whole number'
  if not isinstance(value, numbers.Real) or isinstance(value, bool):
    return 'a number'
  if not math.isfinite(value) and not (limits.is_infinite and value > 0):
    return ', '.join(filter(None, ['a finite number', str(limits)]))
  if not limits.holds(value):
    return str(limits)
  if kind_ is int:
    return f'at most {MAX_INTEGER}' if abs(value) > MAX_INTEGER else None
  with np.errstate(over='ignore', under='ignore'):
    rounded = np.float32(value)
  if np.isinf(rounded) != math.isinf(value) or (rounded == 0) != (value == 0):
    return 'a number that float32 can hold'
  return None


def _wrong_value(value, kind_: type, limits: Limits) -> str | None:
  """As `_wrong_number`, for any type."""
  if kind_ is bool:
    return None if isinstance(value, bool) else 'true or false'
  if kind_ is str:
    return None if isinstance(value, str | os.PathLike) else 'text'
  if isinstance(value, str) and value in limits.words:
    return None
  wrong = _wrong_number(value, kind_, limits)
  return wrong and ', or '.join([wrong, *limits.words])


def _is_choice(value, choice) -> bool:
  # 8.0 and True equal integers, but are no numbers of bits.
  if is_integer(choice):
    return is_integer(value) and value == choice
  return isinstance(value, type(choice)) and value == choice


def _check_item(name: str, value, kind_: type, limits: Limits, error) -> None:
  if limits.choices:
    if any(_is_choice(value, choice) for choice in limits.choices):
      return
    if kind_ is str:
      raise error(unknown(name, value, limits.choices), name)
    wrong = f'one of {_listed(limits.choices)}'
  else:
    wrong = _wrong_value(value, kind_, limits)
  if wrong:
    shown = value if isinstance(value, numbers.Number) else repr(value)
    raise error(f'{name} must be {wrong}, found {shown}.', name)


def _listed(values: Collection) -> str:
  return ', '.join(map(str, values))


def check_value(name: str, field: dataclasses.Field, value, error=OptionError):
  """Raises an error where a value is none that a field may hold.

  Args:
    name: What the error calls the field.
    field: Made by `option` or `limited`.
    value: To be checked; `None` is fine where the type has it.
    error: `OptionError` or a subclass.
  """
  if value is None and types.NoneType in _alternatives(field.type):
    return
  items = (value,)
  if is_list(field):
    if not isinstance(value, tuple | list):
      raise error(f'{name} must be a tuple, found {value!r}.', name)
    if not value and field.default != ():
      raise error(f'{name} must not be empty.', name)
    items = value
  for item in items:
    _check_item(name, item, kind(field), field.metadata['limits'], error)
  if len(set(items)) < len(items):
    raise error(
      f'{name} must name each only once, found {_listed(items)}.', name
    )


def check_number(name: str, value, kind_: type = float, **limits) -> None:
  """Raises `OptionError` where an argument is not as `Limits` have it."""
  _check_item(name, value, kind_, Limits(**limits), OptionError)


def check_seed(seed: int) -> None:
  """Raises `OptionError` for what TensorFlow's stateless functions cannot take."""
  check_number('seed', seed, int, minimum=-MAX_INTEGER)


def check(instance, error=OptionError, without: Collection[str] = ()) -> None:
  """Raises an error where a field of a dataclass holds what it may not.

  Paths are replaced by what `~` in them stands for.

  Args:
    instance: Of a dataclass.
    error: `OptionError` or a subclass.
    without: Fields that are not looked at.
  """
  for field in dataclasses.fields(instance):
    if 'limits' not in field.metadata or field.name in without:
      continue
    value = getattr(instance, field.name)
    check_value(field.name, field, value, error)
    if field.metadata.get('is_path') and value:
      # Of a frozen dataclass, too.
      object.__setattr__(instance, field.name, os.path.expanduser(value))
