"""Options as absl flags, and command lines as options; without TensorFlow."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import sys
from typing import Any
from typing import NoReturn

from absl import flags

from tff_fedsynth import errors
from tff_fedsynth import options

# As absl reads them.
_TRUTH = {
  **dict.fromkeys(('1', 't', 'true'), True),
  **dict.fromkeys(('0', 'f', 'false'), False),
}


def read_value(name: str, field: dataclasses.Field, written: str) -> Any:
  """The value that was written; an item of a list that is repeated.

  Raises:
    OptionError: If the field may not hold it.
  """
  if not options.is_list(field):
    value = _convert(written, options.kind(field))
    options.check_value(name, field, value)
  elif field.metadata['is_repeated']:
    value = _convert(written, options.kind(field))
  else:
    items = [item.strip() for item in written.split(',')] if written else []
    value = tuple(_convert(item, options.kind(field)) for item in items)
    options.check_value(name, field, value)
  return value


def _convert(written: str, kind_: type) -> Any:
  """A text as a type, or as it is, which the checks refuse then."""
  if kind_ is bool:
    return _TRUTH.get(written.lower(), written)
  try:
    return kind_(written)
  except ValueError:
    return written


class _Parser(flags.ArgumentParser):
  """Holds a flag to the declaration of its option."""

  def __init__(self, name: str, field: dataclasses.Field):
    self._name = name
    self.field = field
    kind = options.kind(field).__name__
    self.syntactic_help = (
      f'a list of {kind}' if options.is_list(field) else kind
    )

  def parse(self, argument):
    if not isinstance(argument, str):
      return argument  # The default.
    return read_value(self._name, self.field, argument)


def text(value) -> str:
  """A value as `read_value` reads it."""
  return ','.join(map(str, value)) if isinstance(value, tuple) else str(value)


class _Serializer(flags.ArgumentSerializer):
  def serialize(self, value) -> str:
    return text(value)


def define(
  declared: Mapping[str, dataclasses.Field],
  flag_values: flags.FlagValues = flags.FLAGS,
  with_defaults: bool = True,
) -> None:
  """Defines one flag for each option.

  Args:
    declared: From the name of a flag to a field made by `options.option`.
    flag_values: Where to define them.
    with_defaults: Whether a flag has its field's default, or `None`, which
      tells whether it was given.

  Raises:
    OptionError: If there is a flag of that name already.
  """
  for name, field in declared.items():
    if name in flag_values:
      raise errors.OptionError(
        f'Two options are called {name}. Call one of them otherwise.', name
      )
    parser, serializer = _Parser(name, field), _Serializer()
    help_text = field.metadata['help']
    default = field.default if with_defaults else None
    if options.kind(field) is bool:
      flag = flags.BooleanFlag(name, default, help_text)
      flag.parser = parser
    elif field.metadata['is_repeated']:
      flag = flags.MultiFlag(parser, serializer, name, list(default), help_text)
    else:
      flag = flags.Flag(parser, serializer, name, default, help_text)
    flags.DEFINE_flag(flag, flag_values)


def read(
  options_type: type, flag_values: flags.FlagValues = flags.FLAGS
) -> Any:
  """A dataclass of options, filled from their flags.

  Raises:
    OptionError: If they are not what it may hold.
  """
  values = {
    name: flag_values[name].value for name in options.fields(options_type)
  }
  return options_type(
    **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
  )


def given(
  declared: Mapping[str, dataclasses.Field],
  flag_values: flags.FlagValues = flags.FLAGS,
) -> dict[str, Any]:
  """The values of those flags that were given; see `with_defaults`."""
  values = {name: flag_values[name].value for name in declared}
  return {name: value for name, value in values.items() if value is not None}


def as_flag(name: str) -> str:
  """What an option is called on the command line."""
  return f'--{name}'


def refuse(message: str) -> NoReturn:
  """Ends the program with an error that the user can mend."""
  print(f'Error: {message}', file=sys.stderr)
  sys.exit(2)


def refuse_unknown(name: str, known: Sequence[str]) -> NoReturn:
  """Ends the program because of a flag that there is not."""
  near = errors.suggestion(name, known)
  refuse(
    f'Unknown flag --{name}.{near.replace("mean ", "mean --")}'
    f'{"" if near else " --help shows all flags."}'
  )


def refuse_argument(argument: str) -> NoReturn:
  """Ends the program because of an argument that is no flag."""
  refuse(
    f'Unexpected argument {argument!r}: all arguments are flags, as '
    '--name=value. --help shows them.'
  )


def parse(
  argv: Sequence[str],
  flag_values: flags.FlagValues = flags.FLAGS,
  known_only: bool = False,
) -> list[str]:
  """Parses a command line; a wrong one ends the program with status 2.

  Args:
    argv: The program and its arguments.
    flag_values: Gets the values.
    known_only: Whether flags that are not known are returned, not refused.

  Returns:
    The program, and what was left.
  """
  try:
    program, *left = flag_values(argv, known_only=known_only)
  except flags.UnrecognizedFlagError as e:
    refuse_unknown(e.flagname, list(flag_values))
  except flags.IllegalFlagValueError as e:
    cause = e.__context__
    if isinstance(cause, errors.OptionError):
      refuse(str(cause.renamed(as_flag)))
    refuse(f'{e}.')
  except flags.CantOpenFlagFileError as e:
    refuse(f'--flagfile cannot be read: {e.__context__}.')
  except UnicodeDecodeError:
    refuse('--flagfile cannot be read: it is no text.')
  except (flags.Error, ValueError) as e:  # A value is missing, or too much.
    refuse(f'{e}.')
  if left and not known_only:
    refuse_argument(left[0])
  return [program, *left]
