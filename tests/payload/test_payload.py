"""Synthetic data, a sketch of the residual, and the choice between both ways."""

import conftest
import numpy as np
import pytest
import small_process
import tensorflow as tf
import tensorflow_federated as tff

from baselines.cross_polytope import CrossPolytope
from baselines.drive import Drive
from baselines.low_rank import LowRank
from baselines.random_mask import RandomMask
from baselines.top_k import TopK
from tff_fedsynth import communication
from tff_fedsynth import Payload
from tff_fedsynth import Sketch
from tff_fedsynth import SynthesisConfig
from tff_fedsynth import SyntheticPayload
from tff_fedsynth import SyntheticSpec
from tff_fedsynth.compression.codec import CodecError
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload import payload as payload_lib
from tff_fedsynth.payload import sketch as sketch_lib
from tff_fedsynth.payload.sketch import ResidualError

MODEL = small_process.MODEL
WEIGHTS = tf.nest.map_structure(tf.constant, MODEL.initial_weights)
# 53 floats.
SHAPES = [tuple(w.shape) for w in MODEL.initial_weights[0]]
SPEC = SyntheticSpec((6,), (3,), bits=4)
CODECS = [CrossPolytope(10, 2), Drive(40), RandomMask(16)]


def _config(codec, scale=1.0, alone=None, **fields):
  residual = Sketch(codec, scale, alone)
  return SynthesisConfig(SPEC, iterations=10, residual=residual, **fields)


def _update(seed=0):
  random = np.random.RandomState(seed)
  return tuple(tf.constant(random.normal(size=s), tf.float32) for s in SHAPES)


def _encode(payload, target, seed=4):
  variables = encoding.initialize(SPEC, tf.constant([1, 2]), 0.5, 1.0)
  return payload.encode(
    variables,
    MODEL,
    WEIGHTS,
    target=target,
    fits_scale=True,
    seed=tf.stack([3, seed]),
  )


def _flat(tensors):
  return np.concatenate([np.ravel(t) for t in tensors])


def _sent(sketch, draws):
  """Local and replayed update, and what is sent with so many sketches."""
  payload = payload_lib.SketchedPayload(SyntheticPayload(SPEC), sketch)
  replayed = _encode(payload.data, _update()).replayed
  # With the residual of a client that learned: as long as the update.
  length = tf.linalg.global_norm(replayed) / tf.linalg.global_norm(_update())
  target = tuple(u + length * a for u, a in zip(replayed, _update()))
  encode = tf.function(lambda seed: _encode(payload, target, seed).update)
  sent = [_flat(encode(tf.constant(i))) for i in range(draws)]
  replayed = _encode(payload.data, target).replayed
  return _flat(target), _flat(replayed), np.array(sent)


@pytest.mark.parametrize('codec', CODECS, ids=str)
def test_the_sum_is_unbiased_and_as_noisy_as_derived(codec):
  t, u, sent = _sent(Sketch(codec), 2000)
  error = ((sent - t) ** 2).sum(axis=1).mean()
  # The mean of n independent draws has an expected squared error of error / n.
  # Over 53 coordinates it has a relative deviation of sqrt(2 / 53) = 20%.
  # Replaying alone is far off.
  bias = ((sent.mean(axis=0) - t) ** 2).sum()
  assert bias < 2 * error / 2000 < 0.03 * ((u - t) ** 2).sum()
  cosine = u @ t / np.linalg.norm(u) / np.linalg.norm(t)
  assert 0.1 < cosine < 0.95
  derived = sketch_lib.relative_error(cosine**2, Sketch(codec), SHAPES)
  assert error / (t**2).sum() == pytest.approx(derived, rel=0.1)


def test_the_mean_of_scaled_sketches_has_the_error_that_is_derived():
  codec = RandomMask(16)
  scale = sketch_lib.best_scale(codec, SHAPES, averaged=5)
  t, u, sent = _sent(Sketch(codec, scale), 2000)
  square = (u @ t) ** 2 / (u @ u) / (t @ t)
  means = (sent - u).reshape(400, 5, -1).mean(axis=1) / scale

  def simulated(c):
    return ((u + c * means - t) ** 2).sum(axis=1).mean() / (t**2).sum()

  for c in (scale, scale / 2, 1.0):
    derived = sketch_lib.relative_error(square, Sketch(codec, c), SHAPES, 5)
    assert simulated(c) == pytest.approx(derived, rel=0.1)
  # Neither a longer nor a shorter one is better.
  assert simulated(scale) < min(simulated(0.7 * scale), simulated(1.4 * scale))


