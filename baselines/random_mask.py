"""Random masks (Konecny et al. 2016, arXiv 1610.05492, section 2)."""

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff


class BudgetTooSmallError(ValueError):
  """No mask keeps a value and fits the budget."""


def _mask_indices(seed: tf.Tensor, size: int, kept: int) -> tf.Tensor:
  """`kept` different indices below `size`, int32, from one int32 seed."""
  seed = tf.stack([seed, 0])
  shuffled = tf.random.experimental.stateless_shuffle(tf.range(size), seed)
  return shuffled[:kept]


class RandomMaskFactory(tff.aggregators.UnweightedAggregationFactory):
  """Sums random subsets of the clients' values.

  Each client keeps `kept_values` of the n coordinates of its value, chosen
  uniformly without replacement, anew each round. It sends them as float32, and
  one int32 seed; the server draws the same mask again. Wrap it in
  `tff.aggregators.MeanFactory` to average updates:

    tff.learning.algorithms.build_weighted_fed_avg(..., model_aggregator=
      tff.aggregators.MeanFactory(RandomMaskFactory(kept_values=1000)))

  The created process has the type signatures

    initialize: ( -> int32[2]@SERVER)
    next: (<int32[2]@SERVER, {V}@CLIENTS> ->
           <state=int32[2]@SERVER, result=V@SERVER, measurements=<>@SERVER>)

  with `V` a structure of float32 tensors. The state holds a seed and the round.
  """

  def __init__(self, kept_values: int, *, unbiased: bool = True, seed: int = 0):
    """Initializes the factory.

    Args:
      kept_values: Number of coordinates that a client sends.
      unbiased: Whether values are multiplied by 1/p = n / kept_values, so that
        the expectation over masks is the value itself.
      seed: Of all masks.

    Raises:
      ValueError: If `kept_values` is below 1.
    """
    if kept_values < 1:
      raise ValueError(f'kept_values must be at least 1, found {kept_values}.')
    self._kept_values = kept_values
    self._unbiased = unbiased
    self._seed = seed

  def create(self, value_type: tff.Type) -> tff.templates.AggregationProcess:
    """Creates the process, see the class.

    Raises:
      TypeError: If the value is not a structure of float32 tensors.
      ValueError: If the value has fewer coordinates than are to be kept.
    """
    specs = tff.types.type_to_tf_tensor_specs(value_type)
    flat_specs = tf.nest.flatten(specs)
    if any(s.dtype != tf.float32 for s in flat_specs):
      raise TypeError(
        f'Random masks are for float32 values, but found {value_type}.'
      )
    sizes = [s.shape.num_elements() for s in flat_specs]
    size, kept = sum(sizes), self._kept_values
    if kept > size:
      raise ValueError(
        f'kept_values is {kept}, but the value has only {size} coordinates.'
      )
    factor = size / kept if self._unbiased else 1.0

    @tff.tensorflow.computation
    def initial_state():
      return tf.constant([self._seed, 0], tf.int32)

    @tff.tensorflow.computation(initial_state.type_signature.result)
    def next_state(state):
      return state + [0, 1]

    @tff.tensorflow.computation(initial_state.type_signature.result, value_type)
    def encode(state, value):
      flat = tf.concat(
        [tf.reshape(v, [-1]) for v in tf.nest.flatten(value)], axis=0
      )
      # All clients receive one seed; their data make it their own.
      fingerprint = tf.bitcast(tf.reduce_sum(flat), tf.int32)
      # Folding in alone would leave the first of two numbers as it is.
      folded = tf.random.experimental.stateless_fold_in(state, fingerprint)
      seed = tf.random.stateless_uniform(
        [], folded, minval=None, maxval=None, dtype=tf.int32
      )
      indices = _mask_indices(seed, size, kept)
      return collections.OrderedDict(
        values=factor * tf.gather(flat, indices), seed=seed
      )

    message_type = encode.type_signature.result
    sum_type = tff.TensorType(np.float32, [size])

    @tff.tensorflow.computation
    def zero():
      return tf.zeros([size], tf.float32)

    @tff.tensorflow.computation(sum_type, message_type)
    def accumulate(total, message):
      indices = _mask_indices(message['seed'], size, kept)
      return tf.tensor_scatter_nd_add(
        total, indices[:, tf.newaxis], message['values']
      )

    @tff.tensorflow.computation(sum_type, sum_type)
    def merge(a, b):
      return a + b

    @tff.tensorflow.computation(sum_type)
    def report(total):
      parts = [
        tf.reshape(part, spec.shape)
        for part, spec in zip(tf.split(total, sizes), flat_specs)
      ]
      return tf.nest.pack_sequence_as(specs, parts)

    @tff.federated_computation
    def init_fn():
      return tff.federated_eval(initial_state, tff.SERVER)

    @tff.federated_computation(
      init_fn.type_signature.result, tff.FederatedType(value_type, tff.CLIENTS)
    )
    def next_fn(state, value):
      messages = tff.federated_map(
        encode, (tff.federated_broadcast(state), value)
      )
      total = tff.federated_aggregate(
        messages, zero(), accumulate, merge, report
      )
      return tff.templates.MeasuredProcessOutput(
        tff.federated_map(next_state, state),
        total,
        tff.federated_value((), tff.SERVER),
      )

    return tff.templates.AggregationProcess(init_fn, next_fn)


def kept_values_for_budget(budget_bytes: int, parameters: int) -> int:
  """The most values that a client can send in a budget.

  Args:
    budget_bytes: Bytes one client may send a round: 4 a value, 4 for the seed
      and 4 for the client's weight.
    parameters: Number of coordinates.

  Raises:
    BudgetTooSmallError: If not even one value fits.
  """
  kept = min((budget_bytes - 8) // 4, parameters)
  if kept < 1:
    raise BudgetTooSmallError(
      f'A random mask needs at least 12 bytes, but the budget is {budget_bytes}.'
    )
  return kept
