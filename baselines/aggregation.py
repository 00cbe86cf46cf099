"""TFF aggregators out of codecs."""

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import options
from tff_fedsynth import seeds
from tff_fedsynth.compression import codec as codec_lib


class CodecSumFactory(tff.aggregators.UnweightedAggregationFactory):
  """Sums values that clients encode and the server decodes, one by one.

  Wrap it in `tff.aggregators.MeanFactory` to average updates:

    tff.learning.algorithms.build_weighted_fed_avg(..., model_aggregator=
      tff.aggregators.MeanFactory(CodecSumFactory(Drive(1000))))

  The created process has the type signatures

    initialize: ( -> int32[2]@SERVER)
    next: (<int32[2]@SERVER, {V}@CLIENTS> ->
           <state=int32[2]@SERVER, result=V@SERVER, measurements=
            <bits_per_parameter=float32,distortion=float32>@SERVER>)

  with `V` a structure of float32 tensors. The state holds a seed and the round.
  `bits_per_parameter` are those of one client's message. `distortion` is the
  clients' mean of |decoded - value|^2 / |value|^2, as clients measure it.
  """

  def __init__(self, codec: codec_lib.Codec, *, seed: int = 0):
    """Initializes the factory.

    Args:
      codec: What encodes and decodes.
      seed: Seed of all that clients draw.

    Raises:
      OptionError: If the seed is no 32-bit integer.
      TypeError: If `codec` is no codec.
    """
    if not isinstance(codec, codec_lib.Codec):
      raise TypeError(
        f'A codec is an instance such as Drive(kept_signs=1000), found {codec}.'
      )
    options.check_seed(seed)
    self._codec = codec
    self._seed = seed

  def create(self, value_type: tff.Type) -> tff.templates.AggregationProcess:
    """Creates the process, see the class.

    Raises:
      CodecError: If the codec does not fit the shapes of the value.
      TypeError: If the value is not a structure of float32 tensors.
    """
    codec = self._codec
    shapes, encode = codec_lib.build_encode(codec, value_type)
    message_type = encode.type_signature.result[0]
    bits = np.float32(
      8 * codec.message_bytes(shapes) / sum(codec_lib.sizes(shapes))
    )
    structure = tff.types.type_to_tf_tensor_specs(value_type)
    sum_type = tff.to_type([(np.float32, shape) for shape in shapes])
    initial_state, next_state = seeds.build_state(self._seed)

    @tff.tensorflow.computation
    def zero():
      return [tf.zeros(shape) for shape in shapes]

    @tff.tensorflow.computation(sum_type, message_type)
    def accumulate(total, message):
      decoded = codec.decode(collections.OrderedDict(message), shapes)
      return [t + d for t, d in zip(total, decoded)]

    @tff.tensorflow.computation(sum_type, sum_type)
    def merge(a, b):
      return [x + y for x, y in zip(a, b)]

    @tff.tensorflow.computation(sum_type)
    def report(total):
      return tf.nest.pack_sequence_as(structure, list(total))

    @tff.federated_computation
    def init_fn():
      return tff.federated_eval(initial_state, tff.SERVER)

    @tff.federated_computation(
      init_fn.type_signature.result, tff.FederatedType(value_type, tff.CLIENTS)
    )
    def next_fn(state, value):
      message, distortion = tff.federated_map(
        encode, (tff.federated_broadcast(state), value)
      )
      total = tff.federated_aggregate(
        message, zero(), accumulate, merge, report
      )
      measurements = collections.OrderedDict(
        bits_per_parameter=tff.federated_value(bits, tff.SERVER),
        distortion=tff.federated_mean(distortion),
      )
      return tff.templates.MeasuredProcessOutput(
        tff.federated_map(next_state, state),
        total,
        tff.federated_zip(measurements),
      )

    return tff.templates.AggregationProcess(init_fn, next_fn)
