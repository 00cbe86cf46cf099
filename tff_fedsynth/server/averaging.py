"""The mean of many clients' updates, decoded alone or in chunks; pure TensorFlow."""

from collections.abc import Callable
import dataclasses
from typing import Any

import tensorflow as tf

from tff_fedsynth import updates
from tff_fedsynth.payload.payload import CodecPayload
from tff_fedsynth.payload.payload import Payload
from tff_fedsynth.server import defense as defense_lib
from tff_fedsynth.server.config import ServerConfig
from tff_fedsynth.updates import Update

# (update, reason, accepted): zeros where the client was rejected.
_Client = tuple[Update, tf.Tensor, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class _Clients:
  """The messages of a round, first axis of clients, and how they are decoded."""

  payload: Payload | CodecPayload
  model: Any
  weights: Any
  messages: Any
  client_weights: tf.Tensor
  defense: defense_lib.Defense

  @property
  def number(self) -> tf.Tensor:
    return tf.shape(self.client_weights)[0]

  def decode(self, i: tf.Tensor) -> _Client:
    """One client's update, if nothing speaks against it."""
    message = tf.nest.map_structure(lambda p: p[i], self.messages)
    decoded = self.payload.decode(message, self.model, self.weights)
    reason = defense_lib.rejection(
      self.defense, decoded, self.client_weights[i]
    )
    # In TFF's graphs, == of tensors compares identities.
    accepted = tf.equal(reason, len(defense_lib.REASONS))
    # Not a product with zero, which would keep a NaN.
    update = tuple(
      tf.where(accepted, u, tf.zeros_like(u)) for u in decoded.update
    )
    return update, reason, accepted

  @property
  def chunk_size(self) -> int:
    """Clients that are decoded together; 1 where each has to be alone."""
    return self.payload.chunk_size

  def chunk(self, values: tf.Tensor, i: tf.Tensor) -> tf.Tensor:
    """The values of a chunk of clients, from the first one's number."""
    part = values[i : i + self.chunk_size]
    return tf.ensure_shape(part, [self.chunk_size, *values.shape[1:]])

  def decode_sum(self, i: tf.Tensor, factors: tf.Tensor):
    """A chunk's sum of updates times factors, if nothing speaks against any."""
    messages = tf.nest.map_structure(lambda p: self.chunk(p, i), self.messages)
    decoded = self.payload.decode_sum(
      messages, factors, self.model, self.weights
    )
    weights = self.chunk(self.client_weights, i)
    reason = defense_lib.rejection(self.defense, decoded, weights)
    return decoded.update, tf.equal(reason, len(defense_lib.REASONS))

  def each(self, function: Callable[[tf.Tensor], Any], *specs):
    """What a function of a client's number gives, stacked."""
    return tf.map_fn(
      function,
      tf.range(self.number),
      fn_output_signature=specs[0] if len(specs) == 1 else specs,
      parallel_iterations=1,
    )


def _clip_norm(clients: _Clients, config: ServerConfig) -> tf.Tensor | None:
  """What updates are clipped to."""
  if config.privacy is not None:
    return config.privacy.clip_norm
  if config.defense.update_clip_norm != 'adaptive':
    return config.defense.update_clip_norm

  def norm_of(i):
    update, _, accepted = clients.decode(i)
    return updates.norm(update), accepted

  norms, accepted = clients.each(norm_of, tf.float32, tf.bool)
  return defense_lib.adaptive_norm(tf.boolean_mask(norms, accepted))


def _robust_mean(clients: _Clients, clipped, config: ServerConfig):
  """The mean of an aggregation that needs all updates at once."""
  update_specs = tuple(
    tf.TensorSpec(w.shape, w.dtype) for w in clients.weights[0]
  )
  stacked, reasons, accepted = clients.each(
    clipped, update_specs, tf.int32, tf.bool
  )
  mean = defense_lib.ROBUST[config.defense.aggregation](
    tuple(tf.boolean_mask(u, accepted) for u in stacked), config.defense.trim
  )
  return mean, _count(reasons)


def _mean(clients: _Clients, clipped, config: ServerConfig):
  """The weighted mean, or the noisy one of differential privacy."""
  privacy, most = config.privacy, config.defense.max_client_weight

  def weigh(weights):
    if privacy is not None:
      return tf.ones_like(weights)
    return weights if most is None else tf.minimum(weights, most)

  def add_client(i, sums, total_weight, reasons):
    update, reason, accepted = clipped(i)
    weight = tf.where(accepted, weigh(clients.client_weights[i]), 0.0)
    sums = tuple(s + weight * u for s, u in zip(sums, update))
    return i + 1, sums, total_weight + weight, reasons + _count(reason[None])

  def add_clients(end, *state):
    return tf.while_loop(
      lambda i, *_: i < end, add_client, state, parallel_iterations=1
    )

  def add_chunk(i, sums, total_weight, reasons):
    weights = weigh(clients.chunk(clients.client_weights, i))
    update, accepted = clients.decode_sum(i, weights)
    return tf.cond(
      accepted,
      lambda: (
        i + clients.chunk_size,
        tuple(s + u for s, u in zip(sums, update)),
        total_weight + tf.reduce_sum(weights),
        reasons,
      ),
      lambda: add_clients(
        i + clients.chunk_size, i, sums, total_weight, reasons
      ),
    )

  zeros = tuple(tf.zeros_like(w) for w in clients.weights[0])
  no_reasons = tf.zeros([len(defense_lib.REASONS)], tf.int32)
  state = (0, zeros, tf.zeros([]), no_reasons)
  # Who is clipped has to be seen alone.
  if clients.chunk_size > 1 and not config.clips:
    state = tf.while_loop(
      lambda i, *_: i + clients.chunk_size <= clients.number,
      add_chunk,
      state,
      parallel_iterations=1,
    )
  _, sums, total_weight, reasons = add_clients(clients.number, *state)
  if privacy is not None:
    return privacy.noisy_mean(sums), reasons
  return tuple(s / total_weight for s in sums), reasons


def _count(reasons: tf.Tensor) -> tf.Tensor:
  """How many clients were rejected for each reason."""
  number = len(defense_lib.REASONS)
  return tf.math.bincount(reasons, minlength=number + 1)[:number]


def decode_and_average(
  payload: Payload | CodecPayload,
  model,
  weights,
  messages,
  client_weights: tf.Tensor,
  config: ServerConfig,
) -> tuple[Update, tf.Tensor]:
  """Decodes every message and averages the updates.

  Memory does not grow with the number of clients, beside their messages, except
  for the aggregations in `defense.ROBUST`. A message is decoded once; twice where
  updates are clipped to the median of their norms. For a weighted mean without
  clipping, messages are decoded in chunks, as `payload.chunk_size` has it. A chunk
  in which a client is to be rejected is decoded once more, one after the other.

  Args:
    payload: How messages are encoded.
    model: A `tff.learning.models.FunctionalModel`.
    weights: `(trainable, non_trainable)` tuples of tensors, as broadcast.
    messages: Messages with a first axis of clients.
    client_weights: float32 [clients]; a client of weight zero was rejected.
    config: What is refused, and how the rest is averaged.

  Returns:
    The mean of the updates, weighted unless robust, NaN if every client was
    rejected (but noise with `privacy`), and the rejected clients by reason, int32
    [reasons].
  """
  clients = _Clients(
    payload, model, weights, messages, client_weights, config.defense
  )
  clip_norm = _clip_norm(clients, config)

  def clipped(i):
    update, reason, accepted = clients.decode(i)
    if clip_norm is not None:
      update = updates.clip(update, clip_norm)
    return update, reason, accepted

  average = _mean if config.defense.aggregation == 'mean' else _robust_mean
  return average(clients, clipped, config)
