"""What a command can answer at once: without TensorFlow, which takes seconds.

Each command has a page of help, help/COMMAND.txt, which is written by
`python -m tff_fedsynth.experiments.help.pages` out of the declared options.
"""

from collections.abc import Sequence
import copy
import os
import pathlib
import re
import sys

from absl import app  # noqa: F401, it defines flags.
from absl import flags

from tff_fedsynth import errors
from tff_fedsynth.experiments.settings import command_flags

PACKAGE = 'tff_fedsynth.experiments'
PAGES = pathlib.Path(__file__).parents[1] / 'help'
_HELP = ('-?', '-h', '-help', '--help', '-helpshort', '--helpshort')
_FLAG = re.compile(r'^  --(\[no\])?(\w+)(?:=|  \[|$)', re.MULTILINE)
_OF_ABSL = ('-helpfull', '--helpfull', '-helpxml', '--helpxml')


def answer(command: str, argv: Sequence[str] | None = None) -> None:
  """Prints help if it was asked for, and refuses what are no flags.

  Both end the program; else nothing happens, and values are not looked at.

  Args:
    command: The name of a page.
    argv: The program and its arguments; `sys.argv` if `None`.
  """
  argv = sys.argv if argv is None else argv
  page = (PAGES / f'{command}.txt').read_text()
  if not set(_HELP).isdisjoint(argv[1:]):
    _print(page)
    sys.exit(0)
  if not set(_OF_ABSL).isdisjoint(argv[1:]):
    return
  # absl's own flags come with it.
  known, named = copy.deepcopy(flags.FLAGS), []
  for no, name in _FLAG.findall(page):
    define = flags.DEFINE_bool if no else flags.DEFINE_string
    define(name, None, '', flag_values=known)
    named.append(name)
  for argument in command_flags.parse(argv, known, known_only=True)[1:]:
    name, *_ = argument.lstrip('-').split('=')
    if not argument.startswith('-'):
      command_flags.refuse_argument(argument)
    if errors.suggestion(name, named):
      command_flags.refuse_unknown(name, named)
    return  # One of a library, maybe.


def _print(page: str) -> None:
  try:
    sys.stdout.write(page)
    sys.stdout.flush()
  except BrokenPipeError:
    # Whoever reads has seen enough; Python would complain when it closes.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
