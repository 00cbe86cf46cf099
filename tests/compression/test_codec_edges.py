"""Codecs on updates of few values, and what they refuse."""

import itertools
import math
import re

import conftest
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from baselines.aggregation import CodecSumFactory
from baselines.cross_polytope import CrossPolytope
from baselines.drive import Drive
from baselines.low_rank import LowRank
from baselines.qsgd import Qsgd
from baselines.random_mask import RandomMask
from baselines.sign import Sign
from baselines.top_k import TopK
from tff_fedsynth import build_fedsynth
from tff_fedsynth import SynthesisConfig
from tff_fedsynth import SyntheticSpec
from tff_fedsynth.compression.codec import BudgetTooSmallError
from tff_fedsynth.compression.codec import CodecError
from tff_fedsynth.errors import OptionError

SGD = tff.learning.optimizers.build_sgdm
NAN, INF = math.nan, math.inf

TINY = [
  [()],
  [(1,)],
  [(1, 1)],
  [(2,)],
  [(0,), (1,)],
  [(0, 3), (2, 1), (3, 0), ()],
  [(1, 5)],
  [(5, 1), (1,)],
  [(2, 2)],
  [(1, 1, 1, 4)],
  [(7, 5), (7,)],
]
KINDS = [
  (RandomMask, {}),
  (RandomMask, {'bits': 8}),
  (RandomMask, {'unbiased': False}),
  (TopK, {}),
  (TopK, {'bits': 8}),
  (Drive, {}),
  (Drive, {'scale': 'mse'}),
  (CrossPolytope, {}),
  (LowRank, {}),
  (LowRank, {'bits': 8}),
  (Qsgd, {}),
  (Qsgd, {'bits': 2, 'bucket_size': 2}),
  (Sign, {}),
]


def _values(shapes, seed=0):
  random = np.random.RandomState(seed)
  return [random.normal(size=s).astype(np.float32) for s in shapes]


def _flat(tensors):
  return np.concatenate([np.ravel(t) for t in tensors])


def _draws(codec, tensors, count):
  """float [count, n]: the decoded update with as many seeds."""

  @tf.function
  def draw(seeds):
    def once(seed):
      message = codec.encode([tf.constant(t) for t in tensors], seed)
      decoded = codec.decode(message, [t.shape for t in tensors])
      return tf.concat([tf.reshape(d, [-1]) for d in decoded], axis=0)

    return tf.map_fn(once, seeds, fn_output_signature=tf.float32)

  return draw(tf.range(count)).numpy().astype(np.float64)


@pytest.mark.parametrize('shapes', TINY, ids=str)
@pytest.mark.parametrize('cls, fields', KINDS, ids=str)
def test_every_budget_is_kept_or_too_small(cls, fields, shapes):
  tensors = _values(shapes)
  with pytest.raises(BudgetTooSmallError) as refused:
    cls.for_budget(0, shapes, **fields)
  smallest = int(re.search(r'at least (\d+) bytes', str(refused.value))[1])
  for budget in (-INF, -1, 0.5, smallest - 1, smallest - 0.5):
    with pytest.raises(BudgetTooSmallError, match='Raise the budget'):
      cls.for_budget(budget, shapes, **fields)
  codecs = {}
  for budget in (*np.arange(smallest, smallest + 40, 0.5), 1e9, INF):
    codec = cls.for_budget(budget, shapes, **fields)
    assert codec.message_bytes(shapes) <= budget
    codecs[codec] = None
  for codec in codecs:
    message = codec.encode([tf.constant(t) for t in tensors], tf.constant(3))
    sent = [v.numpy() for v in message.values()]
    assert sum(v.nbytes for v in sent) == codec.message_bytes(shapes)
    assert all(np.isfinite(v).all() for v in sent)
    decoded = codec.decode(message, shapes)
    assert [tuple(d.shape) for d in decoded] == shapes
    if isinstance(codec, (TopK, LowRank, Sign)):
      # These give nothing away for being unbiased.
      x = _flat(tensors)
      assert ((_flat(decoded) - x) ** 2).sum() <= (x**2).sum()
    assert codec.describe(shapes)
    error = codec.relative_error(shapes)
    assert error is None or error >= 0


