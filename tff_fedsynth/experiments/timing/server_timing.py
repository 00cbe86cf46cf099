"""Times what a server does with many messages, beside what TFF's FedAvg does.

Clients only draw their messages, so that nearly all of the time is the server's.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
import statistics
import time

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import tff_worker
from tff_fedsynth.client.config import SynthesisConfig
from tff_fedsynth.experiments.timing import timing
from tff_fedsynth.models import weights as weights_lib
from tff_fedsynth.payload import encoding
from tff_fedsynth.server import collection
from tff_fedsynth.server import config as config_lib
from tff_fedsynth.server import finalizer as finalizer_lib

# Whose round tells the time of a client.
_CLIENTS = 10
_SGD = tff.learning.optimizers.build_sgdm(1.0)


@dataclasses.dataclass(frozen=True)
class Row:
  """What a server does with the messages of a round.

  Attributes:
    count: Messages.
    replay_seconds: To collect payloads, replay them, and update the model.
    replay_memory: Peak memory of the worker meanwhile, in MiB.
    mean_seconds: To average as many updates, and update the model.
    mean_memory: Likewise.
    client_seconds: What as many clients of FedAvg take.
  """

  count: int
  replay_seconds: float
  replay_memory: float
  mean_seconds: float
  mean_memory: float
  client_seconds: float


def _build(draw, aggregate, finalizer, weights_type) -> tff.Computation:
  """From the model's weights, and a number of each client, to new weights."""

  @tff.tensorflow.computation(np.int32)
  def one(i):
    del i
    return tf.ones([])

  @tff.federated_computation(
    tff.FederatedType(weights_type, tff.SERVER),
    tff.FederatedType(np.int32, tff.CLIENTS),
  )
  def serve(weights, numbers):
    aggregated = aggregate.next(
      aggregate.initialize(),
      tff.federated_map(draw, numbers),
      tff.federated_map(one, numbers),
    )
    return finalizer.next(
      finalizer.initialize(), weights, aggregated.result
    ).result

  return serve


def _build_replay(model, config: SynthesisConfig) -> tff.Computation:
  """The server's part of FedSynth, for random synthetic data."""
  weights_type = weights_lib.model_weights_type(model)

  @tff.tensorflow.computation(np.int32)
  def draw(i):
    variables = encoding.initialize(
      config.spec,
      tf.stack([i, 0]),
      config.initial_stddev,
      config.initial_step_size,
    )
    return encoding.encode(config.spec, variables)

  collect = collection.build_collection(draw.type_signature.result)
  finalizer = finalizer_lib.build_decoding_finalizer(
    model,
    payload=config.payload,
    weights_type=weights_type,
    collected_type=collect.next.type_signature.result.result.member,
    server_optimizer=_SGD,
    config=config_lib.DEFAULT,
  )
  return _build(draw, collect, finalizer, weights_type)


def _build_mean(model) -> tff.Computation:
  """The server's part of TFF's FedAvg, for updates of one number each."""
  weights_type = weights_lib.model_weights_type(model)

  @tff.tensorflow.computation(np.int32)
  def draw(i):
    value = tf.cast(i, tf.float32)
    return tuple(tf.fill(w.shape, value) for w in model.initial_weights[0])

  aggregate = tff.aggregators.MeanFactory().create(
    draw.type_signature.result, tff.TensorType(np.float32)
  )
  finalizer = tff.learning.templates.build_apply_optimizer_finalizer(
    _SGD, weights_type
  )
  return _build(draw, aggregate, finalizer, weights_type)


def _seconds(run: Callable[[], object], rounds: int) -> float:
  """The median of some rounds, after one that traces and compiles."""
  seconds = []
  for _ in range(rounds + 1):
    start = time.perf_counter()
    run()
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds[1:])


def time_server(
  bench: timing.Bench, case: timing.Case, counts: Sequence[int], rounds: int
) -> Iterator[Row]:
  """Times the server's part for numbers of clients, each in a new worker.

  Args:
    bench: Of the model.
    case: Which payloads.
    counts: Numbers of clients.
    rounds: How often each is measured.
  """
  model = bench.model
  weights = tff.learning.models.ModelWeights(*model.initial_weights)
  ways = (_build_replay(model, bench.config(case)), _build_mean(model))
  fed_avg = timing.Case(clients=_CLIENTS)
  for count in counts:
    # Next to each other, in one minute of the machine.
    ((round_seconds, _, _),) = bench.time([fed_avg])
    measured = []
    for serve in ways:
      tff_worker.end_workers()
      serve_all = functools.partial(serve, weights, list(range(count)))
      measured += [_seconds(serve_all, rounds), timing.peak_memory()]
    yield Row(count, *measured, count * round_seconds / _CLIENTS)
