"""Clients that lie, and payloads of random bytes."""

import dataclasses
import json
import shlex

from absl import flags as absl_flags
import conftest
import numpy as np
import pytest
import tensorflow as tf

from tff_fedsynth import SyntheticSpec
from tff_fedsynth.errors import OptionError
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.reporting import costs
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.experiments.trust import poisoning
from tff_fedsynth.experiments.trust import siege as siege_lib
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload import replay
from tff_fedsynth.server import defense as defense_lib
from tff_fedsynth.server import finalizer
from tff_fedsynth.server.defense import Defense

MODEL = conftest.make_classifier()
WEIGHTS = tuple(map(tf.constant, MODEL.initial_weights[0])), ()
# A case takes about .2 ms.
FUZZ_CASES = 25_000


def _payloads(spec, seeds, scales=1.0):
  """Honest payloads, stacked."""
  payloads = []
  for seed in seeds:
    variables = encoding.initialize(spec, tf.constant([seed, 0]), 1.0, 1.0)
    scale = tf.fill(spec.scale_shape, tf.constant(scales))
    payloads.append(encoding.encode(spec, variables, scale))
  return {name: tf.stack([p[name] for p in payloads]) for name in payloads[0]}


def _average(spec, payloads, weights, **fields):
  update, reasons = tf.function(
    lambda: finalizer.replay_and_average(
      MODEL, WEIGHTS, spec, payloads, weights, defense=Defense(**fields)
    )
  )()
  return np.concatenate([np.ravel(u) for u in update]), reasons.numpy()


def _attacked(name, payloads, weights, attackers):
  first = lambda t: t[:attackers]
  lies, lying = poisoning.ATTACKS[name](
    {k: first(p) for k, p in payloads.items()}, first(weights)
  )
  assert {k: (p.dtype, p.shape) for k, p in lies.items()} == {
    k: (p.dtype, first(p).shape) for k, p in payloads.items()
  }
  return (
    {k: tf.concat([lies[k], p[attackers:]], 0) for k, p in payloads.items()},
    tf.concat([lying, weights[attackers:]], 0),
  )


@pytest.mark.parametrize('bits', [32, 4])
@pytest.mark.parametrize('name', poisoning.ATTACKS)
def test_no_attack_gives_a_broken_update(name, bits):
  spec = SyntheticSpec((6,), (3,), batch_size=2, bits=bits)
  payloads, weights = _attacked(
    name, _payloads(spec, range(5)), tf.ones([5]), attackers=2
  )
  update, reasons = _average(spec, payloads, weights)
  assert np.isfinite(update).all()
  # What honest clients could have sent is not refused.
  refused = {'nan', 'infinity', 'huge_values', 'huge_scale'}
  if name != 'random_bytes':
    assert reasons.sum() == (2 if name in refused else 0)
  if name in refused:
    honest = {k: p[2:] for k, p in payloads.items()}
    expected, _ = _average(spec, honest, tf.ones([3]))
    np.testing.assert_allclose(update, expected, rtol=1e-5, atol=1e-7)


