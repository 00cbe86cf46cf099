"""TFF orchestration of the client's part: `synthesis` as a ClientWorkProcess."""

import collections

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.client import synthesis
from tff_fedsynth.client.config import SynthesisConfig
from tff_fedsynth.models.weights import model_weights_type


def initial_hparams(optimizer: tff.learning.optimizers.Optimizer):
  """Hyperparameters of an optimizer, as the values of a server state."""
  return optimizer.get_hparams(
    optimizer.initialize(tf.TensorSpec(shape=(), dtype=tf.float32))
  )


def build_synthesis_computation(
  model: tff.learning.models.FunctionalModel,
  *,
  config: SynthesisConfig,
  client_optimizer: tff.learning.optimizers.Optimizer,
  state_type: tff.types.StructType,
) -> tff.Computation:
  """One client's work as a TFF computation, without placement.

  Args:
    model: The model to train.
    config: How synthetic data are learned.
    client_optimizer: The optimizer of local training.
    state_type: The type of the state of `build_synthesis_client_work`.

  Returns:
    A `tff.Computation` of type `(<S, W, D*> -> R)`: state, weights, batches to a
    `synthesis.SynthesisResult`.
  """
  data_type = tff.types.SequenceType(
    tff.types.tensorflow_to_type(model.input_spec)
  )

  @tff.tensorflow.computation(state_type, model_weights_type(model), data_type)
  def synthesize(state, weights, dataset):
    @tf.function
    def run(trainable, non_trainable, seed):
      return synthesis.synthesize(
        model,
        (trainable, non_trainable),
        dataset,
        config=config,
        client_optimizer=client_optimizer,
        client_hparams=state['client_optimizer'],
        synthesis_hparams=state['synthesis_optimizer'],
        seed=seed,
      )

    return run(weights.trainable, weights.non_trainable, state['seed'])

  return synthesize


def _build_state(config: SynthesisConfig, client_optimizer):
  """How the state begins and goes on, and its hyperparameters are read and set."""

  @tff.tensorflow.computation
  def initial_state():
    return collections.OrderedDict(
      seed=tf.constant([config.seed, 0], tf.int32),
      client_optimizer=initial_hparams(client_optimizer),
      synthesis_optimizer=initial_hparams(config.optimizer),
    )

  state_type = initial_state.type_signature.result

  @tff.tensorflow.computation(state_type)
  def next_state(state):
    return collections.OrderedDict(state, seed=state['seed'] + [0, 1])

  @tff.tensorflow.computation(state_type)
  def get_hparams_fn(state):
    return collections.OrderedDict(
      client_optimizer=state['client_optimizer'],
      synthesis_optimizer=state['synthesis_optimizer'],
    )

  @tff.tensorflow.computation(state_type, get_hparams_fn.type_signature.result)
  def set_hparams_fn(state, hparams):
    return collections.OrderedDict(seed=state['seed'], **hparams)

  return initial_state, next_state, get_hparams_fn, set_hparams_fn


def _build_client_result(
  result_type, client_weighting: tff.learning.ClientWeighting
) -> tff.Computation:
  """From a `SynthesisResult` to what is uploaded."""

  @tff.tensorflow.computation(result_type)
  def to_client_result(result):
    weight = tf.cast(result.is_valid, tf.float32)
    if client_weighting is tff.learning.ClientWeighting.NUM_EXAMPLES:
      weight *= tf.cast(result.num_examples, tf.float32)
    return tff.learning.templates.ClientResult(
      update=result.payload, update_weight=weight
    )

  return to_client_result