@pytest.mark.parametrize('shapes', TINY, ids=str)
def test_where_everything_is_kept_nothing_is_lost(shapes):
  tensors = _values(shapes)
  size = len(_flat(tensors))
  for codec in (RandomMask(size), TopK(size)):
    (decoded,) = _draws(codec, tensors, 1)
    np.testing.assert_array_equal(decoded, _flat(tensors))
  assert RandomMask(size).relative_error(shapes) == 0
  # At most half of a level, and for random rounding a whole one.
  level = np.ptp(_flat(tensors)) / 255
  for codec in (RandomMask(size, bits=8), TopK(size, bits=8)):
    (decoded,) = _draws(codec, tensors, 1)
    np.testing.assert_allclose(decoded, _flat(tensors), atol=1.01 * level)


@pytest.mark.parametrize('cls, fields', KINDS, ids=str)
def test_one_value_comes_back(cls, fields):
  for shape, value in itertools.product([(), (1,), (1, 1)], [-2.5, 0.0, 3.0]):
    codec = cls.for_budget(INF, [shape], **fields)
    assert codec.relative_error([shape]) in (0, None)
    for seed in (0, 1):
      message = codec.encode([tf.fill(shape, value)], tf.constant(seed))
      (decoded,) = codec.decode(message, [shape])
      np.testing.assert_allclose(decoded, value, rtol=1e-6)


@pytest.mark.parametrize('shape', [(1, 5), (5, 1), (1, 1), (2, 2)], ids=str)
def test_low_rank_of_full_rank_is_off_by_rounding_only(shape):
  (x,) = tensors = _values([shape])
  (decoded,) = _draws(LowRank((min(shape),), bits=8), tensors, 1)
  assert np.linalg.norm(decoded - x.ravel()) < 0.01 * np.linalg.norm(x)


@pytest.mark.parametrize(
  'codec, size',
  [
    (RandomMask(1), 2),
    (RandomMask(2), 3),
    (RandomMask(3, bits=8), 5),
    (Drive(2), 2),
    (Drive(3), 3),
    (Drive(8), 8),
    (Drive(5), 8),
    (CrossPolytope(2, 0), 2),
    (CrossPolytope(1, 2), 4),
    (CrossPolytope(2, 2), 9),
    (Qsgd(bits=2), 1),
    (Qsgd(bits=2, bucket_size=2), 3),
  ],
  ids=str,
)
@pytest.mark.parametrize('kind', ['normal', 'two'])
def test_a_few_values_are_unbiased(codec, size, kind):
  x = np.zeros(size, np.float32)
  if kind == 'two':
    # With signs and a Hadamard transform alone, the 1 is never seen.
    x[:2] = [3, 1][:size]
  else:
    x[:] = np.random.RandomState(size).normal(size=size)
  count = 4000
  draws = _draws(codec, [x], count)
  # Five standard errors of each coordinate, which one in 10^6 exceeds.
  error = draws.std(axis=0) / math.sqrt(count)
  assert (np.abs(draws.mean(axis=0) - x) <= 5 * error + 1e-5).all()


def test_the_relative_error_is_right_where_much_is_kept():
  x = np.random.RandomState(0).normal(size=64).astype(np.float32)
  for codec in (
    Drive(40),
    Drive(64),
    CrossPolytope(10, 2),
    CrossPolytope(5, 3),
  ):
    error = ((_draws(codec, [x], 2000) - x) ** 2).sum(axis=1).mean()
    claimed = codec.relative_error([x.shape])
    assert error / (x**2).sum() == pytest.approx(claimed, rel=0.1)
  # One or two of many coordinates may be next to nothing, and are divided by.
  for codec in (Drive(1), Drive(2), CrossPolytope(2, 0), CrossPolytope(1, 1)):
    assert codec.relative_error([(64,)]) == INF
  assert CrossPolytope(1, 2).relative_error([(64,)]) < INF


