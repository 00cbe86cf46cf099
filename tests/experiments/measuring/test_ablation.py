"""Settings of FedSynth compared on a few clients."""

import dataclasses
import json
import shlex

from absl import flags
import matplotlib.image
import pandas as pd
import pytest
import small_runs

from tff_fedsynth.experiments.measuring import ablation as ablation_lib
from tff_fedsynth.experiments.measuring import means
from tff_fedsynth.experiments.methods import probe
from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.experiments.records import grid as grid_lib
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.models import weights


@pytest.fixture(scope='module')
def flag_values():
  values = flags.FlagValues()
  settings_lib.define_flags(registry.own_options(), values)
  return values


def _base(output_dir):
  return small_runs.settings(
    output_dir,
    batch_size=10,
    total_rounds=1,
    rounds_per_checkpoint=10,
    synthesis_iterations=2,
  )


def test_a_variant_changes_what_it_names(flag_values):
  base = _base('x')
  changed = ablation_lib.variant_settings(
    base,
    'synthesis_iterations=30,diagnostics=true,compression_ratio=500',
    flag_values,
  )
  assert changed.compression_ratio == 500.0
  assert changed.options == {
    'num_clients': 40,
    'synthesis_iterations': 30,
    'diagnostics': True,
  }
  assert ablation_lib.variant_settings(base, '', flag_values) == base


@pytest.mark.parametrize(
  'variant, message',
  [
    ('synthetic_bits', "'synthetic_bits' is none"),
    ('bits=4', "'bits=4' is none"),
    # The clients of all rows are the same.
    ('batch_size=4', "'batch_size=4' is none"),
    ('num_clients=10', "'num_clients=10' is none"),
    ('synthetic_bits=four', 'synthetic_bits=four: .*four'),
  ],
)
def test_what_is_no_variant_is_refused(variant, message, flag_values):
  with pytest.raises(SettingsError, match=message):
    ablation_lib.variant_settings(_base('x'), variant, flag_values)


def test_rows_are_measured_on_the_same_updates(
  tmp_path, flag_values, clean_tree
):
  base = _base(tmp_path)
  more = 'synthesis_iterations=40'
  variants = {
    'base': base,
    more: ablation_lib.variant_settings(base, more, flag_values),
    'the same': base,
  }
  frame = ablation_lib.ablate(
    ablation_lib.Ablation(base, variants, (0,), (1, 2), clients=2, train=False)
  ).set_index('variant')
  assert list(frame.index) == ['base', more, 'the same']
  assert (frame.uplink_bytes == 304).all()
  assert frame.cosine[more] > frame.cosine['base'] + 0.1
  assert frame.cosine['the same'] == pytest.approx(
    frame.cosine['base'], abs=1e-4
  )
  rounds = frame[['cosine_round_1', 'cosine_round_2']]
  assert frame.cosine.to_numpy() == pytest.approx(rounds.mean(axis=1))
  assert frame.cosine_of_means[more] > frame.cosine_of_means['base'] + 0.1
  assert frame.cosine_of_means.between(0, 1).all()
  assert (frame.seconds > 0).all()
  text = (tmp_path / 'table.md').read_text()
  assert f'| {more} | 304 | {frame.cosine[more]:.3f} |' in text
  assert len(pd.read_csv(tmp_path / 'cells.csv')) == 3
  code = provenance.of_process()
  assert (frame.commit == code['commit']).all()
  _, *again = shlex.split(frame.command[more])
  values = flags.FlagValues()
  ablation_lib.define_flags(values)
  values(['program', *again])
  assert list(values['variant'].value) == [more]
  for flag in (f'variant={more}', 'seeds=0', 'probe_rounds=1,2', 'train=False'):
    assert f'--{flag}' in again
  assert 'variant' not in frame.command['base']
  assert json.loads(frame['flags'][more])['synthesis_iterations'] == 40
  assert matplotlib.image.imread(tmp_path / 'over_seconds.png').std() > 0


def _ablation(base, variants, seeds=(0,), **changes):
  fields = dict(rounds=(1,), clients=1, train=False)
  return ablation_lib.Ablation(base, variants, seeds, **{**fields, **changes})


@pytest.fixture
def no_probe(monkeypatch):
  """In place of measuring."""
  measured = probe.Probe([[0.5]], 1.0)
  monkeypatch.setattr(
    probe, 'measure', lambda setup, configs, *_: [measured] * len(configs)
  )
  monkeypatch.setattr(means.Means, 'cosine', lambda *_: 0.7)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return building.build(_base(tmp_path_factory.mktemp('runs')))


@pytest.fixture
def one_build(run, no_probe, monkeypatch):
  """In place of building each row, too."""

  def build(meter, settings):
    del meter
    setup = dataclasses.replace(run.setup, settings=settings)
    return dataclasses.replace(run, setup=setup)

  monkeypatch.setattr(building.Meter, 'build', build)


def test_a_row_is_trained(tmp_path, no_probe):
  base = _base(tmp_path)
  frame = ablation_lib.ablate(_ablation(base, {'base': base}, train=True))
  assert frame.final_accuracy.between(0.01, 1).all()
  # There is one round.
  assert (frame.last_accuracy == frame.final_accuracy).all()
  assert 'last accuracy' in (tmp_path / 'table.md').read_text()


