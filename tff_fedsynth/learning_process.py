"""Whole methods as `LearningProcess`es: FedSynth, and FedAvg after any codec."""

from collections.abc import Callable
import dataclasses

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import budget
from tff_fedsynth import errors
from tff_fedsynth import replay_check
from tff_fedsynth.client import client_work as client_work_lib
from tff_fedsynth.client.config import SynthesisConfig
from tff_fedsynth.client.local_training import get_optimizer
from tff_fedsynth.client.local_training import Optimizer
from tff_fedsynth.compression import codec as codec_lib
from tff_fedsynth.models.keras_model import split_batch
from tff_fedsynth.payload.payload import CodecPayload
from tff_fedsynth.server import collection
from tff_fedsynth.server import config as config_lib
from tff_fedsynth.server import finalizer as finalizer_lib
from tff_fedsynth.server.config import ServerConfig


class SecureAggregationError(errors.UserError, TypeError):
  """Secure aggregation was asked for, which FedSynth cannot use."""


def _model(model_fn) -> tff.learning.models.FunctionalModel:
  """What `model_fn` is or returns.

  Raises:
    TypeError: If that is no `FunctionalModel`.
    UnsupportedModelError: If its batches are no pairs of inputs and labels.
  """
  model = model_fn
  if callable(model_fn) and not isinstance(
    model_fn, tff.learning.models.FunctionalModel
  ):
    model = model_fn()
  if not isinstance(model, tff.learning.models.FunctionalModel):
    raise TypeError(
      'model_fn must be a tff.learning.models.FunctionalModel, or return one, '
      f'found {type(model)}. tff_fedsynth.from_keras makes one of a Keras model.'
    )
  split_batch(model.input_spec)
  return model


def _optimizers(client_optimizer_fn, server_optimizer_fn):
  """Returns both optimizers; SGD of rate 1 where the server has none."""
  if server_optimizer_fn is None:
    server_optimizer_fn = tff.learning.optimizers.build_sgdm(1.0)
  return (
    get_optimizer('client_optimizer_fn', client_optimizer_fn),
    get_optimizer('server_optimizer_fn', server_optimizer_fn),
  )


def _compose(
  model, distributor, client_work, build_collect, payload, optimizer, config
):
  """A process of a client's work, a collection, and a server that decodes."""

  @tff.tensorflow.computation
  def initial_weights():
    return tff.learning.models.ModelWeights(
      *(tuple(map(tf.constant, weights)) for weights in model.initial_weights)
    )

  weights_type = initial_weights.type_signature.result
  collect = build_collect(
    client_work.next.type_signature.result.result.member.update
  )
  return tff.learning.templates.compose_learning_process(
    initial_weights,
    distributor or tff.learning.templates.build_broadcast_process(weights_type),
    client_work,
    collect,
    finalizer_lib.build_decoding_finalizer(
      model,
      payload=payload,
      weights_type=weights_type,
      collected_type=collect.next.type_signature.result.result.member,
      server_optimizer=optimizer,
      config=config,
    ),
  )


def _payload(model, config: SynthesisConfig):
  """What is uploaded; decoded alone where a sum would differ."""
  payload = config.payload
  if payload.chunk_size == 1 or replay_check.has_independent_examples(
    model, config.spec
  ):
    return payload
  return dataclasses.replace(payload, examples_at_once=1)


