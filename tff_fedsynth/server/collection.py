"""TFF orchestration of the way up: carries every payload to the server, whole."""

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import seeds
from tff_fedsynth.compression import codec as codec_lib

# TFF keeps accumulators for a while: what is appended to for each client is small.
_WAITING = 30


def _concat(a, b):
  """Joins structures of tensors along the first axis."""
  return tf.nest.map_structure(lambda x, y: tf.concat([x, y], axis=0), a, b)


def _build_accumulation(client_type: tff.types.StructType):
  """Builds the four parts of a `federated_aggregate` that concatenates."""
  client_specs = tff.types.type_to_tf_tensor_specs(client_type)

  @tff.tensorflow.computation
  def zero():
    none = tf.nest.map_structure(
      lambda s: tf.zeros([0, *s.shape], s.dtype), client_specs
    )
    return collections.OrderedDict(collected=none, waiting=none)

  # The accumulator grows, so its type leaves the number of clients open.
  stacked_type = tff.types.tensorflow_to_type(
    tf.nest.map_structure(
      lambda s: tf.TensorSpec([None, *s.shape], s.dtype), client_specs
    )
  )
  accumulator_type = tff.to_type(
    collections.OrderedDict(collected=stacked_type, waiting=stacked_type)
  )

  @tff.tensorflow.computation(accumulator_type, client_type)
  def accumulate(accumulator, value):
    collected = accumulator['collected']
    value = tf.nest.map_structure(lambda v: v[tf.newaxis], value)
    waiting = _concat(accumulator['waiting'], value)
    none = tf.nest.map_structure(lambda w: w[:0], waiting)
    collected, waiting = tf.cond(
      tf.shape(waiting['weights'])[0] < _WAITING,
      lambda: (collected, waiting),
      lambda: (_concat(collected, waiting), none),
    )
    return collections.OrderedDict(collected=collected, waiting=waiting)

  @tff.tensorflow.computation(accumulator_type, accumulator_type)
  def merge(a, b):
    return _concat(a, b)

  @tff.tensorflow.computation(accumulator_type)
  def report(accumulator):
    return _concat(accumulator['collected'], accumulator['waiting'])

  return zero, accumulate, merge, report


def build_collection(
  payload_type: tff.types.StructType,
) -> tff.templates.AggregationProcess:
  """Builds an aggregation that concatenates along a new first axis.

  The server replays each payload against the weights that it sent, so it needs
  them one by one: this process only carries. For the same reason secure
  aggregation, which shows a server nothing but a sum, cannot be used with it.

  Type signatures, with payload `P` and `P[n]` the same with a first axis of n
  clients:

    initialize: ( -> <>@SERVER)
    next: (<<>@SERVER, {P}@CLIENTS, {float32}@CLIENTS> ->
           <state=<>@SERVER,
            result=<payloads=P[n], weights=float32[n]>@SERVER,
            measurements=<>@SERVER>)

  Args:
    payload_type: The type of one client's payload: a structure of tensors.

  Returns:
    A weighted `tff.templates.AggregationProcess`.
  """
  weight_type = tff.TensorType(np.float32)
  client_type = tff.to_type(
    collections.OrderedDict(payloads=payload_type, weights=weight_type)
  )
  zero, *steps = _build_accumulation(client_type)

  @tff.federated_computation
  def init_fn():
    return tff.federated_value((), tff.SERVER)

  @tff.federated_computation(
    init_fn.type_signature.result,
    tff.FederatedType(payload_type, tff.CLIENTS),
    tff.FederatedType(weight_type, tff.CLIENTS),
  )
  def next_fn(state, payloads, weights):
    values = tff.federated_zip(
      collections.OrderedDict(payloads=payloads, weights=weights)
    )
    collected = tff.federated_aggregate(values, zero(), *steps)
    return tff.templates.MeasuredProcessOutput(
      state, collected, tff.federated_value((), tff.SERVER)
    )

  return tff.templates.AggregationProcess(init_fn, next_fn)


def build_encoded_collection(
  codec: codec_lib.Codec,
  value_type: tff.types.StructType,
  *,
  collection_fn=build_collection,
  seed: int = 0,
) -> tff.templates.AggregationProcess:
  """Builds a collection of values that clients encode first.

  Type signatures are those of `build_collection`, but for the value `V`, which
  clients have, and a state S of a seed and the number of the round, and of the
  collection:

    initialize: ( -> S@SERVER)
    next: (<S@SERVER, {V}@CLIENTS, {float32}@CLIENTS> ->
           <state=S@SERVER,
            result=<payloads=P[n], weights=float32[n]>@SERVER,
            measurements=<distortion=float32>@SERVER>)

  Args:
    codec: Encodes values in messages, which are the payloads.
    value_type: The type of an update.
    collection_fn: See `ServerConfig`.
    seed: Seed of all that clients draw.

  Raises:
    CodecError: If the codec does not fit the shapes of the value.
    OptionError: If the seed is no 32-bit integer.
    TypeError: If the value is not a structure of float32 tensors.
  """
  initial_seed, next_seed = seeds.build_state(seed)
  _, encode = codec_lib.build_encode(codec, value_type)
  collect = collection_fn(encode.type_signature.result[0])

  @tff.federated_computation
  def init_fn():
    return tff.federated_zip(
      (tff.federated_eval(initial_seed, tff.SERVER), collect.initialize())
    )

  @tff.federated_computation(
    init_fn.type_signature.result,
    tff.FederatedType(value_type, tff.CLIENTS),
    tff.FederatedType(np.float32, tff.CLIENTS),
  )
  def next_fn(state, values, weights):
    round_seed, of_collection = state
    message, distortion = tff.federated_map(
      encode, (tff.federated_broadcast(round_seed), values)
    )
    collected = collect.next(of_collection, message, weights)
    measurements = collections.OrderedDict(
      distortion=tff.federated_mean(distortion)
    )
    return tff.templates.MeasuredProcessOutput(
      tff.federated_zip(
        (tff.federated_map(next_seed, round_seed), collected.state)
      ),
      collected.result,
      tff.federated_zip(measurements),
    )

  return tff.templates.AggregationProcess(init_fn, next_fn)
