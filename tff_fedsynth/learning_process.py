"""`build_fedsynth`: the whole method as one `LearningProcess`."""

from collections.abc import Callable

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import client_work as client_work_lib
from tff_fedsynth import collection
from tff_fedsynth import defense as defense_lib
from tff_fedsynth import finalizer as finalizer_lib
from tff_fedsynth import privacy as privacy_lib
from tff_fedsynth import specs
from tff_fedsynth import synthesis
from tff_fedsynth import verification


class SecureAggregationError(TypeError):
  """Secure aggregation was asked for, which FedSynth cannot use."""


def build_fedsynth(
  model: tff.learning.models.FunctionalModel,
  client_optimizer: tff.learning.optimizers.Optimizer,
  server_optimizer: tff.learning.optimizers.Optimizer | None = None,
  *,
  config: synthesis.SynthesisConfig,
  client_weighting: tff.learning.ClientWeighting = (
    tff.learning.ClientWeighting.NUM_EXAMPLES
  ),
  metrics_aggregator: tff.learning.metrics.MetricsAggregatorType | None = None,
  defense: defense_lib.Defense = defense_lib.DEFAULT,
  privacy: privacy_lib.CentralPrivacy | None = None,
  collection_fn: Callable[
    [tff.types.StructType], tff.templates.AggregationProcess
  ] = collection.build_collection,
  model_aggregator: None = None,
  seed: int = 0,
) -> tff.learning.templates.LearningProcess:
  """Builds FedSynth (Hu et al. 2022, arXiv 2204.01273) as a `LearningProcess`.

  Each round, a client learns synthetic data such that training on them does what
  its real data did, and uploads the data; the server replays them and averages
  the updates. Use it where `tff.learning.algorithms.build_weighted_fed_avg` would
  stand. The type of `next` is

    (<L@SERVER, {D*}@CLIENTS> -> <state=L@SERVER, metrics=M@SERVER>)

  with `L` a `tff.learning.templates.LearningAlgorithmState` and `D` a batch as
  `model.input_spec` has it. Metrics are those of
  `client_work.build_synthesis_client_work` and `finalizer.build_replay_finalizer`.

  Args:
    model: A model with float inputs that is differentiable twice. Classifiers
      (integer labels) must output logits.
    client_optimizer: Trains on the real data.
    server_optimizer: Applies the averaged update; SGD of rate 1 if `None`.
    config: What a client learns and uploads, and how.
    client_weighting: By examples, or uniform.
    metrics_aggregator: As in `build_weighted_fed_avg`.
    defense: What the server refuses, and how it averages the rest.
    privacy: Central differential privacy of the models; `privacy` says of what.
    collection_fn: From a payload's type to the process that carries payloads to
      the server; another one simulates clients that lie.
    model_aggregator: Must be `None`; see Raises.
    seed: Of all randomness on clients; it travels in the state.

  Returns:
    A `tff.learning.templates.LearningProcess`.

  Raises:
    SyntheticSpecError: If a payload would not be smaller than the model.
    CodecError: If the codec of the residual does not fit the model.
    ResidualError: If the codec of the residual is biased.
    OptionError: If the seed is no 32-bit integer.
    SecureAggregationError: If `model_aggregator` is given: updates exist only
      after the replay, on the server, which therefore sees single payloads.
    PrivacyError: If `privacy` does not go with `defense` or `client_weighting`.
    TypeError: If `model` is no `FunctionalModel`, or an optimizer is not from
      `tff.learning.optimizers`.
    UnsupportedModelError: If TensorFlow differentiates a replay wrongly; see
      `verification.check_replay`.
  """
  if model_aggregator is not None:
    raise SecureAggregationError(
      'FedSynth takes no model_aggregator: the server has to see each payload '
      'by itself to replay it, so secure aggregation, or any aggregation on '
      'the way to the server, cannot be combined with it. Leave '
      'model_aggregator unset.'
    )
  if not isinstance(model, tff.learning.models.FunctionalModel):
    raise TypeError(
      'model must be a tff.learning.models.FunctionalModel, found '
      f'{type(model)}. tff_fedsynth.models.from_keras makes one of a Keras model.'
    )
  uniform = client_weighting is tff.learning.ClientWeighting.UNIFORM
  if privacy is not None and not uniform:
    raise privacy_lib.PrivacyError(
      'Differential privacy weighs all clients alike: how many examples one has '
      'is private too. Choose uniform client_weighting.'
    )
  if server_optimizer is None:
    server_optimizer = tff.learning.optimizers.build_sgdm(1.0)
  for name, optimizer in (
    ('client_optimizer', client_optimizer),
    ('server_optimizer', server_optimizer),
  ):
    if not isinstance(optimizer, tff.learning.optimizers.Optimizer):
      raise TypeError(
        f'{name} must come from tff.learning.optimizers, found {optimizer!r}.'
      )
  specs.check_smaller_than_model(config.spec, model, config.residual)
  verification.check_replay(model, config.spec)

  @tff.tensorflow.computation
  def initial_weights():
    return tff.learning.models.ModelWeights(
      *(tuple(map(tf.constant, weights)) for weights in model.initial_weights)
    )

  weights_type = initial_weights.type_signature.result
  client_work = client_work_lib.build_synthesis_client_work(
    model,
    config=config,
    client_optimizer=client_optimizer,
    client_weighting=client_weighting,
    seed=seed,
    metrics_aggregator=metrics_aggregator,
  )
  payload_type = client_work.next.type_signature.result.result.member.update
  collect = collection_fn(payload_type)
  return tff.learning.templates.compose_learning_process(
    initial_weights,
    tff.learning.templates.build_broadcast_process(weights_type),
    client_work,
    collect,
    finalizer_lib.build_replay_finalizer(
      model,
      spec=config.spec,
      weights_type=weights_type,
      collected_type=collect.next.type_signature.result.result.member,
      server_optimizer=server_optimizer,
      residual=config.residual,
      defense=defense,
      privacy=privacy,
    ),
  )
