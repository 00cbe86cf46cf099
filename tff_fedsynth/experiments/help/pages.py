"""Writes the help of all commands out of their options, and the README's table.

  make help

Pages are files, as reading the options imports TensorFlow, which takes seconds.
"""

import ast
from collections.abc import Iterator
import dataclasses
import pathlib
import textwrap

from absl import flags

from tff_fedsynth import options
from tff_fedsynth.experiments.basics import demonstration
from tff_fedsynth.experiments.basics import evaluation
from tff_fedsynth.experiments.basics import training
from tff_fedsynth.experiments.comparing import compare_command
from tff_fedsynth.experiments.measuring import ablation
from tff_fedsynth.experiments.measuring import benchmark_command
from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.experiments.methods.fedsynth import SIZE_OPTIONS
from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.trust import disclosure
from tff_fedsynth.experiments.trust import siege
from tff_fedsynth.experiments.workers import serving
from tff_fedsynth.fitting import budget
from tff_fedsynth.tasks import TASKS

_PAGES = pathlib.Path(__file__).parent
_COMMANDS = _PAGES.parent
_README = _COMMANDS.parents[1] / 'README.md'
_WIDTH = 80

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
  'worker_server': serving,
}

# Those of all runs, in this order, behind those of one command.
_GROUPS = (
  'Results',
  'Data',
  'Training',
  'Budget',
  'FedSynth',
  'Objective data_loss',
  'Sketch',
  'Trust',
)
_REQUIRED = 'required'
_LAST_GROUP = 'Workers'
_REGISTRIES = {'method': METHODS, 'task': TASKS}


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
    'Objective data_loss': of_ours,
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


def page(command: str) -> str:
  """The help of a command."""
  flag_values = flags.FlagValues()
  COMMANDS[command].define_flags(flag_values)
  groups = {}
  for name in flag_values:
    field = flag_values[name].parser.field
    groups.setdefault(_group(name, field), []).append((name, field))
  source = (_COMMANDS / f'{command}.py').read_text()
  parts, notes = [ast.get_docstring(ast.parse(source), clean=False)], _notes()
  parts[0] = parts[0].rstrip('\n')
  for group in _ordered(groups):
    parts.append(f'{group}:')
    if group in notes:
      parts.append(_wrap(notes[group], 2))
    parts += [_flag(*member) for member in groups[group]]
  parts.append(
    '--flagfile=FILE reads flags from a file; --helpfull lists those of '
    f'libraries.\nThe same command: python -m tff_fedsynth.experiments.{command}'
  )
  return '\n\n'.join(parts) + '\n'


def readme_table() -> str:
  """The rows of all flags of a run, as Markdown."""
  declared = {**options.fields(Settings), **registry.own_options()}
  rows = ['| flag | default | meaning |', '|---|---|---|']
  for name, field in declared.items():
    default, meaning = shown_default(field), field.metadata['help']
    rows.append(f'| `--{name}` | {default} | {meaning} |')
  return '\n'.join(rows) + '\n'


def with_table(readme: str) -> str:
  """The README with a new table of flags."""
  header, *_ = readme_table().splitlines()
  before, _, rest = readme.partition(f'{header}\n')
  _, _, after = rest.partition('\n\n')
  return f'{before}{readme_table()}\n{after}'


def main() -> None:
  """Writes all pages, and the README."""
  for command in COMMANDS:
    (_PAGES / f'{command}.txt').write_text(page(command))
  _README.write_text(with_table(_README.read_text()))


if __name__ == '__main__':
  main()
