"""Every message reaches the server, whole and in order, with its weight."""

import collections

import numpy as np
import pytest
import tensorflow_federated as tff

from tff_fedsynth.server import collection

WAITING = collection._WAITING
MESSAGE = tff.to_type(
  collections.OrderedDict(a=tff.TensorType(np.uint8, [2]), b=np.float32)
)


@pytest.mark.parametrize('number', [1, WAITING, 2 * WAITING + 3])
def test_messages_arrive_in_order(number):
  random = np.random.RandomState(0)
  a = random.randint(0, 256, (number, 2)).astype(np.uint8)
  b, weights = random.normal(size=(2, number)).astype(np.float32)
  messages = [
    collections.OrderedDict(a=row, b=value) for row, value in zip(a, b)
  ]
  process = collection.build_collection(MESSAGE)
  result = process.next(process.initialize(), messages, list(weights)).result
  np.testing.assert_array_equal(result['payloads']['a'], a)
  np.testing.assert_array_equal(result['payloads']['b'], b)
  np.testing.assert_array_equal(result['weights'], weights)
