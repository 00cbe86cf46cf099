"""Writes the help of all commands, and docs/flags.md, out of their options.

  make help

Pages are files, as reading the options imports TensorFlow, which takes seconds.
"""

import ast
from collections.abc import Iterator
import dataclasses
import pathlib
import textwrap

from absl import flags

from tff_fedsynth import budget
from tff_fedsynth import options
from tff_fedsynth.client.config import GROUP_OF_BATCHES
from tff_fedsynth.client.config import GROUP_OF_UPDATES
from tff_fedsynth.experiments import worker_server
from tff_fedsynth.experiments.basics import demonstration
from tff_fedsynth.experiments.basics import evaluation
from tff_fedsynth.experiments.basics import training
from tff_fedsynth.experiments.comparing import compare_command
from tff_fedsynth.experiments.measuring import ablation
from tff_fedsynth.experiments.measuring import benchmark_command
from tff_fedsynth.experiments.methods.fedsynth import SIZE_OPTIONS
from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.trust import disclosure
from tff_fedsynth.experiments.trust import siege
from tff_fedsynth.tasks import TASKS

_PAGES = pathlib.Path(__file__).parent
_COMMANDS = _PAGES.parent
FLAGS_PAGE = _COMMANDS.parents[1] / 'docs' / 'flags.md'
_WIDTH = 80
_ALL_RUNS = 'train'

# From the module that is run to the one that defines its flags.
COMMANDS = {
  'ablate': ablation,
  'attack': siege,
  'benchmark': benchmark_command,
  'compare': compare_command,
  'demo': demonstration,
  'evaluate': evaluation,
  'leakage': disclosure,
  'train': training,
  'worker_server': worker_server,
}

# Those of all runs, in this order, behind those of one command.
_GROUPS = (
  'Results',
  'Data',
  'Training',
  'Budget',
  'FedSynth',
  GROUP_OF_UPDATES,
  GROUP_OF_BATCHES,
  'Sketch',
  'Trust',
)
_REQUIRED = 'required'
_LAST_GROUP = 'Workers'
_REGISTRIES = {'method': METHODS, 'task': TASKS}
_FLAGS_HEAD = """# All flags

This page is written by `make help` out of the code that declares the flags, and
a test compares the two. `--help` of a command says the same.

Every command that makes runs takes the flags of a run, which come first. What
only one command has stands at the end, under the name of its module:
`python -m tff_fedsynth.experiments.NAME` is that command, and `fedsynth-NAME` is
short for it. (`make demo` is `demo`, and `fedsynth-worker` is `worker_server`.)
`--flagfile=FILE` reads flags from a file.

A flag that does not exist, does not belong to the chosen task or method, or is
out of its range is refused with one sentence and exit code 2, before anything is
written. A budget is never exceeded, the weight of the client included."""


def _notes() -> dict[str, str]:
  """What stands below the heading of a group."""
  free = [name for name, method in METHODS.items() if not method.needs_budget]
  ours = [
    name
    for name, method in METHODS.items()
    if 'synthetic_bits' in {*method.flags, *method.fixed}
  ]
  undefended = [
    name
    for name, method in METHODS.items()
    if 'aggregation' not in method.flags
  ]
  size = ', '.join(f'--{name}' for name in SIZE_OPTIONS)
  of_ours = 'These are for the same methods as those of FedSynth.'
  return {
    'Budget': (
      'One of the two is needed by all methods but '
      f'{", ".join(free)}. With those of FedSynth that have no sketch, all of '
      f'{size} may stand in its place.'
    ),
    'FedSynth': (
      f'These are for the methods {", ".join(ours)}, but what the name of a '
      f'method fixes. The rule for images: {budget.BUDGET_RULE} The rule for '
      f'text: {budget.TEXT_BUDGET_RULE}'
    ),
    GROUP_OF_UPDATES: of_ours,
    GROUP_OF_BATCHES: of_ours,
    'Sketch': of_ours,
    'Trust': (
      f'These are for all methods but {", ".join(undefended)}: what a server '
      'does with decoded updates does not depend on who encoded them.'
    ),
  }


def _owners(name: str, registry) -> list[str]:
  return [key for key, plugin in registry.items() if name in plugin.flags]


def _value(name: str, field: dataclasses.Field) -> str:
  """What stands behind the = of a flag."""
  limits, kind = field.metadata['limits'], options.kind(field)
  if field.metadata['is_path']:
    word = 'FILE' if field.metadata['is_file'] else 'DIRECTORY'
  elif kind is int:
    word = 'N'
  elif kind is float or str(limits):
    word = 'X'
  else:
    is_name = limits.choices or name in (*_REGISTRIES, 'model')
    word = 'NAME' if is_name else 'TEXT'
  if options.is_list(field) and not field.metadata['is_repeated']:
    word = f'{word},{word}...'
  return word


def _models() -> Iterator[str]:
  by_models = {}
  for task, plugin in TASKS.items():
    by_models.setdefault(tuple(plugin.models), []).append(task)
  for models, tasks in by_models.items():
    yield f'With {", ".join(tasks)}: {", ".join(models)}.'


