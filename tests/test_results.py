"""The pages of the results are whole, and their tables are those of the rows."""

import importlib.util
import re

import pytest
from rooms import ROOT

_SPEC = importlib.util.spec_from_file_location(
  'pages', ROOT / 'results' / 'pages.py'
)
pages = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(pages)

STUDIES = pages.studies()
FOLDERS = [folder for study in STUDIES for folder in pages.folders(study)]
PAGES = [study / 'README.md' for study in STUDIES]
README = (ROOT / 'README.md').read_text()


def _id(path):
  return str(path.relative_to(pages.ROOT))


@pytest.mark.parametrize('study', STUDIES, ids=_id)
def test_a_page_has_its_form(study):
  page = (study / 'README.md').read_text()
  assert tuple(re.findall(r'^## (.*)$', page, re.M)) == pages.HEADINGS
  assert pages.section(page, 'Question').endswith('?')
  # One sentence; numbers begin with a point, and do not end one.
  answer = pages.section(page, 'Answer')
  assert len(re.findall(r'[.!?](?=\s|$)', answer)) == 1
  assert re.search(r'!\[.+\]\(.+\.png\)', pages.section(page, 'Picture'))
  assert re.search(r'\b20\d\d\b', pages.section(page, 'Setup'))


@pytest.mark.parametrize('folder', FOLDERS, ids=_id)
def test_a_table_is_made_of_its_rows(folder):
  assert (folder / pages.TABLE).read_text() == pages.table(folder)
  assert len((folder / pages.COMMAND).read_text().splitlines()) == 1


@pytest.mark.parametrize('study', STUDIES, ids=_id)
def test_a_page_shows_its_tables(study):
  assert (study / 'README.md').read_text() == pages.with_tables(study)


def test_the_index_is_made_of_the_pages():
  assert pages.INDEX.read_text() == pages.index()


def test_historic_tables_say_what_they_are():
  page = (pages.HISTORIC / 'README.md').read_text()
  for table in pages.HISTORIC.rglob(pages.TABLE):
    name = str(table.relative_to(pages.HISTORIC))
    assert f']({name})' in page
  headings = re.findall(r'^## (.*)$', page, re.M)
  # The last one has no tables.
  reasons = ' '.join(page.split()).count('*Historic because*')
  assert reasons == len(headings) - 1


def test_nothing_rests_on_historic_tables():
  assert 'historic' not in README
  for page in (*PAGES, *(ROOT / 'docs').glob('*.md')):
    for link in re.findall(r'\]\(([^)]*historic[^)]*)\)', page.read_text()):
      assert 'historic/README.md' in link, page


def test_numbers_of_the_readme_are_in_the_results():
  verdict = README.partition('## When to use it')[2].partition('\n## ')[0]
  numbers = re.findall(r'(?<!\d)\.\d{3}\b|\d+,\d{3}(?:,\d{3})?', verdict)
  assert len(numbers) > 5
  texts = [p.read_text() for p in PAGES]
  texts += [(f / pages.TABLE).read_text() for f in FOLDERS]
  for number in numbers:
    assert any(number in text for text in texts), number
