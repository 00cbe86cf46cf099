import collections

import numpy as np
import pytest
import small_process
import tensorflow_federated as tff

from baselines.aggregation import CodecSumFactory
from baselines.random_mask import RandomMask
from tff_fedsynth import communication

MODEL = small_process.MODEL
# 6 * 5 + 5 + 5 * 3 + 3 floats.
MODEL_BYTES = 4 * 53


def _fed_avg(aggregator=None):
  return tff.learning.algorithms.build_weighted_fed_avg(
    MODEL, small_process.SGD(0.1), model_aggregator=aggregator
  )


def test_type_bytes_of_hand_counted_types():
  nested = tff.to_type(
    collections.OrderedDict(
      a=tff.TensorType(np.float32, [3, 4]),
      b=(tff.TensorType(np.uint8, [5]), tff.TensorType(np.int64)),
      c=(),
    )
  )
  assert communication.type_bytes(nested) == 3 * 4 * 4 + 5 + 8
  with pytest.raises(ValueError, match='not known in advance'):
    communication.type_bytes(tff.TensorType(np.float32, [None]))


def test_fed_avg_sends_the_model_and_a_weight():
  process = _fed_avg()
  measured = communication.measure(process)
  assert measured.uplink_bytes == MODEL_BYTES + 4
  assert measured.downlink_bytes == MODEL_BYTES
  assert measured.metrics_bytes == 0
  assert communication.uplink_bytes(process) == MODEL_BYTES + 4
  assert communication.downlink_bytes(process) == MODEL_BYTES


def test_a_random_mask_sends_values_seed_and_weight():
  aggregator = tff.aggregators.MeanFactory(CodecSumFactory(RandomMask(7)))
  measured = communication.measure(_fed_avg(aggregator))
  assert measured.uplink_bytes == 7 * 4 + 4 + 4
  # The state of the masks, two int32, comes with the model.
  assert measured.downlink_bytes == MODEL_BYTES + 8


def test_fedsynth_sends_the_payload_and_a_weight_metrics_apart():
  measured = communication.measure(small_process.process())
  # Four examples of 3 + 2 packed bytes and two ranges of 4, and the scale.
  assert small_process.CONFIG.payload.data_bytes == 4 * (3 + 2 + 8) + 4
  assert measured.uplink_bytes == 4 * (3 + 2 + 8) + 4 + 4
  # Cosine, relative error, and the number of valid clients.
  assert measured.metrics_bytes == 3 * 4


def test_compression_of_tff_is_seen():
  """Adaptive state that the server needs is the method's, not a metric."""
  measured = communication.measure(
    _fed_avg(tff.learning.compression_aggregator(zeroing=False, clipping=False))
  )
  # All tensors are below TFF's threshold of 20,000 elements: sent as they are.
  assert measured.uplink_bytes == MODEL_BYTES + 4
