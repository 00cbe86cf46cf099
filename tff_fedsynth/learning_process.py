"""`build_fedsynth`: the whole method as one `LearningProcess`."""

from typing import Optional, Union

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import client_work as client_work_lib
from tff_fedsynth import collection
from tff_fedsynth import finalizer as finalizer_lib
from tff_fedsynth import objectives
from tff_fedsynth import replay
from tff_fedsynth import synthesis
from tff_fedsynth import synthetic_data


class SecureAggregationError(TypeError):
  """Secure aggregation was asked for, which FedSynth cannot use."""


def model_parameters(model: tff.learning.models.FunctionalModel) -> int:
  """The number of trainable floats of a model."""
  return int(sum(np.size(w) for w in model.initial_weights[0]))


def output_size(model: tff.learning.models.FunctionalModel) -> int:
  """The size of the last axis of a model's outputs: classes of a classifier."""

  @tff.tensorflow.computation(
    client_work_lib.model_weights_type(model), model.input_spec[0]
  )
  def predict(weights, inputs):
    return model.predict_on_batch(
      (weights.trainable, weights.non_trainable), inputs, training=False
    )

  return predict.type_signature.result.shape[-1]


def build_spec(
  model: tff.learning.models.FunctionalModel, **fields
) -> synthetic_data.SyntheticSpec:
  """A `SyntheticSpec` with the shapes of a model's inputs and labels.

  Args:
    model: A model with float inputs; integer labels are class numbers.
    **fields: `steps`, `batch_size`, `bits` and `resolution` of the spec.

  Raises:
    SyntheticSpecError: If inputs are not one float tensor, or a field is out of
      its range, or a payload would not be smaller than the model.
  """
  inputs, labels = model.input_spec
  if not isinstance(inputs, tf.TensorSpec) or not inputs.dtype.is_floating:
    raise synthetic_data.SyntheticSpecError(
      'FedSynth learns inputs by their gradient, so the model must take one '
      f'float tensor, but its inputs are {inputs}. Apply lookups and casts '
      'before the model, in the data set.'
    )
  soft_labels = replay.has_integer_labels(model)
  spec = synthetic_data.SyntheticSpec(
    input_shape=tuple(inputs.shape[1:]),
    label_shape=(output_size(model),) if soft_labels else tuple(labels.shape[1:]),
    soft_labels=soft_labels,
    **fields,
  )
  check_smaller_than_model(spec, model)
  return spec


def check_smaller_than_model(spec, model) -> None:
  """Raises `SyntheticSpecError` where a payload would not save anything."""
  model_bytes = 4 * model_parameters(model)
  if spec.payload_bytes >= model_bytes:
    raise synthetic_data.SyntheticSpecError(
      f'The synthetic data take {spec.payload_bytes} bytes a client, the model '
      f'itself {model_bytes}. Choose fewer steps or examples, fewer bits, or a '
      'lower resolution.'
    )


def build_fedsynth(
  model: tff.learning.models.FunctionalModel,
  client_optimizer: tff.learning.optimizers.Optimizer,
  server_optimizer: Optional[tff.learning.optimizers.Optimizer] = None,
  *,
  spec: synthetic_data.SyntheticSpec,
  objective: Union[str, objectives.Objective] = 'update_l2',
  synthesis_optimizer: Optional[tff.learning.optimizers.Optimizer] = None,
  iterations: int = 60,
  initial_stddev: float = 0.1,
  initial_step_size: float = 1.0,
  client_weighting: tff.learning.ClientWeighting = (
    tff.learning.ClientWeighting.NUM_EXAMPLES
  ),
  metrics_aggregator: Optional[tff.learning.metrics.MetricsAggregatorType] = None,
  model_aggregator: None = None,
  seed: int = 0,
  diagnostics: bool = False,
  use_xla: bool = False,
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
    spec: What a client learns and uploads; see `build_spec`.
    objective: A name in `objectives.OBJECTIVES`, or an own `Objective`.
    synthesis_optimizer: Learns the synthetic data; Adam of rate 0.05 if `None`.
    iterations: Steps of the synthesis optimizer, for objectives that do not use
      real batches. The others take one step a real batch.
    initial_stddev: Standard deviation of the noise that synthesis starts from.
    initial_step_size: Sum over the steps of the step sizes it starts from.
    client_weighting: By examples, or uniform.
    metrics_aggregator: As in `build_weighted_fed_avg`.
    model_aggregator: Must be `None`; see Raises.
    seed: Of all randomness on clients; it travels in the state.
    diagnostics: Whether to measure local losses before, after real training and
      after replay; costs extra passes over the clients' data.
    use_xla: Whether XLA compiles the synthesis loop of objectives that do not
      use real batches. Slower for convolutions on a CPU; measure.

  Returns:
    A `tff.learning.templates.LearningProcess`.

  Raises:
    SyntheticSpecError: If a payload would not be smaller than the model.
    SecureAggregationError: If `model_aggregator` is given: updates exist only
      after the replay, on the server, which therefore sees single payloads.
    TypeError: If `model` is no `FunctionalModel`, or an optimizer is not from
      `tff.learning.optimizers`.
    ValueError: If the objective is unknown or `iterations` is below 1.
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
  if server_optimizer is None:
    server_optimizer = tff.learning.optimizers.build_sgdm(1.0)
  if synthesis_optimizer is None:
    synthesis_optimizer = tff.learning.optimizers.build_adam(0.05)
  for name, optimizer in (
    ('client_optimizer', client_optimizer),
    ('server_optimizer', server_optimizer),
    ('synthesis_optimizer', synthesis_optimizer),
  ):
    if not isinstance(optimizer, tff.learning.optimizers.Optimizer):
      raise TypeError(
        f'{name} must come from tff.learning.optimizers, found {optimizer!r}.'
      )
  if iterations < 1:
    raise ValueError(f'iterations must be at least 1, found {iterations}.')
  check_smaller_than_model(spec, model)

  config = synthesis.SynthesisConfig(
    spec=spec,
    objective=objectives.get_objective(objective),
    optimizer=synthesis_optimizer,
    iterations=iterations,
    initial_stddev=initial_stddev,
    initial_step_size=initial_step_size,
    diagnostics=diagnostics,
    use_xla=use_xla,
  )

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
  collect = collection.build_collection(payload_type)
  return tff.learning.templates.compose_learning_process(
    initial_weights,
    tff.learning.templates.build_broadcast_process(weights_type),
    client_work,
    collect,
    finalizer_lib.build_replay_finalizer(
      model,
      spec=spec,
      weights_type=weights_type,
      collected_type=collect.next.type_signature.result.result.member,
      server_optimizer=server_optimizer,
    ),
  )
