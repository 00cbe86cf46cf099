"""Payloads that lie, and payloads of random bytes."""

import conftest
import numpy as np
import pytest
import tensorflow as tf

from tff_fedsynth import Payload
from tff_fedsynth import SyntheticSpec
from tff_fedsynth.experiments.trust import poisoning
from tff_fedsynth.payload import encoding
from tff_fedsynth.server import averaging
from tff_fedsynth.server.config import Defense
from tff_fedsynth.server.config import ServerConfig

MODEL = conftest.make_classifier()
WEIGHTS = tuple(map(tf.constant, MODEL.initial_weights[0])), ()
FUZZ_CASES = 8_000


def _payloads(spec, seeds):
  """Honest payloads, stacked."""
  payloads = []
  for seed in seeds:
    variables = encoding.initialize(spec, tf.constant([seed, 0]), 1.0, 1.0)
    payloads.append(encoding.encode(spec, variables))
  return {name: tf.stack([p[name] for p in payloads]) for name in payloads[0]}


def _average(spec, payloads, weights, **fields):
  update, reasons = tf.function(
    lambda: averaging.decode_and_average(
      Payload(spec),
      MODEL,
      WEIGHTS,
      payloads,
      weights,
      ServerConfig(Defense(**fields)),
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
    decoded = Payload(spec).decode(payload, MODEL, WEIGHTS)
    reason = averaging.rejection(Defense(), decoded, tf.constant(1.0))
    accepted = tf.equal(reason, len(averaging.REASONS))
    finite = tf.reduce_all(
      [tf.reduce_all(tf.math.is_finite(u)) for u in decoded.update]
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
  counts = np.bincount(reasons, minlength=len(averaging.REASONS) + 1)
  assert not broken.numpy().any()
  # The cases reach every check and go past all of them.
  names = dict(zip(averaging.REASONS, counts))
  assert names['non_finite_payload'] > 50 and names['out_of_bounds'] > 50
  assert counts[-1] > 500
