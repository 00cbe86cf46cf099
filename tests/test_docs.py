"""The documentation: its programs run, its links lead somewhere, it is whole."""

import inspect
import pathlib
import re
import shlex

from absl import flags
import links
import pytest
import rooms as rooms_lib
from rooms import PACKAGES
from rooms import ROOT

from baselines import aggregation
import tff_fedsynth
from tff_fedsynth import communication
from tff_fedsynth import experiments
from tff_fedsynth.experiments.help import pages
from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.fitting import budget

DOCS = ROOT / 'docs'
PAGES = sorted(DOCS.glob('*.md'))
WRITTEN = [
  *PAGES,
  *ROOT.glob('*.md'),
  ROOT / 'examples' / 'README.md',
  *(ROOT / 'results').rglob('README.md'),
]
LONGEST_LINE = 100
# This project writes American English.
_BRITISH = re.compile(
  r'\w*(?:(?:anonym|final|general|initial|maxim|minim|normal|organ|optim|random'
  r'|recogn|regular|summar|synthes)is(?:e|ing|ation)|analyse|behaviour|centre\b'
  r'|colour|favour|labell|licence|modell|neighbour)\w*'
)
_SHELL = re.compile(r'```sh\n(.*?)```', re.DOTALL)


def _id(path):
  return str(path.relative_to(ROOT))


def _commands():
  """Commands of ours in the texts: the page, the program and its arguments."""
  for page in WRITTEN:
    for block in _SHELL.findall(page.read_text()):
      for line in block.replace('\\\n', ' ').splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0].startswith('fedsynth-'):
          yield pytest.param(words, id=f'{_id(page)}: {line[:60]}')


@pytest.mark.parametrize('page', WRITTEN, ids=_id)
def test_lines_are_short(page):
  long = [
    line
    for line in page.read_text().splitlines()
    # A row of a table cannot be broken.
    if len(line) > LONGEST_LINE and not line.startswith('|')
  ]
  assert not long


@pytest.mark.parametrize('page', links.PAGES, ids=_id)
def test_links_lead_somewhere(page):
  assert not list(links.broken(page))


def test_all_pages_are_looked_at():
  # Of a checkout, not of what was installed or built into it.
  listed = {p.relative_to(ROOT).parts[0] for p in links.PAGES}
  assert {'README.md', 'CHANGELOG.md', 'docs', 'examples', 'results'} <= listed
  assert set(WRITTEN) <= set(links.PAGES)


def test_a_broken_link_is_found(tmp_path):
  page = tmp_path / 'page.md'
  page.write_text(
    '# A `b` & [c](https://c)\n'
    '[1](page.md#a-b--c) [2](#a-b--c) [3](#d) [4](other.md) [5](page.md#x)\n'
    '`[6](no.link)`\n\n[7]: gone.png\n\n```\n# d\n[8](no.link)\n```\n'
  )
  expected = ['#d', 'other.md', 'page.md#x', 'gone.png']
  assert list(links.broken(page)) == expected


def test_external_addresses_are_found():
  addresses = links.addresses()
  assert 'https://arxiv.org/abs/2204.01273' in addresses
  assert not any(set(address) & set(')>"\'') for address in addresses)


def test_the_spelling_is_american():
  sources = [ROOT / s for p in PACKAGES for s in rooms_lib.sources(p)]
  for page in (*WRITTEN, *sources):
    assert not _BRITISH.findall(page.read_text()), page


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


def test_every_page_is_in_the_navigation():
  named = re.findall(
    r'^ +- (\w+\.md)$', (ROOT / 'mkdocs.yml').read_text(), re.M
  )
  assert sorted(named) == [page.name for page in PAGES]


def test_public_functions_say_what_they_take():
  for name in tff_fedsynth.__all__:
    assert inspect.getdoc(getattr(tff_fedsynth, name)), name


def test_modules_that_are_named_exist():
  for page in PAGES:
    for name in re.findall(
      r'`((?:tff_fedsynth|baselines|examples)/[^`]*)`', page.read_text()
    ):
      assert (ROOT / pathlib.Path(name)).exists(), f'{page.name}: {name}'
