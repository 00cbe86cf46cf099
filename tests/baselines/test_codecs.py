"""Every codec, by the same contract."""

import math
import re

import codec_cases
import numpy as np
import pytest
import tensorflow as tf

from baselines.cross_polytope import CrossPolytope
from baselines.drive import Drive
from baselines.low_rank import LowRank
from baselines.qsgd import Qsgd
from baselines.random_mask import RandomMask
from baselines.sign import Sign
from baselines.top_k import TopK
from tff_fedsynth.compression.codec import BudgetTooSmallError
from tff_fedsynth.compression.codec import CodecError
from tff_fedsynth.errors import OptionError

NAN, INF = math.nan, math.inf
FEW = codec_cases.FEW
TINY = [
  [()],
  [(2,)],
  [(0, 3), (2, 1), (3, 0), ()],
  [(1, 5)],
  [(2, 2)],
  [(7, 5), (7,)],
]


@pytest.mark.parametrize('codec', codec_cases.CODECS, ids=str)
def test_counted_bytes_are_those_of_the_message(codec):
  tensors = [tf.constant(v) for v in codec_cases.values()]
  message = codec.encode(tensors, tf.constant(3))
  sent = sum(len(v.numpy().tobytes()) for v in message.values())
  assert codec.message_bytes(codec_cases.SHAPES) == sent
  decoded = codec.decode(message, codec_cases.SHAPES)
  assert [d.shape for d in decoded] == codec_cases.SHAPES


@pytest.mark.parametrize('codec', codec_cases.CODECS, ids=str)
def test_zeros_stay_zeros_and_decoding_scales_with_the_update(codec):
  zeros = [np.zeros(s, np.float32) for s in codec_cases.SHAPES]
  decoded = codec_cases.round_trip(codec, zeros)
  np.testing.assert_array_equal(codec_cases.flat(decoded), 0)
  if isinstance(codec, LowRank):
    return
  # TFF multiplies an update by its client's weight before it is encoded.
  once, twice = (
    codec_cases.flat(
      codec_cases.round_trip(codec, [v * n for v in codec_cases.values()])
    )
    for n in np.float32([1, 2])
  )
  np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)


@pytest.mark.parametrize('codec', codec_cases.UNBIASED, ids=str)
def test_unbiased(codec):
  # With independent draws of mean x and squared error v (measured here), the
  # mean of n draws has an expected squared error of v / n. A sum of many such
  # coordinates stays within 1.5 of its expectation; a bias b would add |b|^2.
  tensors = codec_cases.values(1)
  x = codec_cases.flat(tensors)
  draws = codec_cases.round_trips(codec, tensors, 600)
  error = ((draws - x) ** 2).sum(axis=1).mean()
  bias = ((draws.mean(axis=0) - x) ** 2).sum()
  assert error > 0
  assert bias < 1.5 * error / 600


@pytest.mark.parametrize(
  'codec, size',
  [
    (RandomMask(1), 2),
    (RandomMask(3, bits=8), 5),
    (Drive(2), 2),
    (Drive(5), 8),
    (CrossPolytope(2, 0), 2),
    (CrossPolytope(2, 2), 9),
    (Qsgd(bits=2, bucket_size=2), 3),
  ],
  ids=str,
)
@pytest.mark.parametrize('kind', ['normal', 'two'])
def test_a_few_values_are_unbiased(codec, size, kind):
  x = np.zeros(size, np.float32)
  if kind == 'two':
    # With signs and a Hadamard transform alone, the 1 is never seen.
    x[:2] = [3, 1]
  else:
    x[:] = np.random.RandomState(size).normal(size=size)
  count = 4000
  draws = codec_cases.round_trips(codec, [x], count)
  # Five standard errors of each coordinate, which one in 10^6 exceeds.
  error = draws.std(axis=0) / math.sqrt(count)
  assert (np.abs(draws.mean(axis=0) - x) <= 5 * error + 1e-5).all()


@pytest.mark.parametrize('cls, fields', codec_cases.KINDS, ids=str)
def test_every_budget_of_few_values_is_kept_or_too_small(cls, fields):
  for shapes in TINY:
    tensors = codec_cases.values(shapes=shapes)
    with pytest.raises(BudgetTooSmallError) as refused:
      cls.for_budget(0, shapes, **fields)
    smallest = int(re.search(r'at least (\d+) bytes', str(refused.value))[1])
    for budget in (-INF, 0.5, smallest - 0.5):
      with pytest.raises(BudgetTooSmallError, match='Raise the budget'):
        cls.for_budget(budget, shapes, **fields)
    codecs = {}
    for budget in (*range(smallest, smallest + 40, 3), smallest + 0.5, INF):
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
        x = codec_cases.flat(tensors)
        assert ((codec_cases.flat(decoded) - x) ** 2).sum() <= (x**2).sum()
      assert codec.describe(shapes)
      error = codec.relative_error(shapes)
      assert error is None or error >= 0


@pytest.mark.parametrize('cls, fields', codec_cases.KINDS, ids=str)
def test_one_value_comes_back(cls, fields):
  codec = cls.for_budget(INF, [()], **fields)
  assert codec.relative_error([()]) in (0, None)
  for value in (-2.5, 0.0, 3.0):
    (decoded,) = codec_cases.round_trip(codec, [np.full((), value, np.float32)])
    np.testing.assert_allclose(decoded, value, rtol=1e-6)


