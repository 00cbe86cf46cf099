"""The README is short, its program runs, and its numbers are those of results/."""

import re

from rooms import ROOT

README = (ROOT / 'README.md').read_text()
MOST_LINES = 120
MOST_WORDS = 900
MOST_LINES_OF_CODE = 30
MOST_LINES_OF_VERDICT = 8
CONTRIBUTING_LINES = 60


def _section(heading):
  return README.partition(f'## {heading}\n')[2].partition('\n## ')[0]


def test_it_is_read_in_two_minutes():
  assert len(README.splitlines()) <= MOST_LINES
  assert len(README.split()) <= MOST_WORDS
  verdict = _section('When to use it, and when not').strip()
  assert 0 < len(verdict.splitlines()) <= MOST_LINES_OF_VERDICT


def test_the_snippet_runs():
  (snippet,) = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
  assert len(snippet.splitlines()) <= MOST_LINES_OF_CODE
  names = {}
  exec(compile(snippet, 'README.md', 'exec'), names)
  measured = names['communication'].measure(names['process'])
  assert measured.uplink_bytes == 1229
  assert names['output'].metrics['finalizer']['rejected_clients'] == 0


def test_the_table_is_that_of_the_demo():
  assert (ROOT / 'results' / 'demo' / 'table.md').read_text() in README


def test_contributing_is_a_page():
  text = (ROOT / 'CONTRIBUTING.md').read_text()
  assert len(text.splitlines()) <= CONTRIBUTING_LINES


def test_one_version():
  version = re.findall(
    r'^version = "(.*)"', (ROOT / 'pyproject.toml').read_text(), re.M
  )
  cited = re.findall(
    r'^version: (.*)', (ROOT / 'CITATION.cff').read_text(), re.M
  )
  assert version == cited


def test_the_override_is_that_of_the_project():
  line = re.compile(r'^override-dependencies = .*$', re.M)
  (own,) = line.findall((ROOT / 'pyproject.toml').read_text())
  for page in ('README.md', 'docs/quickstart.md'):
    assert own in (ROOT / page).read_text()
