"""TFF orchestration of the server's part: replay, aggregate, optimizer step."""

import collections

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import defense as defense_lib
from tff_fedsynth import objectives
from tff_fedsynth import privacy as privacy_lib
from tff_fedsynth import residual as residual_lib
from tff_fedsynth import synthetic_data


def replay_and_average(
  model,
  weights,
  spec,
  payloads,
  client_weights,
  residual=None,
  defense=defense_lib.DEFAULT,
  privacy=None,
):
  """Replays every payload and averages the updates, one after the other.

  Memory does not grow with the number of clients, beside their payloads, except
  for the aggregations in `defense.ROBUST`.

  Args:
    model: A `tff.learning.models.FunctionalModel`.
    weights: `(trainable, non_trainable)` tuples of tensors, as broadcast.
    spec: The `synthetic_data.SyntheticSpec` of all payloads.
    payloads: Payloads with a first axis of clients.
    client_weights: float32 [clients]; a client of weight zero was rejected.
    residual: The sketch of their residuals, if they have any.
    defense: What is refused, and how the rest is averaged.
    privacy: A `privacy.CentralPrivacy`, which replaces clipping and the mean.

  Returns:
    The mean of the updates, weighted unless robust, NaN if every client was
    rejected (but noise with `privacy`), and the rejected clients by reason, int32 [reasons].
  """
  check_privacy(privacy, defense)
  num_clients = tf.shape(client_weights)[0]

  def replay_client(i):
    payload = tf.nest.map_structure(lambda p: p[i], payloads)
    data = synthetic_data.decode(spec, payload, model, weights)
    update = residual_lib.decode_update(model, weights, spec, residual, payload)
    reason = defense_lib.rejection(defense, data, update, client_weights[i])
    # In TFF's graphs, == of tensors compares identities.
    accepted = tf.equal(reason, len(defense_lib.REASONS))
    # Not a product with zero, which would keep a NaN.
    update = tuple(tf.where(accepted, u, tf.zeros_like(u)) for u in update)
    return update, reason, accepted

  def each_client(function, *specs):
    """What a function of a client's number gives, stacked."""
    return tf.map_fn(
      function,
      tf.range(num_clients),
      fn_output_signature=specs[0] if len(specs) == 1 else specs,
      parallel_iterations=1,
    )

  if defense.update_clip_norm == 'adaptive':

    def norm_of(i):
      update, _, accepted = replay_client(i)
      return tf.sqrt(objectives.squared_norm(update)), accepted

    norms, accepted = each_client(norm_of, tf.float32, tf.bool)
    clip_norm = defense_lib.adaptive_norm(tf.boolean_mask(norms, accepted))
  else:
    clip_norm = defense.update_clip_norm
  if privacy is not None:
    clip_norm = privacy.clip_norm

  def clipped(i):
    update, reason, accepted = replay_client(i)
    if clip_norm is not None:
      update = defense_lib.clip(update, clip_norm)
    return update, reason, accepted

  if defense.aggregation != 'mean':
    update_specs = tuple(tf.TensorSpec(w.shape, w.dtype) for w in weights[0])
    updates, reasons, accepted = each_client(
      clipped, update_specs, tf.int32, tf.bool
    )
    mean = defense_lib.ROBUST[defense.aggregation](
      tuple(tf.boolean_mask(u, accepted) for u in updates), defense.trim
    )
    return mean, _count(reasons)

  def add_client(i, sums, total_weight, reasons):
    update, reason, accepted = clipped(i)
    weight = client_weights[i]
    if privacy is not None:
      weight = tf.ones_like(weight)
    if defense.max_client_weight is not None:
      weight = tf.minimum(weight, defense.max_client_weight)
    weight = tf.where(accepted, weight, 0.0)
    sums = tuple(s + weight * u for s, u in zip(sums, update))
    return i + 1, sums, total_weight + weight, reasons + _count(reason[None])

  zeros = tuple(tf.zeros_like(w) for w in weights[0])
  no_reasons = tf.zeros([len(defense_lib.REASONS)], tf.int32)
  _, sums, total_weight, reasons = tf.while_loop(
    lambda i, *_: i < num_clients,
    add_client,
    (0, zeros, tf.zeros([]), no_reasons),
    parallel_iterations=1,
  )
  if privacy is not None:
    return privacy.noisy_mean(sums), reasons
  return tuple(s / total_weight for s in sums), reasons


def check_privacy(
  privacy: privacy_lib.CentralPrivacy | None, defense: defense_lib.Defense
) -> None:
  """Raises `PrivacyError` for a defence that a guarantee does not cover."""
  if privacy is None:
    return
  for name, value, only in (
    ('aggregation', defense.aggregation, 'mean'),
    ('update_clip_norm', defense.update_clip_norm, None),
    ('max_client_weight', defense.max_client_weight, None),
  ):
    if value != only:
      raise privacy_lib.PrivacyError(
        f'{name}={value} cannot be combined with differential privacy, which '
        'clips and averages in its own way, every client alike. Leave it out.',
        name,
      )


def _count(reasons: tf.Tensor) -> tf.Tensor:
  """How many clients were rejected for each reason."""
  number = len(defense_lib.REASONS)
  return tf.math.bincount(reasons, minlength=number + 1)[:number]


def build_replay_finalizer(
  model: tff.learning.models.FunctionalModel,
  *,
  spec: synthetic_data.SyntheticSpec,
  weights_type: tff.types.StructWithPythonType,
  collected_type: tff.types.StructType,
  server_optimizer: tff.learning.optimizers.Optimizer,
  residual: residual_lib.Sketch | None = None,
  defense: defense_lib.Defense = defense_lib.DEFAULT,
  privacy: privacy_lib.CentralPrivacy | None = None,
) -> tff.learning.templates.FinalizerProcess:
  """Builds the process that turns collected payloads into a new model.

  Type signatures, with `W` the model's weights, `P[n]` payloads of n clients, `S`
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
    spec: The spec of all payloads.
    weights_type: The type of the model's weights.
    collected_type: The type of the result of `collection.build_collection`.
    server_optimizer: Applies the averaged update as if it were a gradient.
    residual: The sketch of the residual that each payload carries, if any.
    defense: What is refused, and how the rest is averaged. A measurement counts
      the clients rejected for each of `defense.REASONS`.
    privacy: Clips, averages alike and adds noise, if given.

  Returns:
    A `tff.learning.templates.FinalizerProcess`.

  Raises:
    PrivacyError: If `privacy` and `defense` do not go together.
  """
  check_privacy(privacy, defense)
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
        defense,
        privacy,
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
      for i, name in enumerate(defense_lib.REASONS)
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
