"""BUILD is a map of the rooms: each once, with the rooms that it imports."""

import ast
import pathlib

import pytest
import rooms as rooms_lib
from rooms import ROOT

ROOMS = rooms_lib.rooms()
COMMANDS = [s for s in ROOMS['experiments'] if s.stem != '__init__']
TEST_ROOMS = sorted(
  {p.parent.relative_to(ROOT) for p in (ROOT / 'tests').rglob('test_*.py')}
)
FACADE = pathlib.Path('tff_fedsynth/__init__.py')


def _name(room) -> str:
  return str(room).replace('/', '_')


def _value(node):
  if isinstance(node, ast.Call):
    return [f'glob {pattern}' for pattern in ast.literal_eval(node.args[0])]
  return ast.literal_eval(node)


def _targets():
  """Rule, sources and dependencies of each target, by name, as BUILD has them."""
  found = {}
  for statement in ast.parse((ROOT / 'BUILD').read_text()).body:
    if not isinstance(statement.value, ast.Call):
      continue
    call = statement.value
    if call.func.id.startswith('py_'):
      values = {k.arg: _value(k.value) for k in call.keywords}
      assert values['name'] not in found, values['name']
      found[values['name']] = (
        call.func.id,
        values['srcs'],
        sorted(values.get('deps', [])),
      )
  return found


TARGETS = _targets()


def _deps(files) -> list[str]:
  return sorted(f':{_name(room)}' for room in rooms_lib.imported_rooms(files))


@pytest.mark.parametrize('room', ROOMS)
def test_a_room_is_a_target_with_what_it_imports(room):
  files = [f for f in ROOMS[room] if f not in COMMANDS]
  is_file = files[0].parent == FACADE.parent or room == 'experiments'
  sources = (
    [str(f) for f in files] if is_file else [f'glob {files[0].parent}/*.py']
  )
  deps = [d for d in _deps(files) if d != f':{_name(room)}']
  assert TARGETS[_name(room)] == ('py_library', sources, deps)


@pytest.mark.parametrize('command', COMMANDS, ids=str)
def test_a_command_is_a_binary(command):
  deps = [d for d in _deps([command]) if d != ':experiments']
  assert TARGETS[command.stem] == ('py_binary', [str(command)], deps)
  assert "__name__ == '__main__'" in (ROOT / command).read_text()


@pytest.mark.parametrize('room', TEST_ROOMS, ids=str)
def test_tests_mirror_the_rooms(room):
  place = str(room).removeprefix('tests').lstrip('/')
  assert not place or place in (*ROOMS, 'examples'), f'No room {place}.'
  name = _name(room) if place else 'tests_top'
  files = sorted((ROOT / room).glob('test_*.py'))
  texts = [file.read_text() for file in files]
  deps = [':tests_helpers', *_deps(f.relative_to(ROOT) for f in files)]
  if any('from tff_fedsynth import ' in t for t in texts):
    deps.append(':tff_fedsynth')
  rule, sources, found = TARGETS[name]
  assert (rule, sources) == ('py_test', [f'glob {room}/test_*.py'])
  assert sorted(set(deps)) == found


def test_there_are_no_other_targets():
  helpers = sorted(
    str(p.relative_to(ROOT))
    for p in (ROOT / 'tests').glob('*.py')
    if not p.name.startswith('test_')
  )
  assert TARGETS['tests_helpers'] == ('py_library', helpers, [])
  assert TARGETS['tff_fedsynth'] == (
    'py_library',
    [str(FACADE)],
    _deps([FACADE]),
  )
  known = {_name(room) for room in ROOMS} | {c.stem for c in COMMANDS}
  known |= {_name(r) if str(r) != 'tests' else 'tests_top' for r in TEST_ROOMS}
  assert set(TARGETS) == known | {'tests_helpers', 'tff_fedsynth'}
