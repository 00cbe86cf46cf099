"""What a run has read is known by its content, not by its name alone."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys

import fake_comparison
import federated_files
import numpy as np
import pytest
import small_runs

from tff_fedsynth import experiments
from tff_fedsynth.experiments.comparing import comparison as comparison_lib
from tff_fedsynth.experiments.pictures import showing
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.experiments.trust import siege as siege_lib


def _write(path, seed=0):
  """A file of six clients."""
  path.unlink(missing_ok=True)
  data = {
    f'c{i}': federated_files.images(8, 3, seed=seed + i) for i in range(6)
  }
  return federated_files.save(path, data)


def _replace(path):
  """Puts another content in place of a file, which is kept beside it."""
  shutil.copy(path, path.with_suffix('.kept'))
  _write(path, seed=100)


def _restore(path):
  shutil.copy(path.with_suffix('.kept'), path)


def _settings(output_dir, path, **fields):
  return small_runs.settings(
    output_dir,
    **{
      'method': 'fedavg',
      'num_clients': None,
      'task': 'client_data',
      'client_data': str(path),
      'features': 'pixels',
      'label': 'label',
      **fields,
    },
  )


def _sha256(path):
  return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run of two rounds on a file."""
  directory = tmp_path_factory.mktemp('trained')
  path = _write(directory / 'own.sqlite')
  settings = _settings(directory / 'run', path, total_rounds=2)
  showing.execute(building.build(settings))
  return settings, path


@pytest.fixture
def replaced(trained):
  """The same, whose file is another one in the meantime."""
  _replace(trained[1])
  yield trained
  _restore(trained[1])


def test_a_run_knows_the_content_of_its_file(trained):
  settings, path = trained
  entries = json.loads(
    (path.parent / 'run' / 'provenance.json').read_text(encoding='utf-8')
  )
  assert entries[0]['files'] == {'client_data': _sha256(path)}
  # What is finished, or goes on, is not refused.
  assert runner.read_summary(settings)['rounds'] == 2
  building.build(dataclasses.replace(settings, total_rounds=3))


