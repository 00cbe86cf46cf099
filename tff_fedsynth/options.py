"""Options: fields of dataclasses that know what they may hold, and say so.

A field is declared once, with its range. `check` holds an instance to it, and the
command line makes a flag, its check and its help out of the same declaration.
"""

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
import dataclasses
import difflib
import math
import numbers
import os
import re
import types
from typing import Any
from typing import get_args
from typing import get_origin

import numpy as np

# Seeds and sizes are int32 in TensorFlow.
MAX_INTEGER = 2**31 - 1
# How alike names are that may be meant for one another; 1 is the same.
_NEAR = 0.62
# As absl reads them.
_TRUTH = {
  **dict.fromkeys(('1', 't', 'true'), True),
  **dict.fromkeys(('0', 'f', 'false'), False),
}


class OptionError(ValueError):
  """An option out of its range; the message says what to change.

  Attributes:
    names: The options that the message names. Who calls them otherwise, such as
      a command line, has them `renamed`.
  """

  def __init__(self, message: str, *names: str):
    super().__init__(message)
    self.names = names

  def renamed(self, rename: Callable[[str], str]) -> 'OptionError':
    """The same error with other names of the options."""
    message = str(self)
    for name in self.names:
      message = re.sub(rf'(?<![\w-]){name}(?!\w)', rename(name), message)
    return type(self)(message, *map(rename, self.names))


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
  is_path: bool = False,
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
    is_path: Whether `~` stands for the home directory.
    is_repeated: Whether each item of a list is a flag of its own.
    **limits: Of `Limits`; for a list, those of each item.
  """
  return dataclasses.field(
    default=default,
    metadata={
      'help': help_text,
      'group': group,
      'default_text': default_text,
      'is_path': is_path,
      'is_repeated': is_repeated,
      'limits': Limits(choices=choices, **limits),
    },
  )


def limited(default=dataclasses.MISSING, **limits) -> Any:
  """A dataclass field that is checked, and is no flag; see `option`."""
  return dataclasses.field(
    default=default, metadata={'limits': Limits(**limits)}
  )


def limits_of(cls, name: str) -> dict[str, Any]:
  """Arguments for an `option` that has the limits of a field."""
  limits = _field(cls, name).metadata['limits']
  return {
    f.name: getattr(limits, f.name)
    for f in dataclasses.fields(Limits)
    if getattr(limits, f.name) != f.default
  }


def like(cls, name: str) -> dict[str, Any]:
  """The same for an `option` that leaves its default to that field."""
  default = text(_field(cls, name).default)
  return {**limits_of(cls, name), 'default_text': default}


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
  inner = [t for t in _alternatives(field.type) if t is not types.NoneType]
  (found, *_) = sorted(inner, key=[bool, int, float, str].index)
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


def suggestion(name: str, known: Collection[str]) -> str:
  """' Did you mean ...?' for a name that is nearly known, or nothing."""
  near = difflib.get_close_matches(name, list(known), n=1, cutoff=_NEAR)
  return f' Did you mean {near[0]}?' if near else ''


def unknown(what: str, name: Any, known: Collection) -> str:
  """Says that a name is none of those known, and which is the nearest."""
  near = suggestion(str(name), [str(k) for k in known])
  listed = ', '.join(map(str, known))
  return f'Unknown {what} {name!r}.{near} Choose one of {listed}.'


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
  if kind_ is str and not str(limits):
    return None if isinstance(value, str | os.PathLike) else 'text'
  if isinstance(value, str) and value in limits.words:
    return None
  if kind_ is str:  # A number that is kept as it was written.
    value = _convert(str(value), float)
  wrong = _wrong_number(value, float if kind_ is str else kind_, limits)
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


def check(instance, error=OptionError) -> None:
  """Raises an error where a field of a dataclass holds what it may not.

  Paths are replaced by what `~` in them stands for.

  Args:
    instance: Of a dataclass.
    error: `OptionError` or a subclass.
  """
  for field in dataclasses.fields(instance):
    if 'limits' not in field.metadata:
      continue
    value = getattr(instance, field.name)
    check_value(field.name, field, value, error)
    if field.metadata.get('is_path') and value:
      # Of a frozen dataclass, too.
      object.__setattr__(instance, field.name, os.path.expanduser(value))


def parse(name: str, field: dataclasses.Field, written: str) -> Any:
  """The value that was written; an item of a list that is repeated.

  Raises:
    OptionError: If the field may not hold it.
  """
  if not is_list(field):
    value = _convert(written, kind(field))
    check_value(name, field, value)
  elif field.metadata['is_repeated']:
    value = _convert(written, kind(field))
  else:
    items = [item.strip() for item in written.split(',')] if written else []
    value = tuple(_convert(item, kind(field)) for item in items)
    check_value(name, field, value)
  return value


def _convert(written: str, kind_: type) -> Any:
  """A text as a type, or as it is, which the checks refuse then."""
  if kind_ is bool:
    return _TRUTH.get(written.lower(), written)
  try:
    return kind_(written)
  except ValueError:
    return written
