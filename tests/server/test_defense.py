"""What the server refuses, clips and averages."""

import functools

import conftest
import numpy as np
import pytest
import tensorflow as tf

from tff_fedsynth import Payload
from tff_fedsynth import SyntheticSpec
from tff_fedsynth.payload import encoding
from tff_fedsynth.server import averaging
from tff_fedsynth.server import defense as defense_lib
from tff_fedsynth.server.config import ServerConfig
from tff_fedsynth.server.defense import Defense

MODEL = conftest.make_classifier()
# With two steps, their sizes are fields of their own.
SPEC = SyntheticSpec((6,), (3,), steps=2)
WEIGHTS = tuple(map(tf.constant, MODEL.initial_weights[0])), ()


def _payload(seed=0, **fields):
  variables = encoding.initialize(SPEC, tf.constant([seed, 0]), 1.0, 1.0)
  payload = encoding.encode(SPEC, variables)
  for name, value in fields.items():
    payload[name] = tf.fill(payload[name].shape, np.float32(value))
  return payload


def _average(payloads, weights=None, **fields):
  """The aggregated update and the rejected clients by reason."""
  stacked = {k: tf.stack([p[k] for p in payloads]) for k in payloads[0]}
  weights = [1.0] * len(payloads) if weights is None else weights
  update, reasons = tf.function(
    lambda: averaging.decode_and_average(
      Payload(SPEC),
      MODEL,
      WEIGHTS,
      stacked,
      tf.constant(weights, tf.float32),
      ServerConfig(Defense(**fields)),
    )
  )()
  flat = np.concatenate([np.ravel(u) for u in update])
  return flat, dict(zip(defense_lib.REASONS, reasons.numpy()))


@functools.cache
def _one_alone(seed):
  return _average([_payload(seed)])[0]


def _alone(*seeds):
  return np.stack([_one_alone(s) for s in seeds])


@pytest.mark.parametrize(
  'aggregation, clip',
  [
    ('mean', None),
    ('mean', 'adaptive'),
    ('median', 1.0),
    ('trimmed_mean', None),
  ],
)
def test_every_field_is_checked(aggregation, clip):
  fields = dict(aggregation=aggregation, update_clip_norm=clip)
  names = ('inputs', 'labels', 'step_sizes', 'scale')
  not_finite = [
    _payload(1, **{name: value})
    for name in names
    for value in (np.nan, np.inf, -np.inf)
  ]
  # Labels become distributions, whatever finite numbers they are.
  too_large = [
    _payload(1, **{name: value})
    for name in names
    for value in (1e30, -1e30)
    if name != 'labels'
  ]
  update, reasons = _average([*not_finite, _payload(), *too_large], **fields)
  alone, _ = _average([_payload()], **fields)
  assert np.isfinite(update).all() and np.abs(update).max() > 0
  np.testing.assert_allclose(update, alone, rtol=1e-6)
  assert reasons == {
    'weight': 0,
    'non_finite_payload': 12,
    'out_of_bounds': 6,
    'non_finite_update': 0,
  }


def test_replays_that_blow_up_are_rejected():
  spec = dict(max_value=1e38, max_step_size=1e38, max_scale=1e38)
  bad = _payload(1, step_sizes=1e30, scale=1e30)
  update, reasons = _average([_payload(), bad], **spec)
  assert reasons['non_finite_update'] == 1
  np.testing.assert_array_equal(update, _alone(0)[0])


@pytest.mark.parametrize('weight', [0.0, -1.0, np.nan, np.inf])
def test_weights_are_checked(weight):
  update, reasons = _average([_payload(), _payload(1)], [2.0, weight])
  assert reasons['weight'] == 1
  np.testing.assert_allclose(update, _alone(0)[0], rtol=1e-6)


@pytest.mark.parametrize('aggregation', ['mean', 'median', 'trimmed_mean'])
def test_a_round_of_liars_gives_no_update(aggregation):
  bad = [_payload(i, scale=np.nan) for i in range(3)]
  update, reasons = _average(bad, aggregation=aggregation)
  assert np.isnan(update).all() and reasons['non_finite_payload'] == 3


def test_a_lying_weight_is_capped():
  a, b = _alone(0, 1)
  update, _ = _average(
    [_payload(0), _payload(1)], [3.0, 1e9], max_client_weight=5.0
  )
  np.testing.assert_allclose(update, (3 * a + 5 * b) / 8, rtol=1e-5, atol=1e-8)


def test_clipping():
  a, b = _alone(0, 1)
  norm = lambda v: np.linalg.norm(v)
  huge = _payload(1, scale=100.0)
  clip_to = 0.5 * norm(a)
  update, _ = _average([_payload(0), huge], update_clip_norm=clip_to)
  expected = (0.5 * a + clip_to * b / norm(b)) / 2
  np.testing.assert_allclose(update, expected, rtol=1e-4, atol=1e-8)
  # Norms |a|, |a| and 100 |b|: twice the median is 2 |a|.
  update, _ = _average(
    [_payload(0), _payload(0), huge], update_clip_norm='adaptive'
  )
  expected = (2 * a + 2 * norm(a) * b / norm(b)) / 3
  np.testing.assert_allclose(update, expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize('count', [1, 2, 3, 4, 5])
def test_robust_aggregations_by_hand(count):
  updates = _alone(*range(count))
  payloads = [_payload(i) for i in range(count)]
  # Weights have no part in them.
  weights = list(range(1, count + 1))
  update, _ = _average(payloads, weights, aggregation='median')
  np.testing.assert_allclose(
    update, np.median(updates, axis=0), rtol=1e-5, atol=1e-8
  )
  update, _ = _average(payloads, weights, aggregation='trimmed_mean', trim=0.4)
  left_out = int(0.4 * count)
  kept = np.sort(updates, axis=0)[left_out : count - left_out]
  np.testing.assert_allclose(update, kept.mean(axis=0), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(max_scale=0.0), 'max_scale must be above 0'),
    (
      dict(max_value=np.nan),
      'max_value must be a finite number, above 0, found nan',
    ),
    (
      dict(update_clip_norm=-1.0),
      'update_clip_norm must be above 0, or adaptive',
    ),
    (dict(max_client_weight=0.0), 'max_client_weight must be above 0'),
    (
      dict(aggregation='mode'),
      "Unknown aggregation 'mode'. Choose one of mean",
    ),
    (dict(trim=0.5), 'trim must be at least 0 and below 0.5'),
  ],
)
def test_refusals(fields, message):
  with pytest.raises(ValueError, match=message):
    Defense(**fields)