def test_errors_of_splits_by_hand():
  # The model has 53 floats: a mask of 16 has the error 53 / 16 - 1.
  error = sketch_lib.relative_error
  mask = RandomMask(16)
  assert error(0.0, Sketch(mask), SHAPES) == 37 / 16
  assert error(0.75, Sketch(mask), SHAPES) == 37 / 64
  assert error(0.75, Sketch(mask), SHAPES, averaged=37) == 1 / 64
  assert error(0.75, Sketch(mask, 0.5), SHAPES) == (1 + 37 / 16) / 16
  assert error(0.75, None, SHAPES) == 0.25
  # Clients and rounds that average the noise to 1: half of the residual.
  assert sketch_lib.best_scale(mask, SHAPES, 37 / 16) == 0.5
  # 53 coordinates fill a grid of 53 x 1: pi * 53 / 2 / 40 - 1.
  expected = 0.5 * (np.pi * 53 / 80 - 1)
  assert error(0.5, Sketch(Drive(40)), SHAPES) == pytest.approx(expected)


def test_the_split_of_least_error_is_best():
  split = sketch_lib.Split
  alone = split(1.0, 0.0, 20.0)
  splits = [split(0.2, 0.9, 15.0), split(0.6, 0.8, 9.0), alone]
  assert sketch_lib.best_split(splits).fraction == 0.6
  # Never worse than the sketch alone.
  assert sketch_lib.best_split([split(0.2, 0.1, 30.0), alone]) is alone
  assert sketch_lib.best_split([split(0.5, 0.5, 20.0), alone]) is alone


@pytest.mark.parametrize('scale', [1.0, 0.5])
def test_the_error_of_a_choice_is_of_what_a_client_sends(scale):
  codec, alone = RandomMask(16), Drive(50)
  sketch = Sketch(codec, scale, alone)
  error = lambda square: sketch_lib.relative_error(square, sketch, SHAPES, 3)
  beside = codec.relative_error(SHAPES) / 3
  of_alone = alone.relative_error(SHAPES) / 3
  equal = 1 - of_alone / beside
  assert 0 < equal < 0.9
  assert error(0.0) == of_alone
  assert error(equal - 0.01) == of_alone
  for square in (equal + 0.01, 0.99):
    left = (1 - scale) ** 2 + scale**2 * beside
    assert error(square) == pytest.approx((1 - square) * left)


@pytest.mark.parametrize(
  'codec, scale, alone',
  [
    (RandomMask(16), 1.0, CrossPolytope(10, 2)),
    # The scale is no reason to send synthetic data: its bias is not counted.
    (Drive(40), 0.3, Drive(50)),
  ],
  ids=str,
)
def test_a_client_sends_what_has_less_error(codec, scale, alone):
  payload = _config(codec, scale, alone).payload
  learned = _encode(payload, _update()).replayed
  dot = lambda a, b: _flat(a) @ _flat(b)
  share = dot(_update(), learned) / dot(learned, learned)
  across = tuple(n - share * u for n, u in zip(_update(), learned))
  # With this share of the update in the residual, both errors are equal.
  equal = alone.relative_error(SHAPES) / codec.relative_error(SHAPES)
  assert 0 < equal < 1
  for factor, is_alone in ((0.9, 0), (1.1, 1)):
    tangent = np.sqrt(factor * equal / (1 - factor * equal))
    length = tangent * np.sqrt(dot(learned, learned) / dot(across, across))
    target = tuple(u + length * a for u, a in zip(learned, across))
    encoded = _encode(payload, target)
    assert encoded.message['is_alone'] == is_alone
    decoded = payload.decode(encoded.message, MODEL, WEIGHTS)
    for mine, servers in zip(encoded.update, decoded.update):
      np.testing.assert_allclose(mine, servers, rtol=1e-5, atol=1e-6)
    # Nothing of a sketch alone is compared with bounds on synthetic data.
    largest = max(np.abs(t).max() for t in tf.nest.flatten(decoded.parts))
    assert (largest == 0) == is_alone


