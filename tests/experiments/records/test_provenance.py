"""What a run says of the code that made it."""

import json
import shlex
import shutil
import subprocess

from absl import flags
import pytest

from tff_fedsynth import options
from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.records.provenance import CHANGED
from tff_fedsynth.experiments.records.provenance import CLEAN
from tff_fedsynth.experiments.records.provenance import UNKNOWN
from tff_fedsynth.experiments.running import run_directory
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.settings.settings import Settings


def _git(root, *arguments):
  return subprocess.run(
    ['git', '-c', 'user.name=x', '-c', 'user.email=x@y', *arguments],
    cwd=root,
    capture_output=True,
    check=True,
    text=True,
    timeout=60,
  ).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
  """A repository with two packages, in one commit."""
  root = tmp_path / 'checkout'
  for name in ('tff_fedsynth/__init__.py', 'baselines/sign.py', 'README.md'):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('# Text.\n')
  _git(root, 'init')
  _git(root, 'add', '.')
  _git(root, 'commit', '-m', 'All')
  return root


def test_a_commit_and_a_clean_tree(checkout):
  commit = _git(checkout, 'rev-parse', 'HEAD')
  assert len(commit) == 40
  assert provenance.code(checkout) == dict(commit=commit, tree=CLEAN)
  # Results and prose do not change what runs.
  (checkout / 'README.md').write_text('Other text.')
  (checkout / 'demo').mkdir()
  (checkout / 'demo' / 'metrics.csv').write_text('round')
  assert provenance.code(checkout)['tree'] == CLEAN


@pytest.mark.parametrize(
  'change',
  [
    lambda root: (root / 'baselines' / 'sign.py').write_text('# Other.\n'),
    lambda root: (root / 'baselines' / 'sign.py').unlink(),
    lambda root: (root / 'tff_fedsynth' / 'new.py').write_text('# New.\n'),
    lambda root: _git(root, 'rm', 'baselines/sign.py'),
  ],
)
def test_what_is_changed_or_new_in_the_packages_counts(change, checkout):
  change(checkout)
  assert provenance.code(checkout)['tree'] == CHANGED


def test_no_checkout_is_an_unknown_commit(tmp_path, checkout):
  unknown = dict(commit=UNKNOWN, tree=UNKNOWN)
  assert provenance.code(tmp_path) == unknown
  # Installed in the virtual environment of somebody else's project.
  (checkout / '.gitignore').write_text('.venv\n')
  site = checkout / '.venv' / 'lib'
  shutil.copytree(checkout / 'tff_fedsynth', site / 'tff_fedsynth')
  assert provenance.code(site) == unknown
  # A repository without a commit.
  empty = tmp_path / 'empty'
  shutil.copytree(checkout / 'tff_fedsynth', empty / 'tff_fedsynth')
  _git(empty, 'init')
  _git(empty, 'add', '.')
  assert provenance.code(empty) == unknown


def test_a_machine_without_git_is_no_error(checkout, monkeypatch):
  monkeypatch.setenv('PATH', '')
  assert provenance.code(checkout) == dict(commit=UNKNOWN, tree=UNKNOWN)


def test_the_git_of_a_hook_is_not_asked(checkout, tmp_path, monkeypatch):
  monkeypatch.setenv('GIT_DIR', str(tmp_path / 'elsewhere'))
  commit = provenance.code(checkout)['commit']
  monkeypatch.delenv('GIT_DIR')
  assert commit == _git(checkout, 'rev-parse', 'HEAD')


def test_the_process_is_asked_once(checkout, monkeypatch):
  provenance.of_process.cache_clear()
  monkeypatch.setattr(provenance.code, '__defaults__', (checkout,))
  before = provenance.of_process()
  assert tuple(before) == provenance.COLUMNS
  assert before['tree'] == CLEAN
  assert before['tensorflow_version'].startswith('2.14.')
  assert before['tensorflow_federated_version'] == '0.87.0'
  # What was imported stays what it was.
  (checkout / 'baselines' / 'sign.py').write_text('# Other.\n')
  assert provenance.code()['tree'] == CHANGED
  assert provenance.of_process() == before
  provenance.of_process.cache_clear()


def _code(commit, tree=CLEAN, version='1.0'):
  machine = dict.fromkeys(provenance.COLUMNS[2:], version)
  return dict(commit=commit, tree=tree, **machine)


@pytest.fixture
def running(monkeypatch):
  """Sets what the process says that it is."""

  def run(*args):
    monkeypatch.setattr(provenance, 'of_process', lambda: _code(*args))

  return run


def _made_by(directory):
  made = provenance.made_by(directory)
  return made['commit'], made['tree']


