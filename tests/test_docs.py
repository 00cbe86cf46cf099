"""The documentation: its programs run, and it names what there is.

docs/lint.py looks at lines, links and spelling, `mkdocs build --strict` at the rest.
"""

import pathlib
import re
import shlex

from absl import flags
import pytest

from baselines import aggregation
import tff_fedsynth
from tff_fedsynth import budget
from tff_fedsynth import communication
from tff_fedsynth import experiments
from tff_fedsynth.experiments.help import pages
from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.settings import command_flags

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / 'docs'
WRITTEN = [
  *sorted(DOCS.glob('*.md')),
  *ROOT.glob('*.md'),
  ROOT / 'examples' / 'README.md',
]
_SHELL = re.compile(r'```sh\n(.*?)```', re.DOTALL)


def _commands():
  """Commands of ours in the texts: the page, the program and its arguments."""
  for page in WRITTEN:
    for block in _SHELL.findall(page.read_text()):
      for line in block.replace('\\\n', ' ').splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0].startswith('fedsynth-'):
          yield pytest.param(words, id=f'{page.name}: {line[:60]}')


@pytest.mark.parametrize('words', _commands())
def test_commands_have_the_flags_that_they_are_shown_with(words):
  program, *arguments = words
  name = {'fedsynth-worker': 'worker_server'}.get(program, program[9:])
  values = flags.FlagValues()
  pages.COMMANDS[name].define_flags(values)
  # Values of a plugin are its own business.
  if not any(a.startswith('--plugin=') for a in arguments):
    command_flags.parse([program, *arguments], values)


def test_there_are_commands():
  assert len(list(_commands())) > 5


def test_the_snippet_of_the_readme_runs():
  text = (ROOT / 'README.md').read_text()
  (snippet,) = re.findall(r'```python\n(.*?)```', text, re.S)
  names = {}
  exec(compile(snippet, 'README.md', 'exec'), names)
  measured = names['communication'].measure(names['process'])
  assert measured.uplink_bytes == 1229
  assert names['output'].metrics['finalizer']['rejected_clients'] == 0


def test_the_recipes_run():
  names = {'__name__': 'recipes'}
  text = (DOCS / 'recipes.md').read_text()
  for i, program in enumerate(re.findall(r'```python\n(.*?)```', text, re.S)):
    exec(compile(program, f'recipes.md, program {i}', 'exec'), names)
  assert i == 3
  assert names['metrics']['finalizer']['rejected_clients'] == 0


def test_all_flags_are_what_make_help_writes():
  page = pages.flags_page()
  assert pages.FLAGS_PAGE.read_text() == page
  for command in pages.COMMANDS:
    values = flags.FlagValues()
    pages.COMMANDS[command].define_flags(values)
    for name in values:
      assert f'\n`--{name}`\n' in page


def test_the_rules_are_those_of_the_code():
  text = ' '.join((DOCS / 'budgets.md').read_text().replace('> ', '').split())
  for rule in (budget.BUDGET_RULE, budget.TEXT_BUDGET_RULE):
    assert rule[0].upper() + rule[1:] in text


def test_every_method_is_explained():
  text = (DOCS / 'budgets.md').read_text()
  assert set(METHODS) <= set(re.findall(r'`(\w+)`', text))


def _public_names():
  """The full names of all that is public."""
  yield from (f'tff_fedsynth.{name}' for name in tff_fedsynth.__all__)
  yield from (f'{experiments.__name__}.{name}' for name in experiments.__all__)
  for module in (communication, aggregation):
    for name, value in vars(module).items():
      if getattr(value, '__module__', None) == module.__name__:
        if not name.startswith('_'):
          yield f'{module.__name__}.{name}'
  for method in METHODS.values():
    for group in method.groups:
      if group.cls.__module__.startswith('baselines.'):
        yield f'{group.cls.__module__}.{group.cls.__name__}'


def test_the_api_has_every_public_name():
  named = re.findall(r'^::: (\S+)$', (DOCS / 'api.md').read_text(), re.M)
  assert sorted(named) == sorted(set(_public_names()))