def test_other_variants_keep_the_rows_of_those_before(
  tmp_path, flag_values, one_build
):
  base = _base(tmp_path)
  variant = lambda text: ablation_lib.variant_settings(base, text, flag_values)
  first, second = 'synthetic_bits=8', 'synthetic_bits=16'
  ablation_lib.ablate(
    _ablation(base, {'base': base, first: variant(first)}, seeds=(0, 1))
  )
  frame = ablation_lib.ablate(
    _ablation(base, {'base': base, second: variant(second)})
  )
  assert list(zip(frame.variant, frame.seed)) == [
    *(('base', 0), (first, 0), ('base', 1), (first, 1), (second, 0))
  ]
  table = (tmp_path / 'table.md').read_text()
  assert f'| {first}' in table and f'| {second}' in table


def test_a_row_that_failed_is_told_and_the_others_are_there(
  tmp_path, flag_values, one_build, monkeypatch
):
  base = _base(tmp_path)
  other = ablation_lib.variant_settings(base, 'synthetic_bits=8', flag_values)
  row, made = ablation_lib._row, []

  def fail(ablation, name, run, *measured):
    if (name, run.settings.seed) == ('base', 1):
      # All before it can be read.
      frame = pd.read_csv(tmp_path / 'cells.csv')
      assert list(zip(frame.variant, frame.seed)) == made
      raise RuntimeError('out of luck')
    made.append((name, run.settings.seed))
    return row(ablation, name, run, *measured)

  monkeypatch.setattr(ablation_lib, '_row', fail)
  ablation = _ablation(base, {'base': base, 'other': other}, seeds=(0, 1))
  with pytest.raises(
    grid_lib.FailedCellsError,
    match='^1 of 4 cells failed: base, seed 1 .*out of luck',
  ):
    ablation_lib.ablate(ablation)
  frame = pd.read_csv(tmp_path / 'cells.csv')
  expected = [('base', 0), ('other', 0), ('other', 1)]
  assert list(zip(frame.variant, frame.seed)) == made == expected


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(clients=2), "--probe_clients: '1' there, '2' now"),
    (dict(rounds=(1, 2)), "--probe_rounds: '1' there, '1,2' now"),
    (dict(train=True), "--train: 'False' there, 'True' now"),
  ],
)
def test_rows_that_were_measured_otherwise_are_never_mixed(
  changes, message, tmp_path, flag_values, one_build
):
  base = _base(tmp_path)
  ablation_lib.ablate(_ablation(base, {'base': base}))
  before = (tmp_path / 'cells.csv').read_bytes()
  other = {
    'x': ablation_lib.variant_settings(base, 'synthetic_bits=8', flag_values)
  }
  with pytest.raises(SettingsError, match=message):
    ablation_lib.ablate(_ablation(base, other, **changes))
  assert (tmp_path / 'cells.csv').read_bytes() == before


def test_rows_without_an_accuracy_are_refused(tmp_path):
  base = dataclasses.replace(_base(tmp_path), rounds_per_evaluation=2)
  _ablation(base, {'base': base})  # Nothing is trained.
  with pytest.raises(SettingsError, match='no trained model would be'):
    _ablation(base, {'base': base}, train=True)


def test_what_cannot_be_measured_is_refused(tmp_path, flag_values):
  base = _base(tmp_path)
  top_k = ablation_lib.variant_settings(
    Settings(output_dir=base.output_dir, compression_ratio=500.0),
    'method=top_k_8bit',
    flag_values,
  )
  ablation = _ablation(base, {'top_k_8bit': top_k, 'base': base})
  with pytest.raises(SettingsError, match='top_k_8bit has neither synthetic'):
    ablation_lib.ablate(ablation)
  assert not list(tmp_path.iterdir())


def test_errors_of_messages_without_a_bias(tmp_path, flag_values, no_probe):
  base = _base(tmp_path)
  variant = lambda text: ablation_lib.variant_settings(base, text, flag_values)
  drive = 'residual=drive,residual_fraction='
  variants = {'base': base, 'either': variant(drive + '0.5')}
  variants['half'] = variant(drive + '0.5,residual_alone=false')
  variants['alone'] = variant(drive + '1')
  frame = ablation_lib.ablate(_ablation(base, variants)).set_index('variant')
  assert frame.cosine.to_dict() == pytest.approx(
    {'base': 0.5, 'either': 0.5, 'half': 0.5, 'alone': float('nan')},
    nan_ok=True,
  )
  run = building.build(
    dataclasses.replace(variants['half'], output_dir=str(tmp_path / 'run'))
  )
  shapes = weights.model_shapes(run.setup.model)
  of_sketch = run.built.config.residual.codec.relative_error(shapes)
  assert frame.unbiased_error['half'] == pytest.approx(0.75 * of_sketch)
  # An error falls as 1 / bytes.
  assert frame.unbiased_error['alone'] == pytest.approx(of_sketch / 2, rel=0.2)
  # Clients that may choose take the smaller one, but for the byte that says so.
  assert frame.unbiased_error['either'] == pytest.approx(
    frame.unbiased_error['alone'], rel=0.02
  )
  assert frame.unbiased_error.isna()['base']
  table = (tmp_path / 'table.md').read_text()
  bytes_up = frame.uplink_bytes['alone']
  assert 'unbiased error' in table and f'| alone | {bytes_up} | - |' in table
  assert matplotlib.image.imread(tmp_path / 'over_seconds.png').std() > 0