def build_fedsynth(
  model_fn: tff.learning.models.FunctionalModel,
  client_optimizer_fn: Optimizer | Callable[[], Optimizer],
  server_optimizer_fn: Optimizer | Callable[[], Optimizer] | None = None,
  *,
  config: SynthesisConfig,
  client_weighting: tff.learning.ClientWeighting = (
    tff.learning.ClientWeighting.NUM_EXAMPLES
  ),
  model_distributor: tff.learning.templates.DistributionProcess | None = None,
  metrics_aggregator: tff.learning.metrics.MetricsAggregatorType | None = None,
  server: ServerConfig = config_lib.DEFAULT,
  model_aggregator: None = None,
) -> tff.learning.templates.LearningProcess:
  """Builds FedSynth (Hu et al. 2022, arXiv 2204.01273) as a `LearningProcess`.

  Each round, a client learns synthetic data such that training on them does what
  its real data did, and uploads them; the server replays them and averages the
  updates. Arguments are named as those of `build_weighted_fed_avg`, in whose place
  this can be called with a `config` more; the `loop_implementation` is in there.
  The type of `next` is

    (<L@SERVER, {D*}@CLIENTS> -> <state=L@SERVER, metrics=M@SERVER>)

  with `L` a `tff.learning.templates.LearningAlgorithmState` and `D` a batch as
  `model.input_spec` has it. Metrics are those of `build_synthesis_client_work`
  and `build_decoding_finalizer`.

  Args:
    model_fn: A model with float inputs that is differentiable twice, or a function
      that returns one. Classifiers (integer labels) must output logits.
    client_optimizer_fn: Trains on the real data; an optimizer of
      `tff.learning.optimizers`, or a function that returns one.
    server_optimizer_fn: Applies the averaged update; SGD of rate 1 if `None`.
    config: What a client learns and uploads, and how.
    client_weighting: By examples, or uniform.
    model_distributor: As in `build_weighted_fed_avg`.
    metrics_aggregator: As in `build_weighted_fed_avg`.
    server: What the server refuses, how it averages the rest, and privacy.
    model_aggregator: Must be `None`; see Raises.

  Returns:
    A `tff.learning.templates.LearningProcess`.

  Raises:
    SyntheticSpecError: If a payload would not be smaller than the model.
    CodecError, ResidualError: If the codec of the residual does not fit the
      model, or is biased.
    SecureAggregationError: If `model_aggregator` is given: the server has to see
      single payloads.
    PrivacyError: If `server.privacy` does not go with `client_weighting`.
    TypeError: If `model_fn` gives no `FunctionalModel`, or an optimizer is not from
      `tff.learning.optimizers`.
    UnsupportedModelError: See `replay_check.check_replay`; or if batches are no
      pairs of inputs and labels.
  """
  if model_aggregator is not None:
    raise SecureAggregationError(
      'FedSynth takes no model_aggregator: the server has to see each payload '
      'by itself to replay it, so secure aggregation, or any aggregation on '
      'the way to the server, cannot be combined with it. Leave '
      'model_aggregator unset.'
    )
  model = _model(model_fn)
  client_optimizer, server_optimizer = _optimizers(
    client_optimizer_fn, server_optimizer_fn
  )
  server.check_weighting(client_weighting)
  budget.check_smaller_than_model(config.payload, model)
  replay_check.check_replay(model, config.spec)
  client_work = client_work_lib.build_synthesis_client_work(
    model,
    config=config,
    client_optimizer=client_optimizer,
    client_weighting=client_weighting,
    metrics_aggregator=metrics_aggregator,
  )
  return _compose(
    model,
    model_distributor,
    client_work,
    server.collection_fn,
    _payload(model, config),
    server_optimizer,
    server,
  )


def build_codec_fed_avg(
  model_fn: tff.learning.models.FunctionalModel,
  client_optimizer_fn: Optimizer | Callable[[], Optimizer],
  server_optimizer_fn: Optimizer | Callable[[], Optimizer] | None = None,
  *,
  codec: codec_lib.Codec,
  client_weighting: tff.learning.ClientWeighting = (
    tff.learning.ClientWeighting.NUM_EXAMPLES
  ),
  server: ServerConfig = config_lib.DEFAULT,
  seed: int = 0,
  loop_implementation: tff.learning.LoopImplementation = (
    tff.learning.LoopImplementation.DATASET_REDUCE
  ),
) -> tff.learning.templates.LearningProcess:
  """Builds FedAvg after a codec, on a server that sees single updates.

  Unlike `baselines.aggregation.CodecSumFactory`, which sums updates as they come,
  it can refuse, clip and average them as `server` says. Uploads are the same.

  Args:
    model_fn: The model to train, as in `build_fedsynth`.
    client_optimizer_fn: Trains on the real data, likewise.
    server_optimizer_fn: Applies the averaged update; SGD of rate 1 if `None`.
    codec: Encodes updates on clients.
    client_weighting: By examples, or uniform.
    server: What the server refuses, how it averages the rest, and differential
      privacy.
    seed: Of all that clients draw.
    loop_implementation: As in `build_weighted_fed_avg`.

  Raises:
    CodecError: If the codec does not fit the model.
    OptionError: If the seed is no 32-bit integer.
    PrivacyError: If `server.privacy` does not go with `client_weighting`.
    TypeError: If `model_fn` gives no `FunctionalModel`, or an optimizer is not from
      `tff.learning.optimizers`.
  """
  model = _model(model_fn)
  client_optimizer, server_optimizer = _optimizers(
    client_optimizer_fn, server_optimizer_fn
  )
  server.check_weighting(client_weighting)
  client_work = tff.learning.templates.build_functional_model_delta_client_work(
    model=model,
    optimizer=client_optimizer,
    client_weighting=client_weighting,
    metrics_aggregator=tff.learning.metrics.sum_then_finalize,
    loop_implementation=loop_implementation,
  )

  def build_collect(update_type):
    return collection.build_encoded_collection(
      codec, update_type, collection_fn=server.collection_fn, seed=seed
    )

  return _compose(
    model,
    None,
    client_work,
    build_collect,
    CodecPayload(codec),
    server_optimizer,
    server,
  )