@pytest.mark.parametrize('objective', ['update_l2', 'data_loss'])
def test_rounds_with_a_residual_are_unbiased(objective):
  config = _config(Drive(40), objective=objective)
  process = small_process.build(config)
  assert communication.uplink_bytes(process) == (
    config.payload.num_bytes(SHAPES) + 4
  )
  initial = process.initialize()
  client = conftest.make_dataset(MODEL)
  fed_avg = tff.learning.algorithms.build_weighted_fed_avg(
    MODEL, small_process.SGD(0.1)
  )
  w0 = _flat(small_process.trainable(process, initial))
  trained = fed_avg.next(fed_avg.initialize(), [client]).state
  target = w0 - _flat(small_process.trainable(fed_avg, trained))
  moves, errors = [], []
  state = initial
  for _ in range(30):
    output = process.next(state, [client])
    moves.append(w0 - _flat(small_process.trainable(process, output.state)))
    measured = output.metrics['client_work']['synthesis']
    errors.append(measured['relative_l2_error_with_residual'])
    # The same model again, with the seed of the next round.
    state = process.set_model_weights(
      output.state, process.get_model_weights(initial)
    )
  moves = np.array(moves)
  # What clients measure is what the server applies.
  np.testing.assert_allclose(
    np.linalg.norm(moves - target, axis=1) / np.linalg.norm(target),
    errors,
    rtol=1e-3,
  )
  error = ((moves - target) ** 2).sum(axis=1).mean()
  bias = ((moves.mean(axis=0) - target) ** 2).sum()
  assert bias < 2 * error / 30


@pytest.mark.parametrize(
  'alone, sends_data', [(RandomMask(40), 0), (RandomMask(1), 1)], ids=str
)
def test_a_round_with_a_choice(alone, sends_data):
  config = _config(RandomMask(16), alone=alone)
  process = small_process.build(config)
  message_bytes = lambda codec: codec.message_bytes(SHAPES)
  both = config.payload.data_bytes + message_bytes(RandomMask(16))
  assert communication.uplink_bytes(process) == (
    1 + max(both, message_bytes(alone)) + 4
  )
  state = process.initialize()
  output = process.next(state, [conftest.make_dataset(MODEL)])
  measured = output.metrics['client_work']['synthesis']
  assert measured['sends_synthetic_data'] == sends_data
  w0 = _flat(small_process.trainable(process, state))
  w1 = _flat(small_process.trainable(process, output.state))
  assert np.isfinite(w1).all() and (w0 != w1).any()


def test_codecs_that_do_not_fit_the_model_are_refused():
  for codec in (RandomMask(54), CrossPolytope(7, 3)):
    with pytest.raises(CodecError, match='does not fit an update of 53 values'):
      small_process.build(_config(codec))
    with pytest.raises(CodecError, match='does not fit'):
      sketch_lib.best_scale(codec, SHAPES, 5)


@pytest.mark.parametrize(
  'codec',
  [
    TopK(5),
    Drive(40, scale='mse'),
    RandomMask(16, unbiased=False),
    LowRank((1, 0, 1, 0)),
  ],
  ids=str,
)
def test_biased_codecs_are_refused(codec):
  for config in (_config(codec), _config(Drive(40), alone=codec)):
    with pytest.raises(ResidualError, match='Choose an unbiased'):
      small_process.build(config)
    with pytest.raises(ResidualError, match='Choose an unbiased'):
      sketch_lib.relative_error(0.5, config.residual, SHAPES)


def test_an_error_without_a_bound_is_refused():
  # With two signs of many, the scale divides by what may be next to nothing.
  assert Drive(2).relative_error(SHAPES) == np.inf
  with pytest.raises(ResidualError, match='error has no bound'):
    sketch_lib.best_scale(Drive(2), SHAPES, 5)


@pytest.mark.parametrize('scale', [0, 1.5, float('nan')])
def test_scales_that_are_none_are_refused(scale):
  with pytest.raises(ResidualError, match='above 0'):
    Sketch(Drive(40), scale)


def test_what_is_not_a_sum_over_examples_is_decoded_alone():
  shape = dict(input_shape=(6,), label_shape=(3,))
  assert SyntheticPayload(SPEC).chunk_size == 40
  for payload in (
    SyntheticPayload(SyntheticSpec(**shape, steps=2)),
    SyntheticPayload(SyntheticSpec(**shape, label_form='targets')),
    SyntheticPayload(SPEC, examples_at_once=1),
    _config(RandomMask(16)).payload,
    _config(RandomMask(16), alone=RandomMask(20)).payload,
    payload_lib.CodecPayload(RandomMask(16)),
  ):
    assert payload.chunk_size == 1


def test_the_name_of_before_is_that_of_synthetic_data():
  assert Payload(SPEC) == SyntheticPayload(SPEC)