def test_pushing_away_is_the_negative_update():
  spec = SyntheticSpec((6,), (3,), bits=8)
  honest = _payloads(spec, range(3))
  alone = np.stack(
    [
      _average(spec, {k: p[i : i + 1] for k, p in honest.items()}, tf.ones(1))[
        0
      ]
      for i in range(3)
    ]
  )
  payloads, weights = _attacked('push_away', honest, tf.ones([3]), 1)
  update, _ = _average(spec, payloads, weights)
  signs = np.array([[-1.0], [1.0], [1.0]])
  expected = (signs * alone).mean(axis=0)
  np.testing.assert_allclose(update, expected, rtol=1e-5, atol=1e-8)
  payloads, weights = _attacked(
    'push_away_and_lying_weight', honest, tf.ones([3]), 1
  )
  update, _ = _average(spec, payloads, weights)
  expected = (1000 * -alone[0] + alone[1] + alone[2]) / 1002
  np.testing.assert_allclose(update, expected, rtol=1e-5, atol=1e-8)
  update, _ = _average(spec, payloads, weights, max_client_weight=1.0)
  expected = (signs * alone).mean(axis=0)
  np.testing.assert_allclose(update, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
  'fields',
  [
    dict(bits=32),
    dict(bits=8, batch_size=2),
    dict(bits=4, steps=2),
    dict(bits=2),
  ],
)
def test_random_bytes_never_give_a_number_that_is_not_finite(fields):
  spec = SyntheticSpec((6,), (3,), **fields)
  specs = encoding.message_specs(spec)
  honest = {k: p[0] for k, p in _payloads(spec, [0]).items()}

  def random_payload(i):
    """Random bits, in all of a payload or in one or two fields of a true one."""
    payload = {}
    changed = tf.random.stateless_uniform([len(specs)], [i, -1]) < 0.3
    changed = tf.logical_or(changed, tf.equal(i % 2, 0))
    for j, (name, s) in enumerate(specs.items()):
      bits = tf.random.stateless_uniform(
        s.shape, [i, j], minval=None, maxval=None, dtype=tf.int32
      )
      # Random exponents: half of the numbers would be beyond all bounds.
      floats = tf.bitcast(bits, tf.float32)
      small = tf.math.asinh(tf.where(tf.math.is_finite(floats), floats, 1.0))
      floats = tf.where(tf.equal(i % 3, 0), floats, small)
      other = floats if s.dtype.is_floating else bits & 255
      other = tf.cast(other, s.dtype)
      payload[name] = tf.where(changed[j], other, honest[name])
    return payload

  @tf.function
  def run(i):
    payload = random_payload(i)
    data = encoding.decode(spec, payload, MODEL, WEIGHTS)
    update = replay.replay(MODEL, WEIGHTS, data, spec.loss_fn)
    reason = defense_lib.rejection(Defense(), data, update, tf.constant(1.0))
    accepted = tf.equal(reason, len(defense_lib.REASONS))
    finite = tf.reduce_all(
      [tf.reduce_all(tf.math.is_finite(u)) for u in update]
    )
    return reason, tf.logical_and(accepted, tf.logical_not(finite))

  @tf.function
  def run_all():
    return tf.map_fn(
      run,
      tf.range(FUZZ_CASES),
      fn_output_signature=(tf.int32, tf.bool),
      parallel_iterations=1,
    )

  reasons, broken = run_all()
  counts = np.bincount(reasons, minlength=len(defense_lib.REASONS) + 1)
  assert not broken.numpy().any()
  # The cases reach every check and go past all of them.
  names = dict(zip(defense_lib.REASONS, counts))
  assert names['non_finite_payload'] > 100 and names['out_of_bounds'] > 100
  assert counts[-1] > 1000


def _base(output_dir):
  return Settings(
    output_dir=str(output_dir),
    compression_ratio=2000.0,
    clients_per_round=2,
    local_epochs=1,
    batch_size=25,
    total_rounds=2,
    options={'num_clients': 40, 'synthesis_iterations': 2},
  )


def test_a_siege_counts_what_was_refused(tmp_path):
  all_defenses = siege_lib.defenses(200.0)
  chosen = {n: all_defenses[n] for n in ('bounds (default)',)}
  siege = siege_lib.Siege(_base(tmp_path), ('nan',), (1,), (0,), chosen)
  frame = siege_lib.besiege(siege).set_index('attack')
  # One attacker in each of two rounds.
  assert frame.rejected_clients.to_dict() == {'none': 0, 'nan': 2}
  lines = (tmp_path / 'table.md').read_text().splitlines()
  assert '| attack | attackers | bounds (default) |' in lines
  assert len([line for line in lines if line.startswith('|')]) == 4
  row = frame.loc['nan']
  assert (row.commit, row.tree) == (
    provenance.of_process()['commit'],
    provenance.of_process()['tree'],
  )
  assert row.last_accuracy == costs.last_accuracy(
    tmp_path / 'runs/nan_1/bounds_(default)/seed_0/metrics.csv'
  )
  _, *flags = shlex.split(row.command)
  values = absl_flags.FlagValues()
  siege_lib.define_flags(values)
  values(['program', *flags])
  assert row.command.startswith('fedsynth-attack ')
  for flag in ('attacks=nan', 'attackers=1', 'seeds=0', 'num_clients=40'):
    assert f'--{flag}' in flags
  assert not any(f.startswith(('--seed=', '--weight_cap')) for f in flags)
  assert json.loads(row['flags'])['attacks'] == 'nan'
  summary = tmp_path / 'runs/nan_1/bounds_(default)/seed_0/summary.json'
  assert json.loads(summary.read_text())['command'] == row.command


