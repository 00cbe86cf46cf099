"""An installed wheel finds all that it imports, in the versions of the lock."""

import ast
from importlib import metadata
import pathlib
import re
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ('tff_fedsynth', 'baselines')
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())
LOCK = (ROOT / 'requirements.txt').read_text()


def _name(requirement):
  return re.match(r'[\w.-]+', requirement)[0].lower().replace('_', '-')


DECLARED = {_name(r) for r in PROJECT['project']['dependencies']}
PINNED = dict(re.findall(r'^([\w.-]+)==(\S+)', LOCK, re.M))


@pytest.mark.parametrize('package', PACKAGES)
def test_what_is_imported_is_declared(package):
  modules = set()
  for source in (ROOT / package).rglob('*.py'):
    for node in ast.walk(ast.parse(source.read_text())):
      if isinstance(node, ast.Import):
        modules |= {alias.name.split('.')[0] for alias in node.names}
      elif isinstance(node, ast.ImportFrom):
        modules.add(node.module.split('.')[0])
  found = metadata.packages_distributions()
  for module in modules - {*sys.stdlib_module_names, *PACKAGES, '__future__'}:
    names = {_name(distribution) for distribution in found[module]}
    assert names & DECLARED, f'{module} is in {names}, none of them declared.'


def test_what_is_declared_is_in_the_lock():
  development = PROJECT['project']['optional-dependencies']['dev']
  assert DECLARED | set(map(_name, development)) <= set(PINNED)


def test_the_lock_has_the_overrides():
  for requirement in PROJECT['tool']['uv']['override-dependencies']:
    name, version = requirement.split('==')
    assert PINNED[name] == version


@pytest.mark.parametrize('page', ['README.md', 'docs/quickstart.md'])
def test_pages_name_the_overrides(page):
  line = re.compile(r'^override-dependencies = .*$', re.M)
  (own,) = line.findall((ROOT / 'pyproject.toml').read_text())
  assert own in (ROOT / page).read_text()


def test_the_citation_has_the_version_of_the_package():
  cited = re.findall(
    r'^version: (.*)', (ROOT / 'CITATION.cff').read_text(), re.M
  )
  assert cited == [PROJECT['project']['version']]


def test_every_command_is_a_program():
  for target in PROJECT['project']['scripts'].values():
    module, function = target.split(':')
    source = (ROOT.joinpath(*module.split('.'))).with_suffix('.py')
    assert f'def {function}(' in source.read_text()
