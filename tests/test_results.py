"""Tables of the results are those of their rows, and rows name their code."""

import importlib.util
import pathlib
import re

import pandas as pd
import pytest

ROOT = pathlib.Path(__file__).parent.parent
_SPEC = importlib.util.spec_from_file_location(
  'pages', ROOT / 'results' / 'pages.py'
)
pages = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(pages)
README = (ROOT / 'README.md').read_text()
STUDIES = pytest.mark.parametrize('study', pages.STUDIES, ids=lambda s: s.name)


@STUDIES
def test_tables_are_made_of_the_rows(study):
  page = (study / 'README.md').read_text()
  assert '\n| ' in page.partition('<!-- table -->')[2]
  assert page == pages.page(study)


@STUDIES
def test_rows_name_their_commit_and_command(study):
  rows = pd.read_csv(study / 'results.csv')
  assert rows.commit.str.fullmatch('[0-9a-f]{40}').all()
  assert rows.command.str.match('fedsynth-|make demo').all()
  # Each cell has its command.
  lines = (study / 'command.txt').read_text().splitlines()
  cells = [line[2:] for line in lines if line.startswith('# ')]
  assert cells == (list(rows.cell.unique()) if 'cell' in rows else [])
  assert len(lines) == max(1, 2 * len(cells))


def test_the_index_has_the_answers_of_the_pages():
  assert pages.INDEX.read_text() == pages.index()


def test_numbers_of_the_readme_are_in_the_results():
  (demo,) = pages.tables(pages.ROOT / 'demo')
  assert demo in README
  verdict = README.partition('## When to use it')[2].partition('\n## ')[0]
  numbers = re.findall(r'(?<!\d)\.\d{3}\b|\d+,\d{3}(?:,\d{3})?', verdict)
  assert len(numbers) > 5
  found = ''.join((s / 'README.md').read_text() for s in pages.STUDIES)
  assert [number for number in numbers if number not in found] == []
