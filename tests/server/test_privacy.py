"""Central differential privacy: sensitivity, noise and accounting."""

import math

import conftest
import numpy as np
import pytest
import tensorflow as tf

from tff_fedsynth import CentralPrivacy
from tff_fedsynth import Defense
from tff_fedsynth import ServerConfig
from tff_fedsynth import SyntheticPayload
from tff_fedsynth import SyntheticSpec
from tff_fedsynth.payload import encoding
from tff_fedsynth.server import averaging
from tff_fedsynth.server.config import PrivacyError

MODEL = conftest.make_classifier()
SPEC = SyntheticSpec((6,), (3,))
WEIGHTS = tuple(map(tf.constant, MODEL.initial_weights[0])), ()
CLIENTS = 4


def _messages(last=1.0, scale=30.0):
  """Messages of updates that are clipped; the last client's scale is given."""
  messages = []
  for seed in range(CLIENTS):
    variables = encoding.initialize(SPEC, tf.constant([seed, 0]), 1.0, 1.0)
    sent = last if seed == CLIENTS - 1 else 1.0
    message = encoding.encode(SPEC, variables)
    messages.append({**message, 'scale': scale * sent * message['scale']})
  return {name: tf.stack([m[name] for m in messages]) for name in messages[0]}


def _means(privacy, messages, weights=(1.0,) * CLIENTS, draws=1):
  @tf.function
  def run():
    return averaging.decode_and_average(
      SyntheticPayload(SPEC),
      MODEL,
      WEIGHTS,
      messages,
      tf.constant(weights),
      ServerConfig(privacy=privacy),
    )[0]

  return np.stack(
    [np.concatenate([np.ravel(u) for u in run()]) for _ in range(draws)]
  )


@pytest.mark.parametrize('clip_norm', [0.1, 2.0])
@pytest.mark.parametrize('sent', [-1.0, 1e4, np.nan])
def test_no_client_moves_the_mean_further_than_the_bound(sent, clip_norm):
  # The noise is far below the bound.
  privacy = CentralPrivacy(clip_norm, 1e-6, CLIENTS)
  honest = _means(privacy, _messages())
  # A weight changes nothing.
  other = _means(privacy, _messages(sent), [1.0, 1.0, 1.0, 1000.0])
  moved = np.linalg.norm(honest - other)
  bound = clip_norm / CLIENTS * (2 if sent == -1.0 else 1)
  assert moved <= bound * (1 + 1e-3)
  if sent != 1e4:
    # And the bound is reached, so that the test can fail.
    assert moved >= bound * (1 - 1e-3)


def test_the_noise_has_the_scale_that_is_told():
  privacy = CentralPrivacy(
    clip_norm=0.5, noise_multiplier=3.0, clients_per_round=8
  )
  draws = _means(privacy, _messages(0.0, 0.0), draws=20)
  # All updates are zero, so this is noise of .5 * 3 / 8 alone, in n numbers: the
  # standard deviation of their standard deviation is 1 / sqrt(2 n) of it.
  stddev = 0.5 * 3.0 / 8
  n = draws.size
  assert abs(draws.std() / stddev - 1) < 5 / math.sqrt(2 * n)
  assert abs(draws.mean()) < 5 * stddev / math.sqrt(n)
  assert len({d.tobytes() for d in draws}) == len(draws)


def test_a_round_of_malicious_clients_is_noise_alone():
  privacy = CentralPrivacy(1.0, 1.0, CLIENTS)
  update = _means(privacy, _messages(last=np.nan, scale=np.nan))
  assert np.isfinite(update).all() and np.abs(update).max() > 0


def _gaussian_epsilon(ratio, delta):
  """Of one Gaussian with sensitivity over noise `ratio` (Balle & Wang 2018)."""
  phi = lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2)))
  low, high = 0.0, 100.0
  for _ in range(100):
    e = (low + high) / 2
    found = phi(ratio / 2 - e / ratio) - math.exp(e) * phi(
      -ratio / 2 - e / ratio
    )
    low, high = (e, high) if found > delta else (low, e)
  return high


def test_epsilon_is_that_of_the_gaussian_mechanism_where_all_take_part():
  for z in (1.0, 4.0):
    # With the sensitivity 2 C.
    exact = _gaussian_epsilon(2 / z, 1e-5)
    told = CentralPrivacy(1.0, z, 100).epsilon(100, 1)
    assert exact <= told <= 1.3 * exact
  privacy = CentralPrivacy(1.0, 4.0, 10)
  # Sampling helps, rounds cost.
  assert privacy.epsilon(1000, 1) < privacy.epsilon(100, 1)
  assert privacy.epsilon(1000, 1) < privacy.epsilon(1000, 50)


@pytest.mark.parametrize(
  'fields',
  [
    dict(aggregation='trimmed_mean'),
    dict(update_clip_norm='adaptive'),
    dict(max_client_weight=1.0),
  ],
)
def test_what_breaks_the_guarantee_is_refused(fields):
  with pytest.raises(PrivacyError, match='cannot be combined'):
    ServerConfig(Defense(**fields), CentralPrivacy(1.0, 1.0, 1))


@pytest.mark.parametrize(
  'num_clients, rounds, message',
  [
    (10, 1, 'draws 20 clients, but num_clients is 10'),
    (0, 1, 'num_clients must be a whole number from 1'),
    (100, 1.5, 'rounds must be a whole number from 1'),
  ],
)
def test_epsilon_of_what_cannot_be_is_refused(num_clients, rounds, message):
  with pytest.raises(PrivacyError, match=message):
    CentralPrivacy(1.0, 1.0, 20).epsilon(num_clients, rounds)
