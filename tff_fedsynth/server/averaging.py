"""The mean of many clients' updates: decoded, checked, averaged.

Pure TensorFlow. A server believes nothing of a message: numbers that are not
finite or beyond the bounds of `Defense` reject the client that sent them.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import tensorflow as tf

from tff_fedsynth import updates
from tff_fedsynth.payload.payload import Decoded
from tff_fedsynth.payload.payload import Payload
from tff_fedsynth.server.config import CentralPrivacy
from tff_fedsynth.server.config import Defense
from tff_fedsynth.server.config import ServerConfig
from tff_fedsynth.updates import Update

# Why a client has no part in the mean, in the order of the checks.
REASONS = ('weight', 'non_finite_payload', 'out_of_bounds', 'non_finite_update')

# `adaptive` clips at so many times the median norm of a round.
_ADAPTIVE_FACTOR = 2.0

# (update, reason, accepted): zeros where the client was rejected.
_Client = tuple[Update, tf.Tensor, tf.Tensor]


def rejection(
  defense: Defense, decoded: Decoded, weight: tf.Tensor
) -> tf.Tensor:
  """Returns which of `REASONS` applies first, int32 []; their number for none.

  Args:
    defense: The bounds.
    decoded: Message of a client, or the sum of several.
    weight: float32 [], or [clients].
  """
  within_bounds = [
    tf.reduce_all(tf.abs(values) <= getattr(defense, bound))
    for bound, parts in decoded.parts.items()
    for values in parts
  ]
  parts = [values for of_bound in decoded.parts.values() for values in of_bound]
  fine = (
    # not (x > 0) is also true for NaN.
    tf.reduce_all((weight > 0) & tf.math.is_finite(weight)),
    updates.all_finite(parts),
    tf.reduce_all([True, *within_bounds]),
    updates.all_finite(decoded.update),
  )
  failed = tf.cast(tf.logical_not(tf.stack([*fine, False])), tf.int32)
  return tf.argmax(failed, output_type=tf.int32)


def _count(reasons: tf.Tensor) -> tf.Tensor:
  """Counts the clients that were rejected for each reason."""
  number = len(REASONS)
  return tf.math.bincount(reasons, minlength=number + 1)[:number]


def _median(values: tf.Tensor, trim: float) -> tf.Tensor:
  """Returns the median of sorted values (Yin et al. 2018, definition 1)."""
  del trim
  count = tf.shape(values)[0]
  # Two of an even number; of none, NaN.
  return tf.reduce_mean(values[(count - 1) // 2 : count // 2 + 1], axis=0)


def _trimmed_mean(values: tf.Tensor, trim: float) -> tf.Tensor:
  """Returns the mean without extremes (Yin et al. 2018, definition 2).

  Args:
    values: float [clients, n], sorted, one client at least.
    trim: Share of the clients left out at each end, rounded down, below half.
  """
  count = tf.shape(values)[0]
  left_out = tf.cast(trim * tf.cast(count, tf.float32) + 1e-4, tf.int32)
  return tf.reduce_mean(values[left_out : count - left_out], axis=0)


# Those of each coordinate, which need all updates at once.
_ROBUST = {'median': _median, 'trimmed_mean': _trimmed_mean}


def _noisy_mean(privacy: CentralPrivacy, sums: Update) -> Update:
  """Adds noise to the sums of clipped updates, over the fixed denominator.

  The noise has no seed: who could draw it again could take it away.
  """
  stddev = privacy.clip_norm * privacy.noise_multiplier
  return tuple(
    (s + tf.random.normal(s.shape, stddev=stddev, dtype=s.dtype))
    / privacy.clients_per_round
    for s in sums
  )


@dataclasses.dataclass(frozen=True)
class _Clients:
  """The messages of a round, first axis of clients, and how they are decoded."""

  payload: Payload
  model: Any
  weights: Any
  messages: Any
  client_weights: tf.Tensor
  defense: Defense

  @property
  def number(self) -> tf.Tensor:
    return tf.shape(self.client_weights)[0]

  def decode(self, i: tf.Tensor) -> _Client:
    """Decodes one client's update, if nothing speaks against it."""
    message = tf.nest.map_structure(lambda p: p[i], self.messages)
    decoded = self.payload.decode(message, self.model, self.weights)
    reason = rejection(self.defense, decoded, self.client_weights[i])
    # In TFF's graphs, == of tensors compares identities.
    accepted = tf.equal(reason, len(REASONS))
    # Not a product with zero, which would keep a NaN.
    update = tuple(
      tf.where(accepted, u, tf.zeros_like(u)) for u in decoded.update
    )
    return update, reason, accepted

  def chunk(self, values: tf.Tensor, i: tf.Tensor) -> tf.Tensor:
    """Returns the values of a chunk of clients, from the first one's number."""
    size = self.payload.chunk_size
    return tf.ensure_shape(values[i : i + size], [size, *values.shape[1:]])

  def decode_sum(self, i: tf.Tensor, factors: tf.Tensor):
    """Decodes a chunk's sum of updates times factors, and whether all are fine."""
    messages = tf.nest.map_structure(lambda p: self.chunk(p, i), self.messages)
    decoded = self.payload.decode_sum(
      messages, factors, self.model, self.weights
    )
    weights = self.chunk(self.client_weights, i)
    reason = rejection(self.defense, decoded, weights)
    return decoded.update, tf.equal(reason, len(REASONS))

  def each(self, function: Callable[[tf.Tensor], Any], *specs):
    """Stacks what a function of a client's number returns."""
    return tf.map_fn(
      function,
      tf.range(self.number),
      fn_output_signature=specs,
      parallel_iterations=1,
    )


