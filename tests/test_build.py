"""BUILD names every source once, with the dependencies that it imports."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ('baselines', 'tests', 'tff_fedsynth')


def _targets():
  """Name, rule, sources and dependencies of each target, as BUILD has them."""
  found = {}
  for statement in ast.parse((ROOT / 'BUILD').read_text()).body:
    call = statement.value
    if not call.func.id.startswith('py_'):
      continue
    values = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    assert values['name'] not in found, values['name']
    found[values['name']] = (
      call.func.id,
      values['srcs'],
      values.get('deps', []),
    )
  return found


def _sources():
  return sorted(
    str(path.relative_to(ROOT))
    for package in PACKAGES
    for path in (ROOT / package).rglob('*.py')
  )


def _file_of(module):
  """The file of one of our modules, or None for a name inside a module."""
  path = ROOT / module.replace('.', '/')
  for file in (path.with_suffix('.py'), path / '__init__.py'):
    if file.exists():
      return str(file.relative_to(ROOT))
  return None


def _imported_files(source):
  files = set()
  for node in ast.walk(ast.parse((ROOT / source).read_text())):
    if isinstance(node, ast.Import):
      modules = [(alias.name, None) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      modules = [(node.module, alias.name) for alias in node.names]
    else:
      continue
    for module, name in modules:
      helper = _file_of(f'tests.{module}')
      if helper:  # Tests import what they share from the top of tests/.
        files.add(helper)
      elif module.split('.')[0] in PACKAGES:
        submodule = name and _file_of(f'{module}.{name}')
        files.add(submodule or _file_of(module))
  return files


def test_every_source_is_in_exactly_one_target():
  named = sorted(s for _, sources, _ in _targets().values() for s in sources)
  assert named == _sources()


def test_dependencies_are_what_the_source_imports():
  targets = _targets()
  target_of = {s: name for name, (_, ss, _) in targets.items() for s in ss}
  for name, (_, sources, dependencies) in targets.items():
    needed = {
      f':{target_of[file]}'
      for source in sources
      for file in _imported_files(source)
    } - {f':{name}'}
    assert sorted(dependencies) == sorted(needed), name


def test_rules_fit_the_sources():
  for name, (rule, sources, _) in _targets().items():
    (source,) = sources
    text = (ROOT / source).read_text()
    if pathlib.Path(source).name.startswith('test_'):
      expected = 'py_test'
    elif "__name__ == '__main__'" in text:
      expected = 'py_binary'
    else:
      expected = 'py_library'
    assert rule == expected, name
