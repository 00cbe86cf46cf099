"""What lying clients can upload, and the way up that simulates them.

A payload is all that a client sends, so an attack is a function of payloads. The
strongest that is known here needs no optimizer: honest synthetic data with the
final scale turned round replay to the negative of the client's update.
"""

import collections
from collections.abc import Callable
from collections.abc import Mapping
import functools

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.server import collection

# From payloads and weights of attackers, first axis of attackers, to others.
Payloads = Mapping[str, tf.Tensor]
Attack = Callable[[Payloads, tf.Tensor], tuple[Payloads, tf.Tensor]]


def _fill(value: float, *names: str) -> Attack:
  """Puts a number into some fields; into all floats if none is named."""

  def attack(payloads, weights):
    filled = {
      name: tf.fill(tf.shape(p), tf.cast(value, p.dtype))
      for name, p in payloads.items()
      if p.dtype.is_floating and (not names or name in names)
    }
    return {**payloads, **filled}, weights

  return attack


def _scale(*names: str, by: float, weight: float = 1.0) -> Attack:
  def attack(payloads, weights):
    scaled = {name: by * payloads[name] for name in names}
    return {**payloads, **scaled}, weight * weights

  return attack


def _zeros(payloads, weights):
  return tf.nest.map_structure(tf.zeros_like, payloads), weights


def _random_bytes(payloads, weights):
  # Others every round, as honest payloads are; and the same when run again.
  bits = tf.bitcast(tf.reshape(payloads['scale'], [-1])[0], tf.int32)
  result = {}
  for i, (name, p) in enumerate(payloads.items()):
    drawn = tf.random.stateless_uniform(
      tf.shape(p), [bits, i], minval=None, maxval=None, dtype=tf.int32
    )
    whole = {1: tf.uint8, 2: tf.uint16, 4: tf.uint32}[p.dtype.size]
    result[name] = tf.bitcast(tf.cast(drawn, whole), p.dtype)
  return result, weights


ATTACKS: dict[str, Attack] = {
  'nan': _fill(float('nan')),
  'infinity': _fill(float('inf')),
  # About as large as float16 can be, which ranges are.
  'huge_values': _fill(6e4, 'inputs', 'inputs_range'),
  'huge_scale': _fill(1e30, 'scale'),
  'random_bytes': _random_bytes,
  'zeros': _zeros,
  'push_away': _scale('scale', by=-1.0),
  'push_away_10_times': _scale('scale', by=-10.0),
  'push_away_and_lying_weight': _scale('scale', by=-1.0, weight=1000.0),
}


def build_attacked_collection(
  payload_type: tff.types.StructType, *, attack: Attack, attackers: int
) -> tff.templates.AggregationProcess:
  """A `collection.build_collection` in which the first clients lie.

  Args:
    payload_type: The type of one client's payload.
    attack: What they upload in place of their payloads.
    attackers: How many they are; all, if there are fewer.
  """
  honest = collection.build_collection(payload_type)
  collected_type = honest.next.type_signature.result.result.member

  @tff.tensorflow.computation(collected_type)
  def lie(collected):
    first = lambda t: t[:attackers]
    payloads, weights = attack(
      tf.nest.map_structure(first, collected['payloads']),
      first(collected['weights']),
    )
    joined = tf.nest.map_structure(
      lambda lies, all_of_it: tf.concat([lies, all_of_it[attackers:]], axis=0),
      collections.OrderedDict(
        payloads=collections.OrderedDict(
          (name, payloads[name]) for name in collected['payloads']
        ),
        weights=weights,
      ),
      collected,
    )
    return joined

  @tff.federated_computation(*honest.next.type_signature.parameter)
  def next_fn(state, payloads, weights):
    output = honest.next(state, payloads, weights)
    return tff.templates.MeasuredProcessOutput(
      output.state, tff.federated_map(lie, output.result), output.measurements
    )

  return tff.templates.AggregationProcess(honest.initialize, next_fn)


def collection_with(name: str, attackers: int):
  """A `collection_fn` for `build_fedsynth` with an attack by its name."""
  return functools.partial(
    build_attacked_collection, attack=ATTACKS[name], attackers=attackers
  )
