"""Whole runs of the binaries' code, on few clients and rounds."""

import csv
import dataclasses
import json
import pathlib
import subprocess
import sys
import types

from absl import flags
import matplotlib.image
import numpy as np
import pytest
import tensorflow_federated as tff

from tff_fedsynth import BudgetTooSmallError
from tff_fedsynth import Payload
from tff_fedsynth import SyntheticSpecError
from tff_fedsynth.errors import OptionError
from tff_fedsynth.experiments.basics import training
from tff_fedsynth.experiments.methods import probe
from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import rounds
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.experiments.workers import cli
from tff_fedsynth.server.central_privacy import CentralPrivacy
from tff_fedsynth.server.central_privacy import PrivacyError
from tff_fedsynth.tasks.federated.task import TaskError


def _settings(output_dir, **kwargs):
  """A small run; what is no field of `Settings` goes to its options."""
  small = dict(
    num_clients=40,
    clients_per_round=2,
    local_epochs=1,
    batch_size=25,
    total_rounds=3,
    rounds_per_checkpoint=1,
  )
  if kwargs.get('method', 'fedsynth') == 'fedsynth':
    small.update(synthesis_iterations=5, compression_ratio=2000)
  values = {k: v for k, v in {**small, **kwargs}.items() if v is not None}
  fields = {f.name for f in dataclasses.fields(Settings)}
  return Settings(
    output_dir=str(output_dir),
    **{k: v for k, v in values.items() if k in fields},
    options={k: v for k, v in values.items() if k not in fields},
  )


def _train(output_dir, **kwargs):
  return runner.execute(building.build(_settings(output_dir, **kwargs)))


