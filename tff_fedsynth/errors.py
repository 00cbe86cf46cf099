"""Errors that a user can mend. Their messages say what to change.

The command line shows them without a traceback; anything else is a bug.
"""

from collections.abc import Callable
from collections.abc import Collection
import difflib
import re
from typing import Any

# How alike names are that may be meant for one another; 1 is the same.
_NEAR = 0.62


class UserError(Exception):
  """What a user can mend.

  Attributes:
    names: The options that the message names. Who calls them otherwise, such as
      a command line, has them `renamed`.
  """

  def __init__(self, message: str, *names: str):
    super().__init__(message)
    self.names = names

  def renamed(self, rename: Callable[[str], str]) -> 'UserError':
    """The same error with other names of the options."""
    message = str(self)
    # Not in quotes or paths, where a user's own names are.
    for name in self.names:
      message = re.sub(rf'(?<![\w\'/-]){name}(?!\w)', rename(name), message)
    return type(self)(message, *map(rename, self.names))


class OptionError(UserError, ValueError):
  """An option out of its range, or that does not go with others."""


class BudgetTooSmallError(UserError, ValueError):
  """Nothing of a method fits a budget; the message says how low it can go."""


class UnsupportedModelError(UserError, ValueError):
  """A model that cannot be trained or replayed; the message says why."""


def suggestion(name: str, known: Collection[str]) -> str:
  """' Did you mean ...?' for a name that is nearly known, or nothing."""
  near = difflib.get_close_matches(name, list(known), n=1, cutoff=_NEAR)
  return f' Did you mean {near[0]}?' if near else ''


def unknown(what: str, name: Any, known: Collection) -> str:
  """Says that a name is none of those known, and which is the nearest."""
  near = suggestion(str(name), [str(k) for k in known])
  listed = ', '.join(map(str, known))
  return f'Unknown {what} {name!r}.{near} Choose one of {listed}.'
