"""What a command can answer at once: without TensorFlow, which takes seconds.

Each command has a page of help, help/COMMAND.txt, which is written by
`python -m tff_fedsynth.experiments.help.pages` out of the declared options.
"""

from collections.abc import Sequence
import contextlib
import copy
import importlib
import os
import pathlib
import re
import sys

from absl import app  # noqa: F401, it defines flags.
from absl import flags

from tff_fedsynth import errors
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.settings import user_modules

PACKAGE = 'tff_fedsynth.experiments'
PAGES = pathlib.Path(__file__).parent
_HELP = ('-?', '-h', '-help', '--help', '-helpshort', '--helpshort')
_FLAG = re.compile(r'^  --(\[no\])?(\w+)(?:=|  \[|$)', re.MULTILINE)
_PLUGIN = 'plugin'
_OF_ABSL = ('-helpfull', '--helpfull', '-helpxml', '--helpxml')


def answer(command: str, argv: Sequence[str] | None = None) -> None:
  """Prints help if it was asked for, refuses what are no flags, loads plugins.

  The first two end the program. Else values are not looked at, but modules of
  --plugin are imported, so that what they add is there when flags are defined.

  Args:
    command: The name of a page.
    argv: The program and its arguments; `sys.argv` if `None`.
  """
  argv = sys.argv if argv is None else argv
  page = (PAGES / f'{command}.txt').read_text(encoding='utf-8')
  known, named = _flags_of(page)
  is_help = not set(_HELP).isdisjoint(argv[1:])
  if is_help or not set(_OF_ABSL).isdisjoint(argv[1:]):
    rest = [a for a in argv if a not in (*_HELP, *_OF_ABSL)]
    with contextlib.suppress(flags.Error, ValueError):  # Help comes first.
      known(rest, known_only=True)
  else:
    left = command_flags.parse(argv, known, known_only=True)[1:]
    if not _plugins(known):
      _refuse_first(left, named)
  try:
    user_modules.load(_plugins(known))
    if is_help:
      _print(_live_page(command) if _plugins(known) else page)
      sys.exit(0)
  except errors.OptionError as e:
    command_flags.refuse(str(e.renamed(command_flags.as_flag)))


def _flags_of(page: str) -> tuple[flags.FlagValues, list[str]]:
  """The flags of a page, and absl's own; and the names of the first."""
  known, named = copy.deepcopy(flags.FLAGS), []
  # A value of a plugin's flag may stand before --plugin.
  known.set_gnu_getopt(True)
  for no, name in _FLAG.findall(page):
    define = flags.DEFINE_bool if no else flags.DEFINE_multi_string
    define(name, None, '', flag_values=known)
    named.append(name)
  return known, named


def _plugins(known: flags.FlagValues) -> Sequence[str]:
  """What --plugin names; such flags as are not known may be theirs."""
  return (_PLUGIN in known and known[_PLUGIN].value) or ()


def _refuse_first(arguments: Sequence[str], named: Sequence[str]) -> None:
  """Ends the program if an argument that is left is no flag."""
  for argument in arguments:
    name, *_ = argument.lstrip('-').split('=')
    if not argument.startswith('-'):
      command_flags.refuse_argument(argument)
    if errors.suggestion(name, named):
      command_flags.refuse_unknown(name, named)
    return  # One of a library, maybe.


def _live_page(command: str) -> str:
  """The page of a command with what plugins have added."""
  # Imports TensorFlow, as plugins do; by name, as it imports all commands.
  return importlib.import_module(f'{PACKAGE}.help.pages').page(command)


def _print(page: str) -> None:
  try:
    sys.stdout.write(page)
    sys.stdout.flush()
  except BrokenPipeError:
    # Whoever reads has seen enough; Python would complain when it closes.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