@pytest.mark.parametrize('ratio', [20, 100, 500])
@pytest.mark.parametrize(
  'cls, fields',
  [(RandomMask, {}), (TopK, {'bits': 8}), (Drive, {}), (CrossPolytope, {})]
  + [(LowRank, {'bits': bits}) for bits in (4, 8)],
  ids=str,
)
def test_budgets_are_filled_and_never_exceeded(cls, fields, ratio):
  budget = 636_040 // ratio - 4
  if (cls, fields, ratio) == (LowRank, {'bits': 8}, 500):
    # Two columns of 984 and 210 bytes, 210 bytes of biases and their ranges.
    with pytest.raises(BudgetTooSmallError, match='at least 1452 bytes'):
      cls.for_budget(budget, codec_cases.MLP, **fields)
    return
  codec = cls.for_budget(budget, codec_cases.MLP, **fields)
  used = codec.message_bytes(codec_cases.MLP)
  assert used <= budget
  # Nothing to add to a bit for every coordinate.
  is_whole = codec in (Drive(39 * 4096), CrossPolytope(39 * 4096, 0))
  assert used >= 0.9 * budget or is_whole
  assert is_whole == (cls in (Drive, CrossPolytope) and ratio == 20)


def test_codecs_of_fixed_size_say_what_they_need():
  size = 159_010
  sign = Sign.for_budget(19_893, codec_cases.MLP)
  assert sign.message_bytes(codec_cases.MLP) == -(-size // 8) + 16
  with pytest.raises(BudgetTooSmallError, match='at least 19893 bytes'):
    Sign.for_budget(19_892, codec_cases.MLP)
  # 2 bits a value and 311 norms.
  smallest = -(-size * 2 // 8) + 311 * 4
  assert Qsgd.for_budget(smallest, codec_cases.MLP).bits == 2
  assert Qsgd.for_budget(INF, codec_cases.MLP).bits == 8
  assert Qsgd.for_budget(INF, codec_cases.MLP, bits=3).bits == 3
  with pytest.raises(BudgetTooSmallError, match=f'at least {smallest} bytes'):
    Qsgd.for_budget(smallest - 1, codec_cases.MLP)


def test_no_budget_keeps_everything():
  kept = RandomMask.for_budget(INF, codec_cases.MLP).kept_values
  assert kept == 159_010
  # 39 rows of 4,096 columns: fewer, longer rows need padding of over 1/64.
  assert Drive.for_budget(INF, codec_cases.MLP).kept_signs == 39 * 4096
  assert LowRank.for_budget(INF, codec_cases.MLP).ranks == (200, 0, 10, 0)


def _encode(codec, shapes):
  if any(None in s for s in shapes):
    signature = [tf.TensorSpec(s, tf.float32) for s in shapes]
    encode = tf.function(
      lambda *values: codec.encode(values, tf.constant(0)), autograph=False
    )
    return encode.get_concrete_function(*signature)
  return codec.encode([tf.zeros(s) for s in shapes], tf.constant(0))


@pytest.mark.parametrize(
  'codec, shapes, message',
  [
    (RandomMask(100), FEW, 'kept_values can be at most 42'),
    (Drive(2), [()], 'kept_signs can be at most 1'),
    # 343 values are rotated with one of padding.
    (Drive(345), [(343,)], 'kept_signs can be at most 344'),
    (CrossPolytope(43, 0), FEW, 'at most 42 coordinates'),
    (CrossPolytope(1, 6), FEW, 'at most 42 coordinates'),
    (LowRank((6, 0)), FEW, r'at most \(5, 0\)'),
    (LowRank((5, 1)), FEW, r'at most \(5, 0\)'),
    (LowRank((5,)), FEW, 'one rank for each tensor'),
    (LowRank((1, 0)), [(0, 9), (1,)], r'at most \(0, 0\)'),
    (RandomMask(1), [], 'has no values to encode'),
    (Sign(), [(3, 0), (0, 2)], 'has no values to encode'),
    (TopK(1), [(None, 5)], 'Give every axis its size'),
  ],
  ids=lambda v: str(v)[:40],
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
  ):
    with pytest.raises(CodecError, match=message):
      method(shapes)


def test_budgets_are_for_updates_and_numbers():
  with pytest.raises(CodecError, match='has no values to encode'):
    Qsgd.for_budget(100, [(0, 4)])
  with pytest.raises(CodecError, match='must be a number of bytes, found NaN'):
    Qsgd.for_budget(NAN, FEW)


@pytest.mark.parametrize('value', [0, 2.0, NAN, INF, True, '3', None], ids=str)
def test_sizes_are_integers_from_one(value):
  for make, name in (
    (RandomMask, 'kept_values'),
    (lambda n: CrossPolytope(n, 1), 'blocks'),
    (lambda n: Qsgd(bucket_size=n), 'bucket_size'),
  ):
    with pytest.raises(
      OptionError, match=f'{name} must be (at least 1|a whole)'
    ):
      make(value)


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: CrossPolytope(1, 24), 'place_bits must be'),
    (lambda: LowRank((-1,)), 'ranks must be a tuple'),
    (lambda: LowRank([1]), 'ranks must be a tuple'),
    (lambda: LowRank((1,), bits=8.0), 'bits must be one of'),
    (lambda: TopK(5, bits=4), 'bits must be one of 32, 8'),
    (lambda: RandomMask(3, unbiased='no'), 'unbiased must be'),
    (lambda: Drive(1, scale='big'), "Unknown scale 'big'"),
    (lambda: Qsgd.for_budget(INF, FEW, bits=0), 'bits must be one of'),
  ],
)
def test_other_fields_are_checked_too(make, message):
  with pytest.raises(OptionError, match=message):
    make()
