"""Who may import whom: no circles, and a library below the commands."""

import ast
import graphlib
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
SOURCES = {
  '.'.join(path.relative_to(ROOT).with_suffix('').parts): path.read_text()
  for package in ('tff_fedsynth', 'baselines')
  for path in (ROOT / package).rglob('*.py')
}
SOURCES = {k.removesuffix('.__init__'): v for k, v in SOURCES.items()}


def _imported(source):
  """Modules that a file imports, anywhere in it."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      names = [f'{node.module}.{alias.name}' for alias in node.names]
      yield from (n if n in SOURCES else node.module for n in names)


def _layer(module):
  """A package, or a file beside packages: the first two names."""
  return '.'.join(module.split('.')[:2])


MODULES = {module: {*_imported(text)} for module, text in SOURCES.items()}
LAYERS = {}
for module, names in MODULES.items():
  below = {_layer(n) for n in names if n in SOURCES} - {_layer(module)}
  LAYERS.setdefault(_layer(module), set()).update(below)


def test_neither_modules_nor_packages_import_in_circles():
  for graph in (MODULES, LAYERS):
    graphlib.TopologicalSorter(graph).prepare()


def test_client_and_server_do_not_reach_each_other():
  def reached(layer):
    return {layer}.union(*map(reached, LAYERS[layer]))

  assert 'tff_fedsynth.server' not in reached('tff_fedsynth.client')
  assert 'tff_fedsynth.client' not in reached('tff_fedsynth.server')


def test_the_library_knows_neither_commands_nor_flags():
  for module, names in MODULES.items():
    if _layer(module) != 'tff_fedsynth.experiments':
      assert 'tff_fedsynth.experiments' not in map(_layer, names), module
      assert 'absl' not in {name.split('.')[0] for name in names}, module


def test_what_build_names_exists():
  patterns = re.findall(r'"([\w/*]+\.py)"', (ROOT / 'BUILD').read_text())
  assert [p for p in patterns if not any(ROOT.glob(p))] == []