def _build_measurements(result_type, aggregate_metrics):
  """From the `SynthesisResult`s of all clients to means over the valid ones.

  Args:
    result_type: Of one result.
    aggregate_metrics: Of local training; `None` where there is none.
  """

  @tff.tensorflow.computation(result_type)
  def to_sums(result):
    return collections.OrderedDict(
      result.measurements, valid=tf.cast(result.is_valid, tf.float32)
    )

  @tff.tensorflow.computation(to_sums.type_signature.result)
  def to_means(sums):
    sums = collections.OrderedDict(sums)
    valid = sums.pop('valid')
    return collections.OrderedDict((k, v / valid) for k, v in sums.items())

  @tff.tensorflow.computation(result_type)
  def to_train_metrics(result):
    return result.train_metrics

  @tff.federated_computation(tff.FederatedType(result_type, tff.CLIENTS))
  def measure(result):
    measurements = collections.OrderedDict()
    if aggregate_metrics is not None:
      measurements['train'] = aggregate_metrics(
        tff.federated_map(to_train_metrics, result)
      )
    measurements['synthesis'] = tff.federated_map(
      to_means, tff.federated_sum(tff.federated_map(to_sums, result))
    )
    return tff.federated_zip(measurements)

  return measure


def build_synthesis_client_work(
  model: tff.learning.models.FunctionalModel,
  *,
  config: SynthesisConfig,
  client_optimizer: tff.learning.optimizers.Optimizer,
  client_weighting: tff.learning.ClientWeighting,
  metrics_aggregator: tff.learning.metrics.MetricsAggregatorType | None = None,
) -> tff.learning.templates.ClientWorkProcess:
  """Builds the process in which each client learns its synthetic data.

  The type signatures, with `P` the message of `config.payload`, `W` the model's
  weights, `D` a batch:

    initialize: ( -> S@SERVER)
    next: (<S@SERVER, {W}@CLIENTS, {D*}@CLIENTS> ->
           <state=S@SERVER,
            result={<update=P, update_weight=float32>}@CLIENTS,
            measurements=M@SERVER>)

  The state S is `<seed=int32[2], client_optimizer=H, synthesis_optimizer=H>`; the
  second number of `seed` counts the rounds. A client whose result is not valid
  has weight zero. Measurements are means over the valid clients, NaN where there
  is none.

  Args:
    model: The model to train.
    config: How synthetic data are learned.
    client_optimizer: The optimizer of local training.
    client_weighting: By examples, or uniform.
    metrics_aggregator: As in `tff.learning.algorithms.build_weighted_fed_avg`.

  Returns:
    A `tff.learning.templates.ClientWorkProcess`.
  """
  if metrics_aggregator is None:
    metrics_aggregator = tff.learning.metrics.sum_then_finalize
  initial_state, next_state, get_hparams_fn, set_hparams_fn = _build_state(
    config, client_optimizer
  )
  synthesize = build_synthesis_computation(
    model,
    config=config,
    client_optimizer=client_optimizer,
    state_type=initial_state.type_signature.result,
  )
  result_type = synthesize.type_signature.result
  to_client_result = _build_client_result(result_type, client_weighting)
  aggregate_metrics = None
  if config.measures_target:
    aggregate_metrics = metrics_aggregator(model.finalize_metrics)
  measure = _build_measurements(result_type, aggregate_metrics)

  @tff.federated_computation
  def init_fn():
    return tff.federated_eval(initial_state, tff.SERVER)

  @tff.federated_computation(
    init_fn.type_signature.result,
    tff.FederatedType(model_weights_type(model), tff.CLIENTS),
    tff.FederatedType(synthesize.type_signature.parameter[2], tff.CLIENTS),
  )
  def next_fn(state, weights, client_data):
    result = tff.federated_map(
      synthesize, (tff.federated_broadcast(state), weights, client_data)
    )
    return tff.templates.MeasuredProcessOutput(
      state=tff.federated_map(next_state, state),
      result=tff.federated_map(to_client_result, result),
      measurements=measure(result),
    )

  return tff.learning.templates.ClientWorkProcess(
    init_fn,
    next_fn,
    get_hparams_fn=get_hparams_fn,
    set_hparams_fn=set_hparams_fn,
  )
