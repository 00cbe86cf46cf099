"""The example of a plugin trains, goes on, and can be loaded."""

import dataclasses
import json
import pathlib
import subprocess
import sys

from absl import flags
import numpy as np
import pytest
import tensorflow as tf

from tff_fedsynth.client import objectives
from tff_fedsynth.compression import codec
from tff_fedsynth.errors import OptionError
from tff_fedsynth.experiments.help import entrance
from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.experiments.pictures import showing
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import loading
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.tasks import TASKS

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLE = 'examples/plugin_example.py'
FLAGS = {
  'plugin': EXAMPLE,
  'task': 'spirals',
  'model': 'spiral_mlp',
  'method': 'count_sketch',
  'compression_ratio': '4',
  'total_rounds': '2',
  'plugin_example_shrinkage': '0.5',
}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run of another process, and what it printed."""
  directory = tmp_path_factory.mktemp('run')
  given = [f'--{k}={v}' for k, v in FLAGS.items()]
  program = [sys.executable, '-m', f'{entrance.PACKAGE}.train']
  result = subprocess.run(
    [*program, *given, f'--output_dir={directory}'],
    capture_output=True,
    cwd=ROOT,
    text=True,
    timeout=300,
  )
  assert result.returncode == 0, result.stderr
  return directory, result.stdout


@pytest.fixture(scope='module')
def settings():
  """The settings of that run; what the plugin adds is gone afterwards."""
  registries = TASKS, registry.METHODS, objectives.OBJECTIVES
  before = [dict(r) for r in registries]
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(ROOT)
    yield Settings(
      plugin=(EXAMPLE,),
      task='spirals',
      model='spiral_mlp',
      method='count_sketch',
      compression_ratio=4.0,
      total_rounds=2,
      options={'plugin_example_shrinkage': 0.5},
    )
  for registry_, kept in zip(registries, before):
    registry_.clear()
    registry_.update(kept)


def test_a_command_trains_what_the_plugin_adds(trained, settings):
  directory, printed = trained
  summary = json.loads((directory / 'summary.json').read_text())
  assert 'count_sketch: 195 values in 46 buckets' in printed
  assert summary['uplink_bytes'] == 192 <= summary['model_bytes'] / 4
  assert summary['flags']['plugin'] == [EXAMPLE]
  assert f'--plugin={EXAMPLE}\n' in (directory / 'flags.txt').read_text()
  # They are a file for --flagfile, which names the plugin too.
  result = subprocess.run(
    [
      *(sys.executable, '-m', f'{entrance.PACKAGE}.train'),
      *(f'--flagfile={directory}/flags.txt', f'--output_dir={directory}'),
    ],
    capture_output=True,
    cwd=ROOT,
    text=True,
    timeout=300,
  )
  assert 'is finished' in result.stdout, result.stderr
  # The command that makes it again says the same.
  own, values = registry.own_options(), flags.FlagValues()
  settings_lib.define_flags(own, values)
  values(summary['command'].split())
  again = settings_lib.from_flags(own, values)
  assert again.by_flag() == settings.by_flag()


def test_a_run_goes_on_and_can_be_loaded(trained, settings):
  directory, _ = trained
  longer = dataclasses.replace(
    settings, output_dir=str(directory), total_rounds=3
  )
  summary = runner.execute(building.build(longer))
  assert summary['rounds'] == 3
  starts = json.loads((directory / 'provenance.json').read_text())
  assert [s['after_round'] for s in starts] == [0, 2]
  model = loading.load_keras_model(directory)
  assert model(np.zeros([5, 2], np.float32)).shape == (5, 3)
  untrained = TASKS['spirals'].build(seed=0).models['spiral_mlp'](0)
  assert np.any(model.get_weights()[0] != untrained.get_weights()[0])
  other = dataclasses.replace(longer, total_rounds=2, plugin=())
  with pytest.raises(settings_lib.SettingsError, match='--plugin: '):
    runner.read_summary(other)


def test_its_objective_trains(settings, tmp_path):
  fedsynth = dataclasses.replace(
    settings,
    output_dir=str(tmp_path),
    model='wide_spiral_mlp',
    method='fedsynth',
    compression_ratio=10.0,
    total_rounds=1,
    options={'objective': 'layerwise_l2', 'synthesis_iterations': 3},
  )
  summary = showing.execute(building.build(fedsynth))
  assert summary['options']['objective'] == 'layerwise_l2'
  # Its inputs are no images, and are shown nevertheless.
  assert (tmp_path / 'synthetic.png').exists()


def test_its_sketch_is_unbiased(settings):
  del settings
  shapes = [(4, 5), (3,)]
  values = [tf.ones(shape) for shape in shapes]
  sketch = sys.modules['plugin_example'].CountSketch.for_budget(60, shapes)
  assert sketch.buckets == 14 and sketch.message_bytes(shapes) == 60
  decoded = [
    codec.flatten(sketch.decode(sketch.encode(values, seed), shapes))
    for seed in range(300)
  ]
  np.testing.assert_allclose(np.mean(decoded, axis=0), 1.0, atol=0.4)


@pytest.mark.parametrize(
  'name, value, error',
  [
    ('plugin_example_shrinkage', 2.0, 'above 0 and at most 1, found 2.0'),
    ('spiral_noise', -1.0, 'between 0 and 1, found -1.0'),
    ('objective', 'layerwise', 'Did you mean layerwise_l2?'),
  ],
)
def test_its_options_are_checked(name, value, error, settings, tmp_path):
  method = 'fedsynth' if name == 'objective' else 'count_sketch'
  wrong = dataclasses.replace(
    settings, output_dir=str(tmp_path), method=method, options={name: value}
  )
  with pytest.raises(OptionError, match=error) as raised:
    building.build(wrong)
  assert raised.value.names == (name,)


def test_help_shows_what_it_adds(settings, capsys):
  del settings
  with pytest.raises(SystemExit) as ended:
    entrance.answer('train', ['program', '--help', f'--plugin={EXAMPLE}'])
  page = ' '.join(capsys.readouterr().out.split())
  assert ended.value.code == 0
  assert 'With spirals: spiral_mlp, wide_spiral_mlp.' in page
  assert 'update_cosine, layerwise_l2.' in page
  assert 'Method plugin_example: --plugin_example_shrinkage=X' in page
  assert '--spiral_noise=X [default: 0.05]' in page
  assert 'spirals' not in (entrance.PAGES / 'train.txt').read_text()
