"""The notebooks were executed as they are, and show pictures.

`make notebooks` executes them; what is checked here needs no Jupyter.
"""

import ast
import json

import pytest
from rooms import ROOT

NOTEBOOKS = sorted((ROOT / 'docs' / 'notebooks').glob('*.ipynb'))
LARGEST = 300_000
LONGEST_LINE = 100


def _cells(notebook, kind):
  cells = json.loads(notebook.read_text())['cells']
  return [cell for cell in cells if cell['cell_type'] == kind]


def _name(notebook):
  return notebook.stem


def test_there_are_three():
  assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=_name)
def test_it_ran_from_the_first_cell_to_the_last(notebook):
  cells = _cells(notebook, 'code')
  counts = [cell['execution_count'] for cell in cells]
  assert counts == list(range(1, len(cells) + 1))
  outputs = [output for cell in cells for output in cell['outputs']]
  assert not [o for o in outputs if o['output_type'] == 'error']
  # Notes of libraries are no part of it.
  assert not [o for o in outputs if o.get('name') == 'stderr']


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=_name)
def test_its_pictures_are_stored(notebook):
  outputs = [o for cell in _cells(notebook, 'code') for o in cell['outputs']]
  pictures = [o for o in outputs if 'image/png' in o.get('data', {})]
  assert len(pictures) >= 2
  assert notebook.stat().st_size < LARGEST


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=_name)
def test_it_is_read_easily(notebook):
  for kind in ('code', 'markdown'):
    for cell in _cells(notebook, kind):
      lines = ''.join(cell['source']).splitlines()
      assert max(map(len, lines)) <= LONGEST_LINE
  first = ''.join(_cells(notebook, 'markdown')[0]['source'])
  assert first.startswith('# ')


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=_name)
def test_what_it_imports_of_ours_exists(notebook):
  code = '\n'.join(''.join(c['source']) for c in _cells(notebook, 'code'))
  for node in ast.walk(ast.parse(code)):
    if isinstance(node, ast.ImportFrom):
      if node.module.split('.')[0] in ('tff_fedsynth', 'baselines'):
        module = ROOT.joinpath(*node.module.split('.'))
        assert module.is_dir() or module.with_suffix('.py').exists()
