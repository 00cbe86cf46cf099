"""The notebooks were executed as they are, and show pictures.

`make notebooks` executes them; what is checked here needs no Jupyter.
"""

import ast
import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / 'docs' / 'notebooks').glob('*.ipynb'))


def _cells(notebook, kind):
  cells = json.loads(notebook.read_text())['cells']
  return [cell for cell in cells if cell['cell_type'] == kind]


def _name(notebook):
  return notebook.stem


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


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=_name)
def test_what_it_imports_of_ours_exists(notebook):
  code = '\n'.join(''.join(c['source']) for c in _cells(notebook, 'code'))
  for node in ast.walk(ast.parse(code)):
    if isinstance(node, ast.ImportFrom):
      if node.module.split('.')[0] in ('tff_fedsynth', 'baselines'):
        module = ROOT.joinpath(*node.module.split('.'))
        assert module.is_dir() or module.with_suffix('.py').exists()