def test_another_file_of_that_name_is_refused(replaced):
  settings, path = replaced
  message = f'run holds results of another content of {path}. Put back'
  for total in (2, 3):
    with pytest.raises(SettingsError, match=message) as caught:
      building.build(dataclasses.replace(settings, total_rounds=total))
    assert '\n' not in str(caught.value)
  flags = [f'--{k}={v}' for k, v in settings.as_flags().items() if v]
  result = subprocess.run(
    [
      *(sys.executable, '-m', 'tff_fedsynth.experiments.train'),
      *(*flags, f'--output_dir={settings.output_dir}'),
    ],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert result.returncode == 2 and not result.stdout
  assert 'another content of' in result.stderr.splitlines()[-1]


def test_a_model_whose_file_has_changed_is_loaded_with_a_warning(
  replaced, caplog
):
  settings, path = replaced
  experiments.load_model(settings.output_dir)
  assert f'{path} has changed since' in caplog.text
  _restore(path)
  caplog.clear()
  experiments.load_model(settings.output_dir)
  assert not caplog.records


def test_a_run_of_an_older_version_goes_on(trained, tmp_path):
  settings, path = trained
  shutil.copytree(settings.output_dir, tmp_path / 'old')
  record = tmp_path / 'old' / 'provenance.json'
  entries = json.loads(record.read_text(encoding='utf-8'))
  del entries[0]['files']
  record.write_text(json.dumps(entries), encoding='utf-8')
  _replace(path)
  run = building.build(
    dataclasses.replace(
      settings, output_dir=str(tmp_path / 'old'), total_rounds=3
    )
  )
  runner.execute(run)
  assert provenance.files_of(tmp_path / 'old') == {'client_data': _sha256(path)}
  _restore(path)
  with pytest.raises(SettingsError, match='another content'):
    building.build(dataclasses.replace(run.settings, total_rounds=4))


def _plugin(directory):
  path = directory / 'plugin_of_digests.py'
  path.write_text('"""Adds nothing."""\n', encoding='utf-8')
  return path


def _of_cache(task, name):
  def make(directory):
    path = directory / name
    path.write_bytes(b'1')
    settings = Settings(task=task, options={'cache_dir': str(directory)})
    return settings, path, name

  return make


def _of_test_data(directory):
  own, path = directory / 'own', directory / 'test'
  own.write_bytes(b'0')
  path.write_bytes(b'1')
  options = {'client_data': str(own), 'test_client_data': str(path)}
  return Settings(options=options), path, 'test_client_data'


def _of_plugin(directory):
  path = _plugin(directory)
  return Settings(plugin=(str(path),)), path, f'plugin {path}'


@pytest.mark.parametrize(
  'make',
  [
    _of_test_data,
    _of_plugin,
    _of_cache('emnist_digits', 'emnist_all.sqlite'),
    _of_cache('emnist_character', 'emnist_all.sqlite'),
    _of_cache('shakespeare_character', 'shakespeare.sqlite'),
    _of_cache('stackoverflow_word', 'stackoverflow.sqlite'),
    _of_cache('stackoverflow_word', 'stackoverflow.word_count'),
  ],
)
def test_all_that_a_run_reads_is_known(make, tmp_path):
  settings, path, name = make(tmp_path)
  before = provenance.digests(settings)
  assert before[name] == _sha256(path)
  assert provenance.changed_files(before, settings) == []
  path.write_bytes(b'another')
  assert provenance.changed_files(before, settings) == [str(path)]
  # It is not there for the first time.
  path.unlink()
  none = provenance.digests(settings)
  assert none[name] is None
  assert provenance.changed_files(before, settings) == []
  path.write_bytes(b'another')
  assert provenance.changed_files(none, settings) == [str(path)]


def test_a_module_is_known_by_its_file():
  settings = Settings(plugin=('federated_files',))
  with open(federated_files.__file__, 'rb') as file:
    expected = hashlib.sha256(file.read()).hexdigest()
  assert provenance.digests(settings) == {'plugin federated_files': expected}


@pytest.mark.parametrize('methods', [('top_k',), ('drive', 'top_k')])
def test_rows_of_another_file_are_never_mixed(methods, tmp_path, monkeypatch):
  fake = fake_comparison.FakeRunner(monkeypatch)
  path = _write(tmp_path / 'own.sqlite')

  def compare(methods):
    comparison = fake_comparison.comparison(tmp_path / 'table', methods=methods)
    options = dict(client_data=str(path), features='pixels', label='label')
    base = dataclasses.replace(
      comparison.base, task='client_data', options=options
    )
    comparison_lib.compare(dataclasses.replace(comparison, base=base))

  compare(('drive',))
  executed = len(fake.executed)
  _replace(path)
  before = (tmp_path / 'table' / 'results.csv').read_bytes()
  with pytest.raises(SettingsError, match=f'another content of {path}'):
    compare(methods)
  assert len(fake.executed) == executed
  assert (tmp_path / 'table' / 'results.csv').read_bytes() == before
  # As it was before there were digests.
  shared = json.loads(
    (tmp_path / 'table' / 'flags.json').read_text(encoding='utf-8')
  )
  del shared['files']
  (tmp_path / 'table' / 'flags.json').write_text(
    json.dumps(shared), encoding='utf-8'
  )
  compare(methods)
  assert len(fake.executed) == executed + 1


def test_attacks_on_another_file_are_never_mixed(tmp_path, monkeypatch):
  path = _write(tmp_path / 'own.sqlite')
  settings = _settings(
    tmp_path / 'table', path, method='fedsynth', compression_ratio=100.0
  )
  summary = dict(final_accuracy=0.5, diverged=None, **provenance.of_process())
  monkeypatch.setattr(siege_lib, '_execute', lambda *_: summary)
  siege = siege_lib.Siege(
    settings, ('nan',), (1,), (0,), siege_lib.defenses(1.0)
  )
  siege_lib.besiege(siege)
  siege_lib.besiege(siege)
  _replace(path)
  with pytest.raises(SettingsError, match='another content'):
    siege_lib.besiege(dataclasses.replace(siege, attacks=('zeros',)))


def test_large_files_are_hashed_once(tmp_path, monkeypatch):
  path = tmp_path / 'large'
  path.write_bytes(np.random.RandomState(0).bytes(3_000_000))
  settings = Settings(options={'client_data': str(path)})
  expected = {'client_data': _sha256(path)}
  assert provenance.digests(settings) == expected
  monkeypatch.setattr(hashlib, 'file_digest', None)
  assert provenance.digests(settings) == expected