SHAPES = [(7, 5), (7,)]  # 42 values.
TOO_LARGE = [
  (RandomMask(100), SHAPES, 'kept_values can be at most 42'),
  (RandomMask(43, bits=8), SHAPES, 'kept_values can be at most 42'),
  (TopK(43), SHAPES, 'kept_values can be at most 42'),
  (Drive(43), SHAPES, 'kept_signs can be at most 42'),
  (Drive(2), [()], 'kept_signs can be at most 1'),
  # 343 values are rotated with one of padding.
  (Drive(345), [(343,)], 'kept_signs can be at most 344'),
  (CrossPolytope(43, 0), SHAPES, 'at most 42 coordinates'),
  (CrossPolytope(1, 6), SHAPES, 'at most 42 coordinates'),
  (LowRank((9, 0)), SHAPES, r'at most \(5, 0\)'),
  (LowRank((6, 0)), SHAPES, r'at most \(5, 0\)'),
  (LowRank((5, 1)), SHAPES, r'at most \(5, 0\)'),
  (LowRank((5,)), SHAPES, 'one rank for each tensor'),
  (LowRank((5, 0, 0)), SHAPES, 'one rank for each tensor'),
  (LowRank((2,)), [(1, 9)], r'at most \(1,\)'),
  (LowRank((1, 0)), [(0, 9), (1,)], r'at most \(0, 0\)'),
  (LowRank((1,)), [()], r'at most \(0,\)'),
  *(
    (codec, shapes, 'has no values to encode')
    for codec in (RandomMask(1), Drive(1), LowRank(()), Qsgd(), Sign())
    for shapes in ([], [(0,)], [(3, 0), (0, 2)])
  ),
  *(
    (codec, [(None, 5)], 'Give every axis its size')
    for codec in (TopK(1), LowRank((1,)), Sign())
  ),
]


def _encode(codec, shapes):
  if any(None in s for s in shapes):
    signature = [tf.TensorSpec(s, tf.float32) for s in shapes]
    encode = tf.function(
      lambda *values: codec.encode(values, tf.constant(0)), autograph=False
    )
    return encode.get_concrete_function(*signature)
  return codec.encode([tf.zeros(s) for s in shapes], tf.constant(0))


def _create(codec, shapes):
  value_type = tff.to_type([tff.TensorType(np.float32, s) for s in shapes])
  return CodecSumFactory(codec).create(value_type)


@pytest.mark.parametrize(
  'codec, shapes, message', TOO_LARGE, ids=lambda v: str(v)[:40]
)
def test_what_does_not_fit_is_refused_wherever_shapes_are_known(
  codec, shapes, message
):
  for method in (
    codec.check_fits,
    codec.message_bytes,
    codec.describe,
    codec.relative_error,
    lambda shapes: codec.decode({}, shapes),
    lambda shapes: _encode(codec, shapes),
    lambda shapes: _create(codec, shapes),
  ):
    with pytest.raises(CodecError, match=message):
      method(shapes)


@pytest.mark.parametrize('cls, fields', KINDS, ids=str)
def test_budgets_are_for_updates_and_numbers(cls, fields):
  with pytest.raises(CodecError, match='has no values to encode'):
    cls.for_budget(100, [(0, 4)], **fields)
  with pytest.raises(CodecError, match='must be a number of bytes, found NaN'):
    cls.for_budget(NAN, SHAPES, **fields)


def test_unknown_ranks_are_refused():
  value_type = tff.TensorType(np.float32, None)
  with pytest.raises(CodecError, match='not known at all'):
    CodecSumFactory(Sign()).create(value_type)


@pytest.mark.parametrize(
  'make, name',
  [
    (RandomMask, 'kept_values'),
    (TopK, 'kept_values'),
    (Drive, 'kept_signs'),
    (lambda n: CrossPolytope(n, 1), 'blocks'),
    (lambda n: Qsgd(bucket_size=n), 'bucket_size'),
  ],
)
@pytest.mark.parametrize(
  'value', [0, -1, 2.5, 2.0, NAN, INF, True, '3', None], ids=str
)
def test_sizes_are_integers_from_one(make, name, value):
  with pytest.raises(OptionError, match=f'{name} must be (at least 1|a whole)'):
    make(value)