def _range(name: str, field: dataclasses.Field) -> Iterator[str]:
  """Sentences: what a flag may be."""
  limits = field.metadata['limits']
  choices = limits.choices or _REGISTRIES.get(name, ())
  if name == 'model':
    yield from _models()
  if choices:
    listed = ', '.join(map(str, choices))
    yield f'{"Some of" if options.is_list(field) else "One of"} {listed}.'
  bounds = ', or '.join(filter(None, [str(limits), *limits.words]))
  if bounds:
    yield f'{bounds[0].upper()}{bounds[1:]}.'


def shown_default(field: dataclasses.Field) -> str:
  """What happens without a flag, in words or as it would be written."""
  default = field.default
  if field.metadata['default_text']:
    return field.metadata['default_text']
  if default is None or default in ('', ()):
    return 'none'
  return options.text(default)


def _sentences(name: str, field: dataclasses.Field) -> Iterator[str]:
  """All that there is to say of a flag but its default."""
  yield field.metadata['help']
  yield from _range(name, field)
  tasks, methods = _owners(name, TASKS), _owners(name, METHODS)
  if tasks:
    yield f'Only with --task={", ".join(tasks)}.'
  if methods and not field.metadata['group']:
    yield f'Only with --method={", ".join(methods)}.'


def _group(name: str, field: dataclasses.Field) -> str:
  """The heading of a flag: its own, or that of a task or codec."""
  if field.metadata['group']:
    return field.metadata['group']
  if _owners(name, TASKS):
    return 'Data'
  owner, *_ = _owners(name, METHODS)
  (prefix,) = (g.prefix for g in METHODS[owner].groups if name in g.flags)
  return f'Method {prefix.rstrip("_") or owner}'


def _wrap(text: str, indent: int) -> str:
  space = ' ' * indent
  return textwrap.fill(
    text,
    _WIDTH,
    initial_indent=space,
    subsequent_indent=space,
    break_long_words=False,
    break_on_hyphens=False,
  )


def _flag(name: str, field: dataclasses.Field) -> str:
  is_bool = options.kind(field) is bool
  shown = f'--[no]{name}' if is_bool else f'--{name}={_value(name, field)}'
  default = shown_default(field)
  if default != _REQUIRED:
    default = f'default: {default}'
  line = f'  {shown}  [{default}]'
  sentences = [*_sentences(name, field)]
  if len(line) > _WIDTH:
    line = f'  {shown}'
    sentences.append(f'{default.capitalize()}.')
  return f'{line}\n{_wrap(" ".join(sentences), 6)}'


def _ordered(groups) -> list[str]:
  """Groups of the command, of all runs, of methods, and the rest."""
  shared = [g for g in _GROUPS if g in groups]
  last = [g for g in groups if g == _LAST_GROUP]
  methods = [g for g in groups if g.startswith('Method ')]
  own = [g for g in groups if g not in (*shared, *last, *methods)]
  return [*own, *shared, *methods, *last]


def _groups_of(command: str) -> dict[str, list[tuple[str, dataclasses.Field]]]:
  """The flags of a command, by heading, in the order of the page."""
  flag_values = flags.FlagValues()
  COMMANDS[command].define_flags(flag_values)
  groups = {}
  for name in flag_values:
    field = flag_values[name].parser.field
    groups.setdefault(_group(name, field), []).append((name, field))
  return {group: groups[group] for group in _ordered(groups)}


def page(command: str) -> str:
  """The help of a command."""
  source = (_COMMANDS / f'{command}.py').read_text(encoding='utf-8')
  parts, notes = [ast.get_docstring(ast.parse(source), clean=False)], _notes()
  parts[0] = parts[0].rstrip('\n')
  for group, members in _groups_of(command).items():
    parts.append(f'{group}:')
    if group in notes:
      parts.append(_wrap(notes[group], 2))
    parts += [_flag(*member) for member in members]
  parts.append(
    '--flagfile=FILE reads flags from a file; --helpfull lists those of '
    f'libraries.\nThe same command: python -m tff_fedsynth.experiments.{command}'
  )
  return '\n\n'.join(parts) + '\n'


def _definition(name: str, field: dataclasses.Field) -> str:
  """A flag as an entry of a definition list in Markdown."""
  sentences = [*_sentences(name, field)]
  default = shown_default(field)
  sentences.append(
    'It is required.' if default == _REQUIRED else f'Default: {default}.'
  )
  text = _wrap(' '.join(sentences), 4)
  return f'`--{name}`\n:   {text.lstrip()}'


def flags_page() -> str:
  """All flags of all commands, as the page of the documentation."""
  parts, notes = [_FLAGS_HEAD], _notes()
  of_runs = _groups_of(_ALL_RUNS)
  for group, members in of_runs.items():
    parts.append(f'## {group}')
    if group in notes:
      parts.append(_wrap(notes[group], 0))
    parts += [_definition(*member) for member in members]
  shared = {name for members in of_runs.values() for name, _ in members}
  for command in COMMANDS:
    own = [
      member
      for members in _groups_of(command).values()
      for member in members
      if member[0] not in shared
    ]
    if own:
      parts.append(f'## Only `{command}`')
      parts += [_definition(*member) for member in own]
  return '\n\n'.join(parts) + '\n'


def main() -> None:
  """Writes all pages, and that of the documentation."""
  for command in COMMANDS:
    (_PAGES / f'{command}.txt').write_text(page(command), encoding='utf-8')
  FLAGS_PAGE.write_text(flags_page(), encoding='utf-8')


if __name__ == '__main__':
  main()
