"""What codecs refuse."""

import itertools
import math

import codec_cases
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
TOO_LARGE = [
  (RandomMask(100), codec_cases.FEW, 'kept_values can be at most 42'),
  (RandomMask(43, bits=8), codec_cases.FEW, 'kept_values can be at most 42'),
  (TopK(43), codec_cases.FEW, 'kept_values can be at most 42'),
  (Drive(43), codec_cases.FEW, 'kept_signs can be at most 42'),
  (Drive(2), [()], 'kept_signs can be at most 1'),
  # 343 values are rotated with one of padding.
  (Drive(345), [(343,)], 'kept_signs can be at most 344'),
  (CrossPolytope(43, 0), codec_cases.FEW, 'at most 42 coordinates'),
  (CrossPolytope(1, 6), codec_cases.FEW, 'at most 42 coordinates'),
  (LowRank((9, 0)), codec_cases.FEW, r'at most \(5, 0\)'),
  (LowRank((6, 0)), codec_cases.FEW, r'at most \(5, 0\)'),
  (LowRank((5, 1)), codec_cases.FEW, r'at most \(5, 0\)'),
  (LowRank((5,)), codec_cases.FEW, 'one rank for each tensor'),
  (LowRank((5, 0, 0)), codec_cases.FEW, 'one rank for each tensor'),
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
    lambda shapes: codec_cases.aggregator(codec, shapes),
  ):
    with pytest.raises(CodecError, match=message):
      method(shapes)


@pytest.mark.parametrize('cls, fields', codec_cases.KINDS, ids=str)
def test_budgets_are_for_updates_and_numbers(cls, fields):
  with pytest.raises(CodecError, match='has no values to encode'):
    cls.for_budget(100, [(0, 4)], **fields)
  with pytest.raises(CodecError, match='must be a number of bytes, found NaN'):
    cls.for_budget(NAN, codec_cases.FEW, **fields)


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
    lambda: Qsgd.for_budget(INF, codec_cases.FEW, bits=0),
  ],
)
def test_other_fields_are_checked_too(make):
  with pytest.raises(OptionError, match='must be|Unknown scale'):
    make()


def test_errors_of_codecs_name_no_flags():
  found = []
  for (cls, fields), shapes in itertools.product(
    codec_cases.KINDS, [codec_cases.FEW]
  ):
    with pytest.raises(BudgetTooSmallError) as error:
      cls.for_budget(1, shapes, **fields)
    found.append(str(error.value))
  assert not any('--' in text for text in found)
