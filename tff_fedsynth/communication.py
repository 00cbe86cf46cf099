"""Bytes that one client sends and receives, read off a compiled process.

TFF's MapReduce form splits a round into what the server prepares, what a client
does, and what the server makes of it. The type between two of these parts is
exactly what crosses the network, for any `LearningProcess`: nobody has to count.
"""

import dataclasses

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff


@dataclasses.dataclass(frozen=True)
class Communication:
  """Bytes of one client in one round.

  Attributes:
    uplink_bytes: What the client sends so that the server can compute its next
      state: the update in any form, its weight, statistics of adaptive methods.
    downlink_bytes: What the client receives: weights, hyperparameters, seeds.
    metrics_bytes: What the client sends beyond that, only to be reported.
  """

  uplink_bytes: int
  downlink_bytes: int
  metrics_bytes: int


def type_bytes(type_spec: tff.types.Type) -> int:
  """The size in bytes of a value of a type: a structure of tensors.

  Raises:
    ValueError: If a tensor's shape is not fully defined.
  """
  if isinstance(type_spec, tff.TensorType):
    if not tff.types.is_shape_fully_defined(type_spec.shape):
      raise ValueError(f'The size of {type_spec} is not known in advance.')
    elements = int(np.prod(type_spec.shape, dtype=np.int64))
    return elements * np.dtype(type_spec.dtype).itemsize
  return sum(type_bytes(child) for child in type_spec.children())


def _compile(next_fn):
  # Types are all that is read: optimizing the graphs takes minutes of an LSTM.
  config = tf.compat.v1.ConfigProto()
  config.graph_options.rewrite_options.disable_meta_optimizer = True
  form = tff.backends.mapreduce.get_map_reduce_form_for_computation(
    next_fn, config
  )
  return (
    type_bytes(form.work.type_signature.result),
    type_bytes(form.prepare.type_signature.result),
  )


def measure(process: tff.learning.templates.LearningProcess) -> Communication:
  """Reads the communication of one client off `process.next`, compiled.

  Metrics are told apart by compiling a second time without the metrics of the
  result: what the compiler then leaves out was sent for them alone.

  Args:
    process: Any `tff.learning.templates.LearningProcess`.
  """
  state_type, data_type = process.next.type_signature.parameter

  @tff.federated_computation(state_type, data_type)
  def next_state(state, data):
    return process.next(state, data).state, tff.federated_value((), tff.SERVER)

  uplink, downlink = _compile(next_state)
  uplink_with_metrics, _ = _compile(process.next)
  return Communication(uplink, downlink, uplink_with_metrics - uplink)


def uplink_bytes(process: tff.learning.templates.LearningProcess) -> int:
  """Bytes that one client sends in a round, reported metrics left out."""
  return measure(process).uplink_bytes


def downlink_bytes(process: tff.learning.templates.LearningProcess) -> int:
  """Bytes that one client receives in a round."""
  return measure(process).downlink_bytes
