"""The sketch of what synthetic data missed: unbiased, and as noisy as derived."""

import collections

import conftest
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from baselines.cross_polytope import CrossPolytope
from baselines.drive import Drive
from baselines.low_rank import LowRank
from baselines.random_mask import RandomMask
from baselines.top_k import TopK
from tff_fedsynth import build_fedsynth
from tff_fedsynth import communication
from tff_fedsynth import Payload
from tff_fedsynth import SynthesisConfig
from tff_fedsynth import SyntheticSpec
from tff_fedsynth.client import synthesis
from tff_fedsynth.client.training import local_training
from tff_fedsynth.compression.codec import CodecError
from tff_fedsynth.fitting import split as split_lib
from tff_fedsynth.payload import sketch as sketch_lib

SGD = tff.learning.optimizers.build_sgdm
MODEL = conftest.make_classifier()
SHAPES = [tuple(w.shape) for w in MODEL.initial_weights[0]]
SPEC = SyntheticSpec((6,), (3,), bits=4)
CODECS = [CrossPolytope(10, 2), Drive(40), RandomMask(16)]
Sketch = sketch_lib.Sketch


def _flat(tensors):
  return np.concatenate([np.ravel(t) for t in tensors])


def _synthesize(dataset):
  """The payload of a client, and the real update."""
  weights = tf.nest.map_structure(tf.constant, MODEL.initial_weights)

  @tf.function
  def run():
    result = synthesis.synthesize(
      MODEL,
      weights,
      dataset,
      config=SynthesisConfig(SPEC, iterations=20),
      client_optimizer=SGD(0.1),
      client_hparams=None,
      synthesis_hparams=None,
      seed=tf.constant([0, 0]),
    )
    training = local_training.local_training(MODEL, weights, dataset, SGD(0.1))
    return result.payload, training.update

  return run()


def _sent(sketch, draws):
  """Real and replayed update, and what is sent with so many sketches."""
  weights = tf.nest.map_structure(tf.constant, MODEL.initial_weights)
  payload, target = _synthesize(conftest.make_dataset(MODEL))
  update = Payload(SPEC).decode(payload, MODEL, weights).update

  @tf.function
  def once(seed):
    message = sketch_lib.encode(sketch, target, update, tf.stack([seed, 7]))
    whole = collections.OrderedDict(payload, residual=message)
    sent = Payload(SPEC, sketch).decode(whole, MODEL, weights).update
    return tf.concat([tf.reshape(s, [-1]) for s in sent], axis=0)

  sent = [once(tf.constant(i)).numpy() for i in range(draws)]
  return _flat(target), _flat(update), np.array(sent)


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
  derived = split_lib.relative_error(cosine**2, Sketch(codec), SHAPES)
  assert error / (t**2).sum() == pytest.approx(derived, rel=0.1)


def test_the_mean_of_scaled_sketches_misses_as_much_as_derived():
  codec = RandomMask(16)
  scale = split_lib.best_scale(codec, SHAPES, averaged=5)
  t, u, sent = _sent(Sketch(codec, scale), 2000)
  square = (u @ t) ** 2 / (u @ u) / (t @ t)
  means = (sent - u).reshape(400, 5, -1).mean(axis=1) / scale

  def simulated(c):
    return ((u + c * means - t) ** 2).sum(axis=1).mean() / (t**2).sum()

  for c in (scale, scale / 2, 1.0):
    derived = split_lib.relative_error(square, Sketch(codec, c), SHAPES, 5)
    assert simulated(c) == pytest.approx(derived, rel=0.1)
  # Neither a longer nor a shorter one is better.
  assert simulated(scale) < min(simulated(0.7 * scale), simulated(1.4 * scale))


def test_codecs_that_do_not_fit_the_model_are_refused():
  for codec in (RandomMask(54), Drive(54), CrossPolytope(7, 3)):
    config = SynthesisConfig(SPEC, residual=Sketch(codec))
    with pytest.raises(CodecError, match='does not fit an update of 53 values'):
      build_fedsynth(MODEL, SGD(0.1), config=config)
    with pytest.raises(CodecError, match='does not fit'):
      split_lib.best_scale(codec, SHAPES, 5)


@pytest.mark.parametrize('scale', [0, -0.5, 1.5, float('nan'), float('inf')])
def test_scales_that_are_none_are_refused(scale):
  with pytest.raises(sketch_lib.ResidualError, match='above 0'):
    Sketch(Drive(40), scale)


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
  config = SynthesisConfig(SPEC, residual=Sketch(codec))
  with pytest.raises(sketch_lib.ResidualError, match='Choose an unbiased'):
    build_fedsynth(MODEL, SGD(0.1), config=config)


@pytest.mark.parametrize('objective', ['update_l2', 'data_loss'])
def test_a_round_with_a_residual(objective):
  codec = Drive(40)
  config = SynthesisConfig(
    SPEC, objective=objective, iterations=10, residual=Sketch(codec)
  )
  process = build_fedsynth(MODEL, SGD(0.1), config=config)
  assert communication.uplink_bytes(process) == (
    config.payload.num_bytes(SHAPES) + 4
  )
  initial = process.initialize()
  client = conftest.make_dataset(MODEL)
  target = _flat(_synthesize(client)[1])
  w0 = _flat(process.get_model_weights(initial).trainable)
  moves, errors = [], []
  state = initial
  for _ in range(30):
    output = process.next(state, [client])
    moves.append(w0 - _flat(process.get_model_weights(output.state).trainable))
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
