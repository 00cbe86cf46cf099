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
NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
  'codec', [*codec_cases.CODECS, *codec_cases.UNBIASED], ids=str
)
def test_the_aggregator_sums_what_is_decoded(codec):
  value_type = tff.to_type(
    [tff.TensorType(np.float32, s) for s in codec_cases.SHAPES]
  )
  process = CodecSumFactory(codec, seed=5).create(value_type)
  signature = process.next.type_signature
  assert signature.parameter[1] == tff.FederatedType(value_type, tff.CLIENTS)
  assert signature.result.result == tff.FederatedType(value_type, tff.SERVER)
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


@pytest.mark.parametrize(
  'codec',
  [RandomMask(30), Drive(100), CrossPolytope(9, 5), Qsgd(bits=2)],
  ids=str,
)
def test_draws_differ_between_rounds_and_clients_and_repeat(codec):
  value_type = tff.to_type(
    [tff.TensorType(np.float32, s) for s in codec_cases.SHAPES]
  )
  process = CodecSumFactory(codec).create(value_type)
  state = process.initialize()
  first = process.next(state, [codec_cases.values()])
  second = process.next(first.state, [codec_cases.values()])
  again = process.next(state, [codec_cases.values()])
  assert (
    codec_cases.flat(first.result) != codec_cases.flat(second.result)
  ).any()
  np.testing.assert_array_equal(
    codec_cases.flat(first.result), codec_cases.flat(again.result)
  )
  other = CodecSumFactory(codec, seed=1).create(value_type)
  different = other.next(other.initialize(), [codec_cases.values()])
  assert (
    codec_cases.flat(first.result) != codec_cases.flat(different.result)
  ).any()


def test_metered_bytes_inside_fed_avg_are_the_counted_ones():
  model = conftest.make_classifier()
  shapes = [w.shape for w in model.initial_weights[0]]
  for codec in (
    TopK(5, bits=8),
    Drive(17),
    CrossPolytope(9, 2),
    LowRank((1, 0, 2, 0)),
    Sign(),
  ):
    process = tff.learning.algorithms.build_weighted_fed_avg(
      model,
      tff.learning.optimizers.build_sgdm(0.1),
      model_aggregator=tff.aggregators.MeanFactory(CodecSumFactory(codec)),
    )
    # The client's weight is one float32.
    assert communication.uplink_bytes(process) == (
      codec.message_bytes(shapes) + 4
    )
    output = process.next(process.initialize(), [conftest.make_dataset(model)])
    measured = output.metrics['aggregator']['mean_value']
    assert 0 <= measured['distortion']


def test_only_float32_is_aggregated():
  with pytest.raises(TypeError, match='Sign is for float32 values'):
    CodecSumFactory(Sign()).create(tff.TensorType(np.int32, [3]))


def test_unknown_ranks_are_refused():
  value_type = tff.TensorType(np.float32, None)
  with pytest.raises(CodecError, match='not known at all'):
    CodecSumFactory(Sign()).create(value_type)


def test_a_class_is_no_codec():
  with pytest.raises(TypeError, match='an instance such as'):
    CodecSumFactory(Drive)


@pytest.mark.parametrize('seed', [2**31 - 1, -(2**31) + 1, np.int64(7)])
def test_seeds_of_32_bits_aggregate(seed):
  value_type = tff.to_type([(np.float32, [3])])
  process = CodecSumFactory(RandomMask(3), seed=seed).create(value_type)
  values = codec_cases.values(shapes=[(3,)])
  output = process.next(process.initialize(), [values])
  np.testing.assert_array_equal(
    codec_cases.flat(output.result), codec_cases.flat(values)
  )


@pytest.mark.parametrize(
  'codec, shapes',
  [
    (Drive(1), [()]),
    (RandomMask(2), [(0, 3), (2, 1)]),
    (LowRank((0, 1, 0)), [(0,), (1, 5), ()]),
    (Sign(), [(0, 4), (1,)]),
    (Qsgd(bits=2), [(1, 1)]),
  ],
  ids=str,
)
def test_the_aggregator_takes_tiny_updates(codec, shapes):
  process = codec_cases.aggregator(codec, shapes)
  clients = [codec_cases.values(1, shapes), codec_cases.values(2, shapes)]
  output = process.next(process.initialize(), clients)
  expected = codec_cases.flat(clients[0]) + codec_cases.flat(clients[1])
  np.testing.assert_allclose(
    codec_cases.flat(output.result), expected, atol=0.2
  )
  assert np.isfinite(output.measurements['distortion'])


@pytest.mark.parametrize('bad', [NAN, INF])
def test_a_client_that_is_not_finite_has_no_part_in_the_mean(bad):
  model = conftest.make_classifier()
  shapes = [w.shape for w in model.initial_weights[0]]
  size = sum(map(math.prod, shapes))
  good = conftest.make_dataset(model)
  broken = good.map(lambda x, y: (x * bad, y))
  for codec in (TopK(size), Drive(17), Qsgd()):
    process = tff.learning.algorithms.build_weighted_fed_avg(
      model,
      SGD(0.1),
      model_aggregator=tff.aggregators.MeanFactory(CodecSumFactory(codec)),
    )
    state = process.initialize()
    alone, both = (
      codec_cases.flat(
        process.get_model_weights(process.next(state, data).state).trainable
      )
      for data in ([good], [good, broken])
    )
    np.testing.assert_array_equal(both, alone)