def _fake_runs(monkeypatch):
  """In place of training; the cells that are run."""
  ran = []

  def run(siege, attack, attackers, name, seed):
    ran.append((attack, attackers, name, seed))
    return dict(
      attack=attack,
      attackers=attackers,
      defense=name,
      seed=seed,
      final_accuracy=0.5,
      last_accuracy=0.75,
      rejected_clients=0,
      **provenance.of_process(),
      command='fedsynth-attack',
    )

  monkeypatch.setattr(siege_lib, '_run', run)
  return ran


def test_other_attacks_keep_the_rows_of_those_before(tmp_path, monkeypatch):
  _fake_runs(monkeypatch)
  code = dict.fromkeys(provenance.COLUMNS, '1') | dict(tree='clean')
  monkeypatch.setattr(provenance, 'of_process', lambda: code)
  siege = siege_lib.Siege(
    _base(tmp_path), ('nan', 'zeros'), (1,), (0, 1), siege_lib.defenses(200.0)
  )
  first = siege_lib.besiege(siege)
  assert len(first) == 3 * 5 * 2
  later = {**code, 'commit': '2'}
  monkeypatch.setattr(provenance, 'of_process', lambda: later)
  capped = siege_lib.defenses(50.0)
  name = next(n for n in capped if '50' in n)
  second = dataclasses.replace(
    siege, attacks=('infinity',), seeds=(0,), defenses={name: capped[name]}
  )
  frame = siege_lib.besiege(second)
  assert len(frame) == 30 + 2
  # Another cap is another defence: its rows stand beside the others.
  assert set(frame.defense) == {*siege.defenses, name}
  assert set(frame.attack) == {'none', 'nan', 'zeros', 'infinity'}
  table = (tmp_path / 'table.md').read_text()
  assert '| nan | 1 | 0.500 +- 0.000, last 0.750 [1] |' in table
  assert '| infinity | 1 | - | - | - | - | - | 0.500, last 0.750 |' in table
  assert '[1]: made by commit 1; this table by commit 2.' in table


def test_attacks_on_other_runs_are_never_mixed(tmp_path, monkeypatch):
  ran = _fake_runs(monkeypatch)
  siege = siege_lib.Siege(
    _base(tmp_path), ('nan',), (1,), (0,), siege_lib.defenses(200.0)
  )
  siege_lib.besiege(siege)
  before = len(ran)
  base = dataclasses.replace(siege.base, total_rounds=3)
  with pytest.raises(SettingsError, match="--total_rounds: '2' there, '3' now"):
    siege_lib.besiege(dataclasses.replace(siege, base=base, attacks=('zeros',)))
  assert len(ran) == before


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(attacks=('bribe',)), "Unknown attack 'bribe'"),
    (dict(attackers=(3,)), 'from 1 to --clients_per_round=2, found 3'),
    (dict(base=_base('')), '--output_dir is required'),
    (
      dict(base=dataclasses.replace(_base('x'), rounds_per_evaluation=3)),
      'no trained model would be evaluated',
    ),
  ],
)
def test_refusals(arguments, message):
  complete = dict(
    base=_base('x'), attacks=(), attackers=(), seeds=(0,), defenses={}
  )
  with pytest.raises(OptionError, match=message):
    siege_lib.besiege(siege_lib.Siege(**{**complete, **arguments}))


def test_a_method_without_synthetic_data_is_refused(tmp_path):
  base = Settings(
    output_dir=str(tmp_path / 'new'), method='drive', compression_ratio=2000.0
  )
  siege = siege_lib.Siege(
    base,
    ('nan',),
    (1,),
    (0,),
    siege_lib.defenses(1.0),
  )
  with pytest.raises(SettingsError, match='sends no synthetic data'):
    siege_lib.besiege(siege)
  assert not (tmp_path / 'new').exists()
