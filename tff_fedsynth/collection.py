"""TFF orchestration of the way up: carries every payload to the server, whole."""

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff


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
  client_specs = tff.types.type_to_tf_tensor_specs(client_type)

  @tff.tensorflow.computation
  def zero():
    return tf.nest.map_structure(
      lambda s: tf.zeros([0, *s.shape], s.dtype), client_specs
    )

  # The accumulator grows, so its type leaves the number of clients open.
  stacked_type = tff.types.tensorflow_to_type(
    tf.nest.map_structure(
      lambda s: tf.TensorSpec([None, *s.shape], s.dtype), client_specs
    )
  )

  @tff.tensorflow.computation(stacked_type, client_type)
  def accumulate(collected, value):
    return tf.nest.map_structure(
      lambda c, v: tf.concat([c, v[tf.newaxis]], axis=0), collected, value
    )

  @tff.tensorflow.computation(stacked_type, stacked_type)
  def merge(a, b):
    return tf.nest.map_structure(lambda x, y: tf.concat([x, y], axis=0), a, b)

  @tff.tensorflow.computation(stacked_type)
  def report(collected):
    return collected

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
    collected = tff.federated_aggregate(
      values, zero(), accumulate, merge, report
    )
    return tff.templates.MeasuredProcessOutput(
      state, collected, tff.federated_value((), tff.SERVER)
    )

  return tff.templates.AggregationProcess(init_fn, next_fn)