def _adaptive_norm(clients: _Clients) -> tf.Tensor:
  """Returns twice the median norm of the accepted updates."""

  def norm_of(i):
    update, _, accepted = clients.decode(i)
    return updates.norm(update), accepted

  norms, accepted = clients.each(norm_of, tf.float32, tf.bool)
  accepted_norms = tf.sort(tf.boolean_mask(norms, accepted))
  return _ADAPTIVE_FACTOR * _median(accepted_norms, 0.0)


def _robust_mean(clients: _Clients, clipped, config: ServerConfig):
  """Returns a mean that needs all updates at once, and the rejected clients."""
  update_specs = tuple(
    tf.TensorSpec(w.shape, w.dtype) for w in clients.weights[0]
  )
  stacked, reasons, accepted = clients.each(
    clipped, update_specs, tf.int32, tf.bool
  )
  of_sorted = _ROBUST[config.defense.aggregation]

  def mean_of(tensor):
    columns = tf.reshape(tensor, [tf.shape(tensor)[0], -1])
    mean = of_sorted(tf.sort(columns, axis=0), config.defense.trim)
    return tf.reshape(mean, tensor.shape[1:])

  kept = [tf.boolean_mask(tensor, accepted) for tensor in stacked]
  return tuple(map(mean_of, kept)), _count(reasons)


def _mean(clients: _Clients, clipped, config: ServerConfig):
  """Returns the weighted mean, or the noisy one, and the rejected clients."""
  privacy, most = config.privacy, config.defense.max_client_weight
  chunk_size = clients.payload.chunk_size

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
        i + chunk_size,
        tuple(s + u for s, u in zip(sums, update)),
        total_weight + tf.reduce_sum(weights),
        reasons,
      ),
      lambda: add_clients(i + chunk_size, i, sums, total_weight, reasons),
    )

  zeros = tuple(tf.zeros_like(w) for w in clients.weights[0])
  state = (0, zeros, tf.zeros([]), tf.zeros([len(REASONS)], tf.int32))
  # Who is clipped has to be seen alone.
  if chunk_size > 1 and config.clip_norm is None:
    state = tf.while_loop(
      lambda i, *_: i + chunk_size <= clients.number,
      add_chunk,
      state,
      parallel_iterations=1,
    )
  _, sums, total_weight, reasons = add_clients(clients.number, *state)
  if privacy is not None:
    return _noisy_mean(privacy, sums), reasons
  return tuple(s / total_weight for s in sums), reasons


def decode_and_average(
  payload: Payload,
  model,
  weights,
  messages,
  client_weights: tf.Tensor,
  config: ServerConfig,
) -> tuple[Update, tf.Tensor]:
  """Decodes every message and averages the updates.

  Memory does not grow with the number of clients, beside their messages, except
  for robust means. A message is decoded once; twice where updates are clipped to
  the median of their norms. For a weighted mean without clipping, messages are
  decoded in chunks, as `payload.chunk_size` has it. A chunk in which a client is
  to be rejected is decoded once more, one after the other.

  Args:
    payload: How messages are encoded.
    model: A `tff.learning.models.FunctionalModel`.
    weights: `(trainable, non_trainable)` tuples of tensors, as broadcast.
    messages: Messages with a first axis of clients.
    client_weights: float32 [clients]; a client of weight zero was rejected.
    config: What is refused, and how the rest is averaged.

  Returns:
    The mean of the updates, weighted unless robust, NaN if every client was
    rejected (but noise with `privacy`), and the number of rejected clients by
    reason, int32 [reasons].
  """
  clients = _Clients(
    payload, model, weights, messages, client_weights, config.defense
  )
  clip_norm = config.clip_norm
  if clip_norm == 'adaptive':
    clip_norm = _adaptive_norm(clients)

  def clipped(i):
    update, reason, accepted = clients.decode(i)
    if clip_norm is not None:
      update = updates.clip(update, clip_norm)
    return update, reason, accepted

  average = _mean if config.defense.aggregation == 'mean' else _robust_mean
  return average(clients, clipped, config)
