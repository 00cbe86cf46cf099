"""Who may import whom, and how large a room may be."""

import ast
import itertools

import pytest
import rooms as rooms_lib
from rooms import ROOT

ROOMS = rooms_lib.rooms()
IMPORTS = {
  room: rooms_lib.imported_rooms(files) - {room}
  for room, files in ROOMS.items()
}

# Each room may import what stands below it, and nothing beside or above it.
CONTRACT = (
  ('experiments',),
  ('experiments/help',),
  ('experiments/basics', 'experiments/comparing', 'experiments/measuring')
  + ('experiments/trust',),
  ('experiments/reporting',),
  ('experiments/pictures',),
  ('experiments/running', 'experiments/timing'),
  ('experiments/records',),
  ('experiments/methods', 'experiments/workers'),
  ('experiments/settings',),
  ('learning_process', 'baselines', 'tasks', 'communication'),
  ('client', 'server', 'fitting', 'tasks/text'),
  ('client/labels', 'client/training', 'payload/choice'),
  ('payload', 'tasks/federated'),
  ('payload/forms', 'plugin', 'models'),
  ('compression', 'models/architectures', 'models/checks'),
  ('models/functional', 'updates', 'options'),
  ('errors', 'tff_worker'),
)
# What a baseline and a task may import besides is none of its business.
ONLY = {
  'baselines': {'compression', 'options', 'errors'},
  'compression': {'options', 'errors'},
  'client': {'client/labels', 'client/training', 'payload', 'models'}
  | {'payload/choice'}
  | {'models/functional', 'updates', 'options', 'errors'},
  'client/labels': {'payload', 'updates'},
  'client/training': {'models/functional', 'options'},
  'server': {'payload', 'compression', 'updates', 'options', 'errors'},
  'payload/choice': {'payload', 'compression', 'updates'},
  'payload': {'payload/forms', 'compression', 'updates', 'options', 'errors'},
  'payload/forms': {'models/functional'},
  'updates': set(),
  'errors': set(),
}

MAX_FILE = 350
MAX_FUNCTION = 80
MAX_COMMAND = 80
MAX_ROOM = 900
MAX_ROOM_OF_EXPERIMENTS = 850

LIBRARY = sorted(room for room in ROOMS if not room.startswith('experiments'))
FILES = sorted(
  str(source)
  for package in (*rooms_lib.PACKAGES, 'tests', 'examples')
  for source in rooms_lib.sources(package)
)


def _lines(source) -> int:
  return len((ROOT / source).read_text().splitlines())


def test_every_room_has_a_place_in_the_contract():
  assert sorted(itertools.chain(*CONTRACT)) == sorted(ROOMS)


@pytest.mark.parametrize('room', ROOMS)
def test_a_room_imports_only_what_stands_below_it(room):
  (level,) = (i for i, row in enumerate(CONTRACT) if room in row)
  below = set(itertools.chain(*CONTRACT[level + 1 :]))
  assert IMPORTS[room] <= below


@pytest.mark.parametrize('room', ONLY)
def test_a_room_imports_only_what_it_is_made_of(room):
  assert IMPORTS[room] <= ONLY[room]


def test_client_and_server_do_not_know_each_other():
  # Neither by way of others.
  def reached(room):
    found, new = set(), {room}
    while new:
      found |= new
      new = set().union(*(IMPORTS[r] for r in new)) - found
    return found

  assert 'server' not in reached('client')
  assert 'client' not in reached('server')


@pytest.mark.parametrize('room', LIBRARY)
def test_the_library_knows_no_command_line(room):
  for source in ROOMS[room]:
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
      names = [a.name for a in getattr(node, 'names', ()) if hasattr(a, 'name')]
      modules = [getattr(node, 'module', None) or '', *names]
      assert 'absl' not in {m.split('.')[0] for m in modules}, source


@pytest.mark.parametrize('file', FILES)
def test_a_file_fits_on_a_few_screens(file):
  assert _lines(file) <= MAX_FILE
  for node in ast.walk(ast.parse((ROOT / file).read_text())):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      assert node.end_lineno - node.lineno < MAX_FUNCTION, node.name


@pytest.mark.parametrize('room', ROOMS)
def test_a_room_is_small(room):
  lines = sum(map(_lines, ROOMS[room]))
  of_experiments = room.startswith('experiments/')
  assert lines <= (MAX_ROOM_OF_EXPERIMENTS if of_experiments else MAX_ROOM)


def test_commands_are_pages():
  for source in ROOMS['experiments']:
    assert _lines(source) <= MAX_COMMAND, source


def test_no_two_modules_differ_by_a_plural():
  modules = {
    source.stem
    for files in ROOMS.values()
    for source in files
    if source.stem != '__init__'
  }
  assert not {m for m in modules if f'{m}s' in modules}