def test_a_run_carries_all_commits_whose_rounds_are_left(tmp_path, running):
  assert _made_by(tmp_path) == (UNKNOWN, UNKNOWN)
  running('a')
  provenance.record(tmp_path, 0)
  assert _made_by(tmp_path) == ('a', CLEAN)
  # Stopped before its first checkpoint: nothing of it is left.
  running('b')
  provenance.record(tmp_path, 0)
  assert _made_by(tmp_path) == ('b', CLEAN)
  provenance.record(tmp_path, 10)
  assert _made_by(tmp_path) == ('b', CLEAN)
  running('b', CHANGED)
  provenance.record(tmp_path, 20)
  running('c', CLEAN, '1.1')
  provenance.record(tmp_path, 30)
  assert _made_by(tmp_path) == ('b+b+c', 'clean+changed+clean')
  assert provenance.made_by(tmp_path)['python_version'] == '1.0+1.1'
  entries = json.loads((tmp_path / 'provenance.json').read_text())
  assert [e['after_round'] for e in entries] == [0, 10, 20, 30]
  # Broken checkpoints: it went on from an older one.
  running('d')
  provenance.record(tmp_path, 15)
  assert _made_by(tmp_path) == ('b+d', 'clean+clean')


def test_a_run_that_was_begun_before_there_was_this_file(tmp_path, running):
  running('a')
  provenance.record(tmp_path, 20)
  assert _made_by(tmp_path) == ('unknown+a', 'unknown+clean')
  assert provenance.in_words(provenance.made_by(tmp_path)) == (
    'unknown commit, then commit a'
  )


@pytest.mark.parametrize(
  'made, current, expected',
  [
    (_code('a'), _code('a'), True),
    (_code('a'), _code('b'), False),
    (_code('a', CHANGED), _code('a', CHANGED), False),
    (_code('a'), _code('a', CHANGED), False),
    (_code('a+b', 'clean+clean'), _code('b'), False),
    ({}, _code('a'), False),
    ({'commit': float('nan')}, _code('a'), False),
    # Installed: the version is all there is.
    (_code(UNKNOWN, UNKNOWN), _code(UNKNOWN, UNKNOWN), True),
    (_code(UNKNOWN, UNKNOWN, '0.9'), _code(UNKNOWN, UNKNOWN), False),
    ({}, _code(UNKNOWN, UNKNOWN, UNKNOWN), False),
  ],
)
def test_only_the_same_code_without_changes_is_the_same(
  made, current, expected
):
  assert provenance.is_of(made, current) is expected


def test_words():
  words = provenance.in_words
  assert words(_code('1234567890abc')) == 'commit 1234567890'
  assert words(_code('a', CHANGED)) == (
    'commit a with changes that are in no commit'
  )
  assert words(_code(UNKNOWN, UNKNOWN)) == 'unknown commit of version 1.0'
  assert words({}) == 'unknown commit'


def _parsed(command):
  program, *arguments = shlex.split(command)
  values = flags.FlagValues()
  settings_lib.define_flags(registry.own_options(), values)
  values([program, *arguments])
  return program, settings_lib.from_flags(registry.own_options(), values)


@pytest.mark.parametrize('method', METHODS)
def test_a_command_makes_the_same_settings_again(method, tmp_path):
  settings = Settings(
    output_dir=str(tmp_path),
    method=method,
    compression_ratio=None if method == 'fedavg' else 500.0,
    client_learning_rate=0.1 + 0.2,
    seed=7,
    options={'partition': 'dirichlet', 'dirichlet_alpha': 0.3},
  )
  own = {'bits': 8, 'scale': 'mse', 'diagnostics': True}
  plugin = METHODS[method]
  for group in plugin.groups:
    for name, value in own.items():
      flag = group.flag(name)
      if name in options.fields(group.cls) and flag in plugin.flags:
        settings.options[flag] = value
  command = provenance.Program().command(run_directory.full_flags(settings))
  program, again = _parsed(command)
  assert program == 'fedsynth-train'
  assert again.by_flag() == settings.by_flag()
  fixed = run_directory.fixed_flags(method)
  assert len(fixed) == len(plugin.fixed)
  assert not fixed.keys() & run_directory.full_flags(settings).keys()


def test_what_was_measured_is_in_the_command(tmp_path):
  settings = Settings(
    output_dir=str(tmp_path),
    method='fedsynth_drive',
    compression_ratio=500.0,
    options={'client_time_ratio': 3.0, 'objective': 'update_l2'},
  )
  chosen = {
    'residual_fraction': 0.4,
    'synthesis_iterations': 12,
    'client_time_ratio': None,
  }
  (tmp_path / 'chosen.json').write_text(json.dumps(chosen))
  _, again = _parsed(
    provenance.Program().command(run_directory.full_flags(settings))
  )
  assert again.options == {
    'objective': 'update_l2',
    'residual_fraction': 0.4,
    'synthesis_iterations': 12,
  }
  assert run_directory.fixed_flags('fedsynth_drive') == {'residual': 'drive'}
  assert run_directory.fixed_flags('drive_mse') == {'drive_scale': 'mse'}


def test_flags_of_another_command_come_last_and_are_quoted():
  program = provenance.Program(
    'fedsynth-ablate',
    {'seeds': (0, 1), 'variant': 'bits=8,x=a b', 'weight_cap': None},
  )
  command = program.command({'seed': 3, 'method': 'fedsynth'})
  assert command == (
    "fedsynth-ablate --method=fedsynth --seeds=0,1 '--variant=bits=8,x=a b' "
    '--output_dir=DIR'
  )
