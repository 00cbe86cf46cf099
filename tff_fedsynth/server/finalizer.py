"""TFF orchestration of the server's part: decode, average, optimizer step."""

import collections

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.payload.payload import Payload
from tff_fedsynth.server import averaging
from tff_fedsynth.server.config import ServerConfig


def build_decoding_finalizer(
  model: tff.learning.models.FunctionalModel,
  *,
  payload: Payload,
  weights_type: tff.types.StructWithPythonType,
  collected_type: tff.types.StructType,
  server_optimizer: tff.learning.optimizers.Optimizer,
  config: ServerConfig,
) -> tff.learning.templates.FinalizerProcess:
  """Builds the process that turns collected messages into a new model.

  Type signatures, with `W` the model's weights, `P[n]` messages of n clients, `S`
  the state of the server optimizer:

    initialize: ( -> S@SERVER)
    next: (<S@SERVER, W@SERVER, <payloads=P[n], weights=float32[n]>@SERVER> ->
           <state=S@SERVER,
            result=W@SERVER,
            measurements=<update_non_finite=int32, rejected_clients=int32,
              rejected_for_REASON=int32, ...>@SERVER>)

  A round in which every client was rejected leaves weights and optimizer state
  as they were; `update_non_finite` is then 1.

  Args:
    model: The model to train.
    payload: How messages are encoded.
    weights_type: The type of the model's weights.
    collected_type: The type of the result of `collection.build_collection`.
    server_optimizer: Applies the averaged update as if it were a gradient.
    config: What is refused, and how the rest is averaged. A measurement counts
      the clients rejected for each of `averaging.REASONS`.

  Returns:
    A `tff.learning.templates.FinalizerProcess`.
  """
  # TFF's finalizer skips updates that are not finite: the mean over no client.
  apply_update = tff.learning.templates.build_apply_optimizer_finalizer(
    server_optimizer, weights_type
  )

  @tff.tensorflow.computation(weights_type, collected_type)
  def average(weights, collected):
    @tf.function
    def run(trainable, non_trainable, messages, client_weights):
      return averaging.decode_and_average(
        payload,
        model,
        (trainable, non_trainable),
        messages,
        client_weights,
        config,
      )

    return run(
      weights.trainable,
      weights.non_trainable,
      collected['payloads'],
      collected['weights'],
    )

  @tff.tensorflow.computation(
    apply_update.next.type_signature.result.measurements.member,
    average.type_signature.result[1],
  )
  def to_measurements(measurements, rejected):
    by_reason = {
      f'rejected_for_{name}': rejected[i]
      for i, name in enumerate(averaging.REASONS)
    }
    return collections.OrderedDict(
      measurements, rejected_clients=tf.reduce_sum(rejected), **by_reason
    )

  @tff.federated_computation(
    apply_update.initialize.type_signature.result,
    tff.FederatedType(weights_type, tff.SERVER),
    tff.FederatedType(collected_type, tff.SERVER),
  )
  def next_fn(state, weights, collected):
    update, rejected = tff.federated_map(average, (weights, collected))
    output = apply_update.next(state, weights, update)
    return tff.templates.MeasuredProcessOutput(
      output.state,
      output.result,
      tff.federated_map(to_measurements, (output.measurements, rejected)),
    )

  return tff.learning.templates.FinalizerProcess(
    apply_update.initialize,
    next_fn,
    get_hparams_fn=apply_update.get_hparams,
    set_hparams_fn=apply_update.set_hparams,
  )
