"""TFF orchestration of the server's part: replay, aggregate, optimizer step."""

import collections

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import codec as codec_lib
from tff_fedsynth import residual as residual_lib
from tff_fedsynth import synthetic_data


def replay_and_average(
  model, weights, spec, payloads, client_weights, residual=None
):
  """Replays every payload and averages the updates, one after the other.

  Memory does not grow with the number of clients, beside their payloads.

  Args:
    model: A `tff.learning.models.FunctionalModel`.
    weights: `(trainable, non_trainable)` tuples of tensors, as broadcast.
    spec: The `synthetic_data.SyntheticSpec` of all payloads.
    payloads: Payloads with a first axis of clients.
    client_weights: float32 [clients]; a client of weight zero was rejected.
    residual: The codec of their residuals, if they have any.

  Returns:
    The weighted mean of the updates, NaN if every client was rejected, and the
    int32 number of rejected clients.
  """
  num_clients = tf.shape(client_weights)[0]

  def add_client(i, sums, total_weight, rejected):
    payload = tf.nest.map_structure(lambda p: p[i], payloads)
    update = residual_lib.decode_update(model, weights, spec, residual, payload)
    is_finite = synthetic_data.all_finite(update)
    # not (x > 0) is also true for NaN.
    accepted = tf.logical_and(is_finite, client_weights[i] > 0)
    weight = tf.where(accepted, client_weights[i], 0.0)
    # Not a product with zero, which would keep a NaN.
    sums = tuple(
      s + tf.where(accepted, weight * u, tf.zeros_like(u))
      for s, u in zip(sums, update)
    )
    rejected += tf.cast(tf.logical_not(accepted), tf.int32)
    return i + 1, sums, total_weight + weight, rejected

  zeros = tuple(tf.zeros_like(w) for w in weights[0])
  _, sums, total_weight, rejected = tf.while_loop(
    lambda i, *_: i < num_clients,
    add_client,
    (0, zeros, tf.zeros([]), tf.constant(0)),
    parallel_iterations=1,
  )
  return tuple(s / total_weight for s in sums), rejected


def build_replay_finalizer(
  model: tff.learning.models.FunctionalModel,
  *,
  spec: synthetic_data.SyntheticSpec,
  weights_type: tff.types.StructWithPythonType,
  collected_type: tff.types.StructType,
  server_optimizer: tff.learning.optimizers.Optimizer,
  residual: codec_lib.Codec | None = None,
) -> tff.learning.templates.FinalizerProcess:
  """Builds the process that turns collected payloads into a new model.

  Type signatures, with `W` the model's weights, `P[n]` payloads of n clients, `S`
  the state of the server optimizer:

    initialize: ( -> S@SERVER)
    next: (<S@SERVER, W@SERVER, <payloads=P[n], weights=float32[n]>@SERVER> ->
           <state=S@SERVER,
            result=W@SERVER,
            measurements=<update_non_finite=int32, rejected_clients=int32>@SERVER>)

  A round in which every client was rejected leaves weights and optimizer state
  as they were; `update_non_finite` is then 1.

  Args:
    model: The model to train.
    spec: The spec of all payloads.
    weights_type: The type of the model's weights.
    collected_type: The type of the result of `collection.build_collection`.
    server_optimizer: Applies the averaged update as if it were a gradient.
    residual: The codec of the residual that each payload carries, if any.

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
    def run(trainable, non_trainable, payloads, client_weights):
      return replay_and_average(
        model,
        (trainable, non_trainable),
        spec,
        payloads,
        client_weights,
        residual,
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
    return collections.OrderedDict(measurements, rejected_clients=rejected)

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