def _metrics(output_dir):
  """Rows of metrics.csv without the columns that hold seconds."""
  with (pathlib.Path(output_dir) / 'metrics.csv').open() as file:
    return [
      {k: v for k, v in row.items() if not k.endswith('_in_seconds')}
      for row in csv.DictReader(file)
    ]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A run that was never stopped: its directory and summary."""
  directory = tmp_path_factory.mktemp('runs') / 'fedsynth'
  return directory, _train(directory)


def test_a_run_writes_all_its_results(finished):
  directory, summary = finished
  assert {p.name for p in directory.iterdir()} == {
    'checkpoints',
    'flags.txt',
    'metrics.csv',
    'provenance.json',
    'summary.json',
    'synthetic.png',
    'tensorboard',
  }
  assert json.loads((directory / 'summary.json').read_text()) == summary
  assert list((directory / 'tensorboard').glob('events*'))
  flags_text = (directory / 'flags.txt').read_text().splitlines()
  assert '--method=fedsynth' in flags_text and '--seed=0' in flags_text
  picture = matplotlib.image.imread(directory / 'synthetic.png')
  assert picture.std() > 0.05  # Not a blank page.


def test_summary(finished):
  directory, summary = finished
  assert summary['parameters'] == 159_010
  assert summary['model_bytes'] == 636_040
  assert summary['uplink_bytes'] <= 636_040 / 2000
  assert summary['compression_ratio'] == pytest.approx(
    636_040 / summary['uplink_bytes']
  )
  rows = _metrics(directory)
  assert [int(r['round']) for r in rows] == [0, 1, 2, 3]
  accuracies = [float(r[rounds.ACCURACY]) for r in rows]
  # The first one is of the untrained model.
  assert summary['final_accuracy'] == pytest.approx(np.mean(accuracies[1:]))
  assert summary['final_evaluations'] == 3
  assert summary['last_accuracy'] == accuracies[-1]
  assert summary['best_accuracy'] == max(accuracies[1:])
  assert {n: summary[n] for n in provenance.COLUMNS} == provenance.of_process()
  assert summary['command'].startswith('fedsynth-train --task=mnist_digits ')
  assert summary['flags']['synthesis_iterations'] == 5
  assert summary['rounds'] == 3
  assert summary['seconds_per_round'] > 0
  for name in ('task', 'method', 'model', 'seed', 'downlink_bytes'):
    assert name in summary
  assert float(rows[-1]['finalizer/rejected_clients']) == 0
  assert float(rows[-1]['client_work/synthesis/cosine']) > 0


def test_a_run_that_is_never_evaluated_says_so(tmp_path):
  summary = _train(
    tmp_path,
    method='fedavg',
    compression_ratio=None,
    total_rounds=1,
    rounds_per_evaluation=2,
  )
  for name in ('final_accuracy', 'last_accuracy', 'best_accuracy'):
    assert summary[name] is None
  assert json.loads((tmp_path / 'summary.json').read_text()) == summary
  line = training.result(summary)
  assert 'was not evaluated after round 0' in line
  assert 'rounds_per_evaluation' in line


def test_the_result_line(finished):
  summary = dict(finished[1], last_accuracy=0.5, final_accuracy=0.25)
  assert training.result(summary) == (
    'Accuracy 0.5000 in the last evaluation, 0.2500 in the mean of the last 3, '
    'after 3 rounds at 1/2193 of the model.'
  )


def test_the_same_seed_gives_the_same_metrics(finished, tmp_path):
  _train(tmp_path / 'again')
  assert _metrics(tmp_path / 'again') == _metrics(finished[0])


class _StoppedError(Exception):
  pass


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
  finished, tmp_path, monkeypatch
):
  """Stops before the second checkpoint, with metrics of round 2 written."""
  directory = tmp_path / 'stopped'
  run = building.build(_settings(directory))
  save = tff.program.FileProgramStateManager.save

  async def save_or_stop(self, state, version):
    if version == 2:
      raise _StoppedError()
    await save(self, state, version)

  with monkeypatch.context() as patch:
    patch.setattr(tff.program.FileProgramStateManager, 'save', save_or_stop)
    with pytest.raises(_StoppedError):
      runner.execute(run)
  assert not (directory / 'summary.json').exists()
  assert [int(r['round']) for r in _metrics(directory)] == [0, 1, 2]
  here = provenance.of_process()
  other = {**here, 'commit': 'e' * 40}
  monkeypatch.setattr(provenance, 'of_process', lambda: other)
  summary = runner.execute(building.build(run.settings))
  assert _metrics(directory) == _metrics(finished[0])
  # The first round is of the one, the others are of the other.
  assert summary['commit'] == f'{here["commit"]}+{"e" * 40}'
  assert summary['final_accuracy'] == finished[1]['final_accuracy']


def test_running_a_finished_run_again_changes_nothing(finished):
  directory, summary = finished
  before = (directory / 'metrics.csv').read_bytes()
  assert runner.execute(building.build(_settings(directory))) == summary
  assert (directory / 'metrics.csv').read_bytes() == before


def test_other_flags_in_the_same_directory_are_refused(finished):
  directory, _ = finished
  before = (directory / 'metrics.csv').read_bytes()
  with pytest.raises(SettingsError, match="--seed: '0' there, '7' now"):
    building.build(_settings(directory, seed=7))
  assert (directory / 'metrics.csv').read_bytes() == before


def test_numbers_may_be_written_in_any_way():
  old = dict(compression_ratio='500', seed='0', task='a', gone='')
  new = dict(compression_ratio='500.0', seed='0', task='b', model='m')
  assert settings_lib.differences(old, new) == {
    'model': "--model: '' there, 'm' now",
    'task': "--task: 'a' there, 'b' now",
  }


def test_a_directory_of_something_else_is_refused(tmp_path):
  (tmp_path / 'thesis.tex').write_text('years of work')
  with pytest.raises(SettingsError, match='is not empty and holds no run'):
    building.build(_settings(tmp_path))


@pytest.mark.parametrize('method', ['fedavg', 'drive'])
def test_other_methods_run(method, tmp_path):
  ratio = None if method == 'fedavg' else 500
  summary = _train(
    tmp_path, method=method, compression_ratio=ratio, total_rounds=1
  )
  expected = 636_044 if ratio is None else 1272
  assert summary['uplink_bytes'] == expected
  assert not (tmp_path / 'synthetic.png').exists()


def test_the_seed_alone_decides_data_and_initial_weights(tmp_path):
  runs = [
    building.build(
      _settings(
        tmp_path / f'{m}_{seed}',
        method=m,
        compression_ratio=r,
        model='cnn',
        seed=seed,
      )
    )
    for m, r, seed in (
      ('fedavg', None, 0),
      ('random_mask', 100, 0),
      ('fedavg', None, 1),
    )
  ]
  weights = [
    b''.join(w.tobytes() for w in run.model.initial_weights[0]) for run in runs
  ]
  batches = [
    [
      (x.numpy().tobytes(), y.numpy().tobytes())
      for data in run.setup.round_data(2)
      for x, y in data
    ]
    for run in runs
  ]
  assert len(batches[0]) == 8  # Two clients of 100 digits, 25 a batch.
  for same, other in (weights[:2], weights[2]), (batches[:2], batches[2]):
    assert same[0] == same[1] != other


def test_the_share_of_the_residual_is_measured_once(tmp_path, monkeypatch):
  settings = dict(
    method='fedsynth_drive',
    compression_ratio=500,
    synthesis_iterations=5,
    total_rounds=1,
  )
  run = building.build(_settings(tmp_path, **settings))
  config = run.built.config
  fraction = float(run.built.chosen['residual_fraction'])
  assert 0 < fraction < 1
  sketch = config.residual.codec.message_bytes(
    [w.shape for w in run.model.initial_weights[0]]
  )
  assert (
    run.communication.uplink_bytes
    == Payload(config.spec).data_bytes + sketch + 4
  )
  # The rest of the share goes to the sketch.
  assert 0.99 * 1272 < run.communication.uplink_bytes <= 1272
  assert sketch >= fraction * 1272 - 4
  runner.execute(run)

  # The run goes on with what was measured.
  def fail(*_):
    raise AssertionError('measured again')

  monkeypatch.setattr(probe, 'measure', fail)
  again = building.build(_settings(tmp_path, **settings))
  assert again.built.description == run.built.description


def test_the_least_error_decides_the_share(tmp_path, monkeypatch):
  def build(name, squares, **options):
    probes = [probe.Probe([[np.sqrt(s)]], 1.0) for s in squares]
    monkeypatch.setattr(probe, 'measure', lambda *_: probes)
    settings = _settings(
      tmp_path / name,
      method='fedsynth_drive',
      compression_ratio=500,
      clients_per_round=2,
      **options,
    )
    return building.build(settings).built

  # Nearly 24 / share sketches are needed to halve an error, and there are 1000:
  # (1 - cos^2) / (1 + share / .024) is 1, .11, .006, .019, .015, .023 for all.
  squares = [0.0, 0.0, 0.9, 0.5, 0.5]
  best = build('best', squares)
  assert best.chosen == {'residual_fraction': '0.4'}
  sketch = best.config.residual
  assert sketch.codec.kept_signs > 0.4 * 8 * 1272 - 100
  error = np.pi / 2 * 159_010 / sketch.codec.kept_signs - 1
  assert sketch.scale == pytest.approx(1 / (1 + error / 1000), rel=0.01)
  unbiased = build('unbiased', squares, residual_scale='1')
  assert unbiased.chosen == {'residual_fraction': '0.4'}
  assert unbiased.config.residual.scale == 1
  # Synthetic data that are worth nothing leave the sketch alone.
  alone = build('alone', [0.0, 0.0, 0.0, 0.0, 0.0])
  assert alone.chosen == {'residual_fraction': '1.0'}
  assert alone.config is None and 'rotated coordinates' in alone.description
  # Those that miss nothing need none.
  none = build('none', [0.999, 0.5, 0.5, 0.5, 0.5])
  assert none.chosen == {'residual_fraction': '0.0'}
  assert none.config.residual is None


def test_iterations_fill_the_time_asked_for(tmp_path, monkeypatch):
  def build(seconds):
    asked = []

    def measure(setup, configs, **_):
      asked.extend(config.iterations for config in configs)
      return [probe.Probe([[1.0]], seconds(c.iterations)) for c in configs]

    monkeypatch.setattr(probe, 'measure', measure)
    settings = _settings(
      tmp_path, client_time_ratio=3.0, synthesis_iterations=None
    )
    return building.build(settings).built, asked

  # Local training takes .5 s, an iteration .04 s: 1 s more is 25 of them.
  built, asked = build(lambda n: 0.5 + 0.04 * n)
  assert built.config.iterations == 25 and len(asked) == 2
  assert built.chosen['synthesis_iterations'] == 25
  assert 'in 25 iterations' in built.description
  with pytest.raises(OptionError, match='too noisy'):
    build(lambda n: 0.5)


def test_a_run_with_a_defence(tmp_path):
  _train(
    tmp_path,
    total_rounds=1,
    update_clip_norm='1e-6',
    aggregation='trimmed_mean',
    max_client_weight=1.0,
  )
  before, after = (float(r['evaluation/loss']) for r in _metrics(tmp_path))
  # Clipped to next to nothing.
  assert after == pytest.approx(before, abs=1e-4)


def test_a_private_run_tells_epsilon(tmp_path):
  summary = _train(
    tmp_path,
    total_rounds=1,
    client_weighting='uniform',
    dp_clip_norm=0.1,
    dp_noise_multiplier=2.0,
    dp_delta=1e-4,
  )
  # Two of 40 clients, one round.
  expected = CentralPrivacy(0.1, 2.0, 2, 1e-4).epsilon(40, 1)
  assert summary['epsilon'] == expected and summary['delta'] == 1e-4


def test_explicit_spec_and_objective(tmp_path):
  run = building.build(
    _settings(
      tmp_path,
      objective='data_loss',
      compression_ratio=None,
      synthesis_iterations=None,
      synthetic_steps=5,
      synthetic_batch_size=2,
      synthetic_bits=8,
      synthetic_resolution=7,
      synthesis_learning_rate=0.05,
      synthesis_initial_stddev=0.3,
      synthesis_initial_step_size=0.5,
      diagnostics=True,
      client_weighting='uniform',
    )
  )
  spec = run.built.config.spec
  assert (spec.steps, spec.batch_size, spec.bits, spec.resolution) == (
    5,
    2,
    8,
    7,
  )
  assert spec.label_form == 'distributions'  # The paper's, for its loss.
  assert run.built.config.initial_stddev == 0.3
  assert run.communication.uplink_bytes == Payload(spec).data_bytes + 4


@pytest.mark.parametrize(
  'arguments, error, message',
  [
    (dict(method='zip'), OptionError, "Unknown method 'zip'. Choose one of"),
    (dict(method='driv'), OptionError, 'Did you mean drive?'),
    (dict(task='cifar'), OptionError, "Unknown task 'cifar'"),
    (dict(model='vit'), OptionError, "Unknown model 'vit'.*mnist_digits"),
    (dict(data_source='web'), OptionError, "Unknown data_source 'web'"),
    (dict(client_weighting='x'), OptionError, "Unknown client_weighting 'x'"),
    (dict(total_rounds=0), OptionError, 'total_rounds must be at least 1'),
    (
      dict(clients_per_round=41),
      SettingsError,
      '--clients_per_round=41 is more than the 40 clients of the task',
    ),
    (dict(compression_ratio=-1.0), OptionError, 'must be at least 0.001'),
    (
      dict(uplink_bytes=100),
      SettingsError,
      '--compression_ratio and --uplink_bytes are both budgets',
    ),
    (
      dict(method='random_mask', objective='data_loss'),
      SettingsError,
      '--objective goes only with --method=fedsynth, --method=fedsynth_drive, '
      '--method=fedsynth_cross_polytope, '
      'but --task is mnist_digits and --method is random_mask.',
    ),
    (
      dict(method='drive', random_mask_bits=8),
      SettingsError,
      '--random_mask_bits goes only with --method=random_mask, --method=random_',
    ),
    (
      dict(method='random_mask_8bit', random_mask_bits=32),
      SettingsError,
      '--random_mask_bits goes only with --method=random_mask, --method=random_',
    ),
    (
      dict(method='drive', drive_scale='big'),
      OptionError,
      "Unknown drive_scale 'big'",
    ),
    (
      dict(dirichlet_alpha=0.3),
      OptionError,
      'dirichlet_alpha goes only with partition=dirichlet',
    ),
    (dict(partition='dirichlet'), TaskError, 'needs a dirichlet_alpha'),
    (dict(partition='halves'), OptionError, 'Unknown partition'),
    (dict(objective='l3'), OptionError, 'Unknown objective'),
    (dict(synthesis_iterations=0), OptionError, 'must be at least 1'),
    (dict(objective='data_loss'), OptionError, 'one step a real batch'),
    (dict(synthetic_bits=5), OptionError, 'synthetic_bits must be one of'),
    (
      dict(synthetic_resolution=29),
      SyntheticSpecError,
      'synthetic_resolution must be between 1 and 28',
    ),
    (dict(compression_ratio=1e6), BudgetTooSmallError, 'take 22 bytes'),
    (
      dict(method='random_mask', compression_ratio=1e6),
      BudgetTooSmallError,
      'RandomMask uploads at least 8 bytes beside the weight',
    ),
    (
      dict(method='fedavg', compression_ratio=2.0),
      BudgetTooSmallError,
      'fedavg uploads 636044 bytes and cannot go lower',
    ),
    (
      dict(update_clip_norm='short'),
      OptionError,
      "update_clip_norm must be a number, or adaptive, found 'short'",
    ),
    (dict(update_clip_norm='-1'), OptionError, 'clip_norm must be above 0'),
    (dict(aggregation='mode'), OptionError, "Unknown aggregation 'mode'"),
    (
      dict(residual='drive', residual_fraction='1', aggregation='median'),
      OptionError,
      'the sketch takes the whole budget',
    ),
    (dict(client_time_ratio=1.0), OptionError, 'must be above 1'),
    (dict(client_time_ratio=2.0), OptionError, 'Give one'),
    (
      dict(
        client_time_ratio=2.0, synthesis_iterations=None, objective='data_loss'
      ),
      OptionError,
      'takes one step a real batch',
    ),
    (dict(dp_clip_norm=1.0), OptionError, 'Give both or none'),
    (dict(dp_delta=1e-6), OptionError, 'needs dp_clip_norm'),
    (
      dict(dp_clip_norm=1.0, dp_noise_multiplier=1.0),
      PrivacyError,
      'Choose uniform',
    ),
    (
      dict(
        dp_clip_norm=1.0,
        dp_noise_multiplier=1.0,
        client_weighting='uniform',
        aggregation='median',
      ),
      PrivacyError,
      'aggregation=median cannot be combined',
    ),
    (
      dict(dp_clip_norm=1.0, dp_noise_multiplier=1.0, residual='drive'),
      OptionError,
      'residual_fraction as a number',
    ),
    (
      dict(
        dp_clip_norm=1.0, dp_noise_multiplier=0.0, client_weighting='uniform'
      ),
      OptionError,
      'dp_noise_multiplier must be above 0',
    ),
    (dict(residual='top_k'), OptionError, "Unknown residual 'top_k'"),
    (dict(residual_fraction='0.5'), OptionError, 'Give residual as well'),
    (
      dict(residual='drive', residual_fraction='most'),
      OptionError,
      "must be a number, or auto, found 'most'",
    ),
    (
      dict(residual='drive', residual_fraction='1.5'),
      OptionError,
      'must be between 0 and 1',
    ),
    (dict(residual_scale='0.5'), OptionError, 'Give residual as well'),
    (
      dict(residual='drive', residual_scale='0'),
      OptionError,
      'must be above 0 and at most 1',
    ),
    (
      dict(residual='drive', compression_ratio=None),
      SettingsError,
      '--method=fedsynth needs a budget: give --compression_ratio or '
      '--uplink_bytes, or all of --synthetic_steps, --synthetic_batch_size and '
      '--synthetic_bits.',
    ),
    (
      dict(
        residual='drive',
        compression_ratio=None,
        synthetic_steps=1,
        synthetic_batch_size=1,
        synthetic_bits=8,
      ),
      OptionError,
      'residual shares a budget. Give compression_ratio or uplink_bytes',
    ),
    (
      dict(method='fedsynth_drive'),
      SettingsError,
      '--method=fedsynth_drive needs a budget: give --compression_ratio or '
      '--uplink_bytes.$',
    ),
    (
      dict(method='threesfc'),
      SettingsError,
      '--uplink_bytes, or --synthetic_batch_size.$',
    ),
    (
      dict(method='top_k'),
      SettingsError,
      '--method=top_k needs a budget: give --compression_ratio or '
      '--uplink_bytes.$',
    ),
    (
      dict(residual='drive', residual_fraction='0.99'),
      BudgetTooSmallError,
      'smallest synthetic data',
    ),
    (dict(output_dir=''), SettingsError, '--output_dir is required'),
  ],
)
def test_refusals_come_before_training_and_write_nothing(
  arguments, error, message, tmp_path
):
  arguments = {'output_dir': tmp_path / 'new', **arguments}
  with pytest.raises(error, match=message):
    building.build(_settings(**arguments))
  assert not (tmp_path / 'new').exists()
  assert issubclass(error, cli.USER_ERRORS)


def test_the_binary_prints_errors_with_flags_and_without_a_traceback(tmp_path):
  result = subprocess.run(
    [
      sys.executable,
      '-m',
      'tff_fedsynth.experiments.train',
      '--method=fedavg',
      '--partition=dirichlet',
      f'--output_dir={tmp_path / "new"}',
    ],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert result.returncode == 2
  # The task, which raised it, has options and no flags.
  assert (
    'Error: --partition=dirichlet needs a --dirichlet_alpha, for example 0.3.\n'
  ) in result.stderr
  assert 'Traceback (most recent call last):\n  File "/' not in result.stderr
  assert not (tmp_path / 'new').exists()


def test_every_setting_is_a_flag_with_its_default():
  values = flags.FlagValues()
  own = building.own_options()
  settings_lib.define_flags(own, values)
  values(['program', '--output_dir=x', '--seed=3', '--nodiagnostics'])
  settings = settings_lib.from_flags(own, values)
  assert settings == Settings(
    output_dir='x', seed=3, options={'diagnostics': False}
  )


def test_options_of_methods_reach_them(tmp_path):
  run = building.build(
    _settings(
      tmp_path, method='low_rank', compression_ratio=50, low_rank_bits=8
    )
  )
  assert run.built.description.endswith('factors in 8 bits')
  assert '--low_rank_bits=8' in [
    f'--{k}={v}' for k, v in run.settings.as_flags().items()
  ]


@pytest.mark.parametrize('name', METHODS)
def test_what_a_name_fixes_is_an_option(name):
  plugin = METHODS[name]
  assert not plugin.fixed.keys() & plugin.flags.keys()
  declared = {flag for group in plugin.groups for flag in group.flags}
  assert plugin.fixed.keys() <= declared


@pytest.mark.parametrize(
  'method, ratio',
  [
    ('fedsynth', 19),
    ('goetz_tewari', 19),
    ('low_rank', 19),
    ('threesfc', 19),
    ('qsgd', 15.5),
    ('tff_compression', 3.38),
  ],
)
def test_methods_fill_a_budget_and_keep_it(method, ratio, tmp_path):
  run = building.build(
    _settings(
      tmp_path,
      method=method,
      compression_ratio=ratio,
      synthesis_iterations=None,
    )
  )
  used = run.communication.uplink_bytes
  assert 0.9 * 636_040 / ratio <= used <= 636_040 / ratio
  assert run.built.description


def test_the_meter_reads_runs_of_the_same_bytes_once(monkeypatch):
  handed = []

  def build(settings, measured):
    handed.append(measured)
    chosen = {'residual_fraction': '0.4'} if settings.method == 'auto' else {}
    return types.SimpleNamespace(
      communication=f'of {settings.method}',
      built=types.SimpleNamespace(chosen=chosen),
    )

  monkeypatch.setattr(runner, 'build', build)
  meter = building.Meter()
  base = Settings(method='drive', compression_ratio=500.0)
  for changed in (
    dict(),
    dict(seed=1, server_learning_rate=0.3),
    dict(compression_ratio=100.0),
    dict(options={'drive_scale': 'mse'}),
    dict(method='auto'),
    dict(method='auto', seed=1),  # May have chosen otherwise.
  ):
    meter.build(dataclasses.replace(base, **changed))
  assert handed == [None, 'of drive', None, None, None, None]
