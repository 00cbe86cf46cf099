"""Modules of users are imported before flags are looked at, or refused."""

import subprocess
import sys

from absl import flags
import pytest

from tff_fedsynth.errors import OptionError
from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments.help import entrance
from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.running import run_directory
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.tasks import TASKS

# A task with one option, of a name and a default.
TASK = """
import dataclasses
from tff_fedsynth import options
from tff_fedsynth import tasks

@dataclasses.dataclass(frozen=True)
class Options:
  {name}: int = options.option({default}, 'Sets it.')

tasks.TASKS['{task}'] = tasks.TaskPlugin(None, (options.Group(Options),))
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
  """Writes a module into the current directory; what it adds is gone later."""
  registries = {id(r): (r, dict(r)) for r in (TASKS, METHODS)}
  monkeypatch.chdir(tmp_path)

  def write_module(name, text):
    assert name not in sys.modules
    # Removes it in the end, if it is imported until then.
    monkeypatch.setitem(sys.modules, name, None)
    del sys.modules[name]
    (tmp_path / f'{name}.py').write_text(text)

  yield write_module
  for names, before in registries.values():
    names.clear()
    names.update(before)


def _answer(capsys, *arguments):
  """The exit status, and what was printed; None if nothing was answered."""
  try:
    entrance.answer('train', ['program', *arguments])
  except SystemExit as e:
    captured = capsys.readouterr()
    return e.code, captured.out, captured.err
  return None


@pytest.mark.parametrize(
  'plugin, cause',
  [
    ('nowhere', "ModuleNotFoundError: No module named 'nowhere'"),
    ('tff_fedsynth.nowhere', 'No module named'),
    ('nowhere.py', 'there is no file'),
    ('.nowhere', 'TypeError'),
    ('raises_plugin', 'raises_plugin.py, line 2)'),
    ('raises_plugin.py', 'ZeroDivisionError: division by zero ('),
    ('syntax_plugin', 'SyntaxError'),
    ('json.py', 'another module is called json: '),
  ],
)
@pytest.mark.parametrize('more', [(), ('--help',)])
def test_what_cannot_be_imported_is_refused(plugin, cause, more, write, capsys):
  write('raises_plugin', 'x = 1\nx / 0\n')
  write('syntax_plugin', 'x =\n')
  with open('json.py', 'w') as file:
    file.write('x = 1\n')
  path = list(sys.path)
  status, printed, error = _answer(capsys, f'--plugin={plugin}', *more)
  assert (status, printed) == (2, '') and sys.path == path
  assert error.startswith(f'Error: --plugin={plugin} cannot be imported: ')
  assert cause in error and error.count('\n') == 1
  with pytest.raises(OptionError, match='cannot be imported'):
    Settings(plugin=(plugin,))


def test_it_is_imported_once(write, monkeypatch, capsys):
  write('once_plugin', "print('imported')\n")
  for flag in ('--plugin=once_plugin', '--plugin=./once_plugin.py'):
    assert _answer(capsys, flag) is None
  # A process that went elsewhere has it nevertheless.
  monkeypatch.chdir('/')
  assert Settings(plugin=('./once_plugin.py',)).plugin
  assert capsys.readouterr().out == 'imported\n'


def test_scripts_import_from_the_current_directory(write, tmp_path):
  write('here_plugin', "print('imported')\n")
  script = tmp_path / 'bin' / 'script.py'
  script.parent.mkdir()
  script.write_text(
    'from tff_fedsynth.experiments.help import entrance\n'
    "entrance.answer('train')\n"
  )
  result = subprocess.run(
    [sys.executable, script, '--plugin=here_plugin', '--an_own_flag=3'],
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert (result.stdout, result.stderr) == ('imported\n', '')


@pytest.mark.parametrize(
  'arguments',
  [
    ('--plugin=own_plugin', '--own_flag=3'),
    ('--own_flag', '3', '--plugin', 'own_plugin'),
    ('--flagfile=a.flags',),
    ('--own_flag', '3', '--flagfile=a.flags'),
    # Near to one of ours, but maybe theirs.
    ('--total_round=3', '--plugin=own_plugin'),
    ('--helpfull', '--plugin=own_plugin'),
  ],
)
def test_unknown_flags_may_be_theirs(arguments, write, tmp_path, capsys):
  write('own_plugin', "print('imported')\n")
  # Not of a test before.
  plugin = f'{tmp_path}/own_plugin.py'
  arguments = [a.replace('own_plugin', plugin) for a in arguments]
  (tmp_path / 'a.flags').write_text(f'--plugin={plugin}\n--own_flag=3\n')
  assert _answer(capsys, *arguments) is None
  assert capsys.readouterr().out == 'imported\n'


@pytest.mark.parametrize(
  'name, default, cause',
  [
    # Of a method of the package; of all runs.
    ('qsgd_bits', 3, 'Two options are called --qsgd_bits, with the defaults '),
    ('seed', 3, 'Two options are called --seed. Call one of them otherwise.'),
    ('shared', 3, 'Two options are called --shared, with the defaults 1 and 3'),
  ],
)
def test_options_of_one_name_are_refused(
  name, default, cause, write, tmp_path, capsys
):
  write('first_plugin', TASK.format(name='shared', default=1, task='first'))
  write('second_plugin', TASK.format(name=name, default=default, task='second'))
  given = [f'--plugin={tmp_path}/{m}_plugin.py' for m in ('first', 'second')]
  status, _, error = _answer(capsys, *given, '--help')
  assert status == 2 and error.startswith(f'Error: {cause}')
  assert error.count('\n') == 1

  def define_flags(_):
    settings_lib.define_flags(registry.own_options(), flags.FlagValues())

  with pytest.raises(SystemExit):
    cli.start(None, define_flags)
  assert capsys.readouterr().err == error


def test_they_are_written_as_they_are_read(write, tmp_path):
  for task in ('a', 'b'):
    write(f'{task}_plugin', TASK.format(name='shared', default=1, task=task))
  paths = tuple(f'{tmp_path}/{task}_plugin.py' for task in ('a', 'b'))

  def read(*arguments):
    values = flags.FlagValues()
    settings_lib.define_flags({}, values)
    values(['program', *arguments])
    return settings_lib.from_flags({}, values).plugin

  text = Settings(plugin=paths).as_flags()['plugin']
  assert text == ','.join(paths)
  assert read(f'--plugin={text}') == paths
  assert read(*(f'--plugin={path}' for path in paths)) == paths
  assert {'a', 'b'} <= TASKS.keys()
  assert Settings().as_flags()['plugin'] == ''
  assert read() == read('--plugin=') == ()


def test_a_run_of_before_there_were_plugins_goes_on(tmp_path):
  settings = Settings(output_dir=str(tmp_path))
  lines = [f'--{k}={v}\n' for k, v in settings.as_flags().items()]
  lines.remove('--plugin=\n')
  (tmp_path / 'flags.txt').write_text(''.join(lines))
  run_directory.check(settings)
  assert 'plugin' not in run_directory.full_flags(settings)
