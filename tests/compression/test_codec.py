"""Seeds, integers and types of values, of any codec."""

import math

import codec_cases
import conftest
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from baselines.aggregation import CodecSumFactory
from baselines.drive import Drive
from baselines.sign import Sign
from baselines.top_k import TopK
from tff_fedsynth import build_codec_fed_avg
from tff_fedsynth import SynthesisConfig
from tff_fedsynth import SyntheticSpec
from tff_fedsynth.errors import OptionError

SGD = tff.learning.optimizers.build_sgdm


def test_integers_of_numpy_are_integers():
  (decoded,) = codec_cases.round_trips(
    TopK(np.int64(3), bits=np.int32(32)), codec_cases.values(shapes=[(3,)]), 1
  )
  np.testing.assert_array_equal(
    decoded, codec_cases.flat(codec_cases.values(shapes=[(3,)]))
  )


@pytest.mark.parametrize('dtype', [np.float64, np.int32])
def test_other_values_than_float32_are_a_type_error(dtype):
  with pytest.raises(TypeError, match='for float32 values, but found'):
    TopK(2).encode([tf.zeros([3]), tf.zeros([4], dtype)], tf.constant(0))


@pytest.mark.parametrize('seed', [2**31, -(2**31) - 1, 1.5, math.nan, '1'])
def test_seeds_have_32_bits(seed):
  with pytest.raises(OptionError, match='seed must be '):
    Drive(3).encode(codec_cases.values(shapes=[(3,)]), seed)
  with pytest.raises(OptionError, match='seed must be '):
    CodecSumFactory(Sign(), seed=seed)
  with pytest.raises(OptionError, match='seed must be '):
    SynthesisConfig(SyntheticSpec((6,), (3,), bits=4), seed=seed)
  model = conftest.make_classifier()
  with pytest.raises(OptionError, match='seed must be '):
    build_codec_fed_avg(model, SGD(0.1), codec=Sign(), seed=seed)


def test_seeds_are_counted_as_int32():
  with pytest.raises(TypeError, match='The seed must be int32, found int64'):
    Drive(3).encode(codec_cases.values(shapes=[(3,)]), tf.constant(3, tf.int64))
  message = Drive(3).encode(codec_cases.values(shapes=[(3,)]), 7)
  assert (message['seed'].dtype, int(message['seed'])) == (tf.int32, 7)
