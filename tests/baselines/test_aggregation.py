"""The TFF aggregator of every codec."""

import math

import codec_cases
import conftest
import numpy as np
import pytest
import tensorflow_federated as tff

from baselines.aggregation import CodecSumFactory
from baselines.cross_polytope import CrossPolytope
from baselines.drive import Drive
from baselines.low_rank import LowRank
from baselines.qsgd import Qsgd
from baselines.random_mask import RandomMask
from baselines.sign import Sign
from baselines.top_k import TopK
from tff_fedsynth import communication
from tff_fedsynth.compression.codec import CodecError

SGD = tff.learning.optimizers.build_sgdm
MODEL = conftest.make_classifier()
CODECS = [
  RandomMask(30),
  TopK(30, bits=8),
  Drive(100),
  CrossPolytope(9, 5),
  LowRank((2, 0, 1, 0)),
  Qsgd(bits=2),
  Sign(),
]


def _create(codec, shapes=tuple(codec_cases.SHAPES), **fields):
  value_type = tff.to_type([(np.float32, shape) for shape in shapes])
  return CodecSumFactory(codec, **fields).create(value_type)


def _fed_avg(codec):
  return tff.learning.algorithms.build_weighted_fed_avg(
    MODEL,
    SGD(0.1),
    model_aggregator=tff.aggregators.MeanFactory(CodecSumFactory(codec)),
  )


@pytest.mark.parametrize('codec', CODECS, ids=str)
def test_the_aggregator_sums_what_is_decoded(codec):
  process = _create(codec, seed=5)
  signature = process.next.type_signature
  assert signature.parameter[1].placement is tff.CLIENTS
  assert signature.result.result == tff.FederatedType(
    signature.parameter[1].member, tff.SERVER
  )
  assert not process.is_weighted
  clients = [codec_cases.values(1), codec_cases.values(2)]
  state = process.initialize()
  alone = [process.next(state, [c]) for c in clients]
  both = process.next(state, clients)
  np.testing.assert_allclose(
    codec_cases.flat(both.result),
    sum(codec_cases.flat(a.result) for a in alone),
    rtol=1e-4,
    atol=1e-5,
  )
  measured = both.measurements
  assert measured['bits_per_parameter'] == pytest.approx(
    8 * codec.message_bytes(codec_cases.SHAPES) / codec_cases.SIZE
  )
  distortions = [
    ((codec_cases.flat(a.result) - codec_cases.flat(c)) ** 2).sum()
    / (codec_cases.flat(c) ** 2).sum()
    for a, c in zip(alone, clients)
  ]
  assert measured['distortion'] == pytest.approx(
    np.mean(distortions), rel=1e-3, abs=1e-6
  )


def test_draws_differ_between_rounds_clients_and_seeds_and_repeat():
  process, other = _create(RandomMask(30)), _create(RandomMask(30), seed=1)
  state = process.initialize()
  first = process.next(state, [codec_cases.values()])
  same, *others = (
    codec_cases.flat(result)
    for result in (
      process.next(state, [codec_cases.values()]).result,
      process.next(first.state, [codec_cases.values()]).result,
      process.next(state, [codec_cases.values(1)]).result,
      other.next(other.initialize(), [codec_cases.values()]).result,
    )
  )
  first = codec_cases.flat(first.result)
  np.testing.assert_array_equal(same, first)
  for result in others:
    assert ((result != 0) != (first != 0)).any()


def test_metered_bytes_inside_fed_avg_are_the_counted_ones():
  shapes = [w.shape for w in MODEL.initial_weights[0]]
  for codec in (Drive(17), LowRank((1, 0, 2, 0))):
    # The client's weight is one float32.
    assert communication.uplink_bytes(_fed_avg(codec)) == (
      codec.message_bytes(shapes) + 4
    )


@pytest.mark.parametrize(
  'codec, shapes',
  [(Drive(1), [()]), (LowRank((0, 1, 0)), [(0,), (1, 5), ()])],
  ids=str,
)
def test_the_aggregator_takes_tiny_updates(codec, shapes):
  process = _create(codec, shapes)
  clients = [codec_cases.values(1, shapes), codec_cases.values(2, shapes)]
  output = process.next(process.initialize(), clients)
  expected = codec_cases.flat(clients[0]) + codec_cases.flat(clients[1])
  np.testing.assert_allclose(
    codec_cases.flat(output.result), expected, atol=0.2
  )
  assert np.isfinite(output.measurements['distortion'])


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_a_client_that_is_not_finite_has_no_part_in_the_mean(bad):
  good = conftest.make_dataset(MODEL)
  broken = good.map(lambda x, y: (x * bad, y))
  process = _fed_avg(TopK(53))
  state = process.initialize()
  alone, both = (
    process.get_model_weights(process.next(state, data).state).trainable
    for data in ([good], [good, broken])
  )
  np.testing.assert_array_equal(codec_cases.flat(both), codec_cases.flat(alone))


def test_what_no_aggregator_is_for_is_refused():
  with pytest.raises(TypeError, match='for float32 values, but found int32'):
    CodecSumFactory(Sign()).create(tff.TensorType(np.int32, [3]))
  with pytest.raises(CodecError, match='not known at all'):
    CodecSumFactory(Sign()).create(tff.TensorType(np.float32, None))
  with pytest.raises(CodecError, match='kept_values can be at most 334'):
    _create(TopK(344))
  with pytest.raises(TypeError, match='an instance such as'):
    CodecSumFactory(Drive)


@pytest.mark.parametrize('seed', [2**31 - 1, -(2**31) + 1, np.int64(7)])
def test_seeds_of_32_bits_aggregate(seed):
  process = _create(RandomMask(3), [(3,)], seed=seed)
  values = codec_cases.values(shapes=[(3,)])
  output = process.next(process.initialize(), [values])
  np.testing.assert_array_equal(
    codec_cases.flat(output.result), codec_cases.flat(values)
  )