@pytest.mark.parametrize(
  'make',
  [
    lambda: CrossPolytope(1, -1),
    lambda: CrossPolytope(1, 24),
    lambda: CrossPolytope(1, 1.5),
    lambda: CrossPolytope(1, NAN),
    lambda: LowRank((-1,)),
    lambda: LowRank((1.5,)),
    lambda: LowRank((NAN,)),
    lambda: LowRank([1]),
    lambda: LowRank(3),
    lambda: LowRank((1,), bits=8.0),
    lambda: RandomMask(3, bits=NAN),
    lambda: RandomMask(3, bits='8'),
    lambda: RandomMask(3, unbiased='no'),
    lambda: TopK(3, bits=32.0),
    lambda: Drive(3, scale=None),
    lambda: Qsgd(bits=True),
    lambda: Qsgd(bits=2.5),
    lambda: Qsgd.for_budget(INF, SHAPES, bits=0),
  ],
)
def test_other_fields_are_checked_too(make):
  with pytest.raises(OptionError, match='must be|Unknown scale'):
    make()


def test_integers_of_numpy_are_integers():
  (decoded,) = _draws(TopK(np.int64(3), bits=np.int32(32)), _values([(3,)]), 1)
  np.testing.assert_array_equal(decoded, _flat(_values([(3,)])))


@pytest.mark.parametrize('dtype', [np.float16, np.float64, np.int32, bool])
def test_other_values_than_float32_are_a_type_error(dtype):
  with pytest.raises(TypeError, match='TopK is for float32 values, but found'):
    TopK(2).encode([tf.zeros([3]), tf.zeros([4], dtype)], tf.constant(0))
  value_type = tff.to_type([(np.float32, [3]), (np.dtype(dtype).type, [4])])
  with pytest.raises(TypeError, match='Sign is for float32 values'):
    CodecSumFactory(Sign()).create(value_type)


def test_a_class_is_no_codec():
  with pytest.raises(TypeError, match='an instance such as'):
    CodecSumFactory(Drive)


@pytest.mark.parametrize('seed', [2**31, -(2**31) - 1, 10**20, 1.5, NAN, '1'])
def test_seeds_have_32_bits(seed):
  with pytest.raises(OptionError, match='seed must be '):
    Drive(3).encode(_values([(3,)]), seed)
  with pytest.raises(OptionError, match='seed must be '):
    CodecSumFactory(Sign(), seed=seed)
  model = conftest.make_classifier()
  config = SynthesisConfig(SyntheticSpec((6,), (3,), bits=4))
  with pytest.raises(OptionError, match='seed must be '):
    build_fedsynth(model, SGD(0.1), config=config, seed=seed)


def test_seeds_are_counted_as_int32():
  with pytest.raises(TypeError, match='The seed must be int32, found int64'):
    Drive(3).encode(_values([(3,)]), tf.constant(3, tf.int64))
  message = Drive(3).encode(_values([(3,)]), 7)
  assert (message['seed'].dtype, int(message['seed'])) == (tf.int32, 7)


@pytest.mark.parametrize('seed', [2**31 - 1, -(2**31) + 1, np.int64(7)])
def test_seeds_of_32_bits_aggregate(seed):
  value_type = tff.to_type([(np.float32, [3])])
  process = CodecSumFactory(RandomMask(3), seed=seed).create(value_type)
  values = _values([(3,)])
  output = process.next(process.initialize(), [values])
  np.testing.assert_array_equal(_flat(output.result), _flat(values))


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
  process = _create(codec, shapes)
  clients = [_values(shapes, 1), _values(shapes, 2)]
  output = process.next(process.initialize(), clients)
  expected = _flat(clients[0]) + _flat(clients[1])
  np.testing.assert_allclose(_flat(output.result), expected, atol=0.2)
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
      _flat(
        process.get_model_weights(process.next(state, data).state).trainable
      )
      for data in ([good], [good, broken])
    )
    np.testing.assert_array_equal(both, alone)


def test_errors_of_codecs_name_no_flags():
  found = []
  for (cls, fields), shapes in itertools.product(KINDS, [SHAPES]):
    with pytest.raises(BudgetTooSmallError) as error:
      cls.for_budget(1, shapes, **fields)
    found.append(str(error.value))
  assert not any('--' in text for text in found)
