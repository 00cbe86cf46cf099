"""Learning synthetic data on one client: the meta-optimisation, pure TensorFlow.

1. Train on the real data, as FedAvg would: the target update (for objectives
   that need one).
2. Start from noise and take optimizer steps on the synthetic data, each through
   a `replay`, seeing the values as the server will decode them.
3. Encode, decode, replay once more, choose the final scale.
4. Sketch what was missed, if that is asked for.
"""

import collections
import dataclasses
from typing import Any
from typing import NamedTuple

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import objectives
from tff_fedsynth import options
from tff_fedsynth import replay as replay_lib
from tff_fedsynth import residual as residual_lib
from tff_fedsynth import scaling
from tff_fedsynth import synthetic_data
from tff_fedsynth.models import keras_model
from tff_fedsynth.models.keras_model import split_batch


@dataclasses.dataclass(frozen=True)
class SynthesisConfig:
  """How a client learns its synthetic data.

  Attributes:
    spec: Shapes and encoding of the synthetic data; see `specs.build_spec`.
    objective: What is minimised: a name in `objectives.OBJECTIVES`, or an own
      `Objective`.
    optimizer: A `tff.learning.optimizers.Optimizer` of the synthetic data.
    iterations: Meta-steps of objectives that do not use real batches; the
      others take one a batch.
    initial_stddev: Standard deviation of the noise to start from.
    initial_step_size: Sum over the steps of the step sizes to start from.
    scaling: How the scale that is sent is chosen, for objectives that use the
      target: a name in `scaling.SCALINGS`.
    residual: A `residual.Sketch` of what the synthetic data missed, sent beside
      them. `None` leaves it out.
    diagnostics: Whether to measure local losses, and the cosine for objectives
      without a target; costs up to one local training and three passes over
      the real data.
    use_xla: Whether XLA compiles the meta-loop of objectives that do not use
      real batches. Slower for convolutions on a CPU; measure.
    loop_implementation: How real batches are read, as in
      `tff.learning.algorithms.build_weighted_fed_avg`. `DATASET_ITERATOR` takes
      half the time on a CPU, but can stall a TFF worker that has one core (see
      `experiments.workers`).

  Raises:
    UnknownObjectiveError: If no objective has the name.
    OptionError: If a number is out of its range, or no scaling has the name.
    TypeError: If the optimizer is not from `tff.learning.optimizers`.
  """

  spec: synthetic_data.SyntheticSpec
  objective: str | objectives.Objective = 'update_l2'
  optimizer: tff.learning.optimizers.Optimizer = dataclasses.field(
    default_factory=lambda: tff.learning.optimizers.build_adam(0.1)
  )
  iterations: int = options.limited(60, minimum=1)
  initial_stddev: float = options.limited(0.1, minimum=0)
  initial_step_size: float = options.limited(1.0, above=0)
  scaling: str = options.limited('least_squares', choices=scaling.SCALINGS)
  residual: residual_lib.Sketch | None = None
  diagnostics: bool = False
  use_xla: bool = False
  loop_implementation: tff.learning.LoopImplementation = (
    tff.learning.LoopImplementation.DATASET_REDUCE
  )

  def __post_init__(self):
    options.check(self)
    if not isinstance(self.optimizer, tff.learning.optimizers.Optimizer):
      raise TypeError(
        'optimizer must come from tff.learning.optimizers, found '
        f'{self.optimizer!r}.'
      )
    # Frozen: a name is replaced by what it stands for once, here.
    objective = objectives.get_objective(self.objective)
    object.__setattr__(self, 'objective', objective)

  @property
  def measures_target(self) -> bool:
    """Whether local training takes place."""
    return (
      self.objective.uses_target
      or self.diagnostics
      or self.residual is not None
    )


class LocalTraining(NamedTuple):
  """The result of training on real data.

  Attributes:
    update: Tensors like the trainable weights, before minus after.
    num_examples: int64 [], counted over all epochs, as in `tff.learning`.
    metrics: Unfinalized metrics of the model.
  """

  update: tuple[tf.Tensor, ...]
  num_examples: tf.Tensor
  metrics: Any


class SynthesisResult(NamedTuple):
  """What comes out of a client's synthesis.

  Attributes:
    payload: Encoded synthetic data, see `synthetic_data.payload_specs`; with a
      sketch of the residual, its message as `residual`.
    num_examples: int64 [], counted over all epochs.
    is_valid: bool []; False if there were no data, or if the synthetic data or
      their update are not finite. The payload is then all zeros.
    measurements: float32 scalars by name.
    train_metrics: Unfinalized metrics of the model, over local training; empty
      where none took place.
  """

  payload: collections.OrderedDict[str, Any]
  num_examples: tf.Tensor
  is_valid: tf.Tensor
  measurements: collections.OrderedDict[str, tf.Tensor]
  train_metrics: Any


def _real_loss(model, trainable, frozen, batch, training):
  x, y = split_batch(batch)
  outputs = model.predict_on_batch((trainable, frozen), x, training=training)
  return model.loss(outputs, y), outputs, y


def _loop(implementation):
  """A function like `Dataset.reduce`, in the way of TFF's FedAvg."""
  build = tff.learning.loop_builder.build_training_loop
  # TFF's loop is Python for AutoGraph, which is not on where we are called.
  loop = tf.function(build(implementation))
  return lambda dataset, state, function: loop(function, dataset, lambda: state)


def _batch_size(batch):
  return tf.shape(split_batch(batch)[0], out_type=tf.int64)[0]


def initial_optimizer_state(optimizer, hparams, values):
  """State of a TFF optimizer for tensors, with hyperparameters put in."""
  specs = tf.nest.map_structure(
    lambda t: tf.TensorSpec(t.shape, t.dtype), values
  )
  state = optimizer.initialize(specs)
  if hparams is not None:
    state = optimizer.set_hparams(state, hparams)
  # Loops carry tensors.
  return tf.nest.map_structure(tf.convert_to_tensor, state)


def local_training(
  model,
  weights,
  dataset,
  optimizer,
  optimizer_hparams=None,
  loop_implementation=tff.learning.LoopImplementation.DATASET_REDUCE,
) -> LocalTraining:
  """Trains on real data as TFF's FedAvg does (McMahan et al. 2017).

  Args:
    model: A `tff.learning.models.FunctionalModel`.
    weights: `(trainable, non_trainable)` tuples of tensors.
    dataset: Batched `tf.data.Dataset`, all epochs in a row.
    optimizer: A `tff.learning.optimizers.Optimizer`.
    optimizer_hparams: Hyperparameters to use in place of the optimizer's own.
    loop_implementation: See `SynthesisConfig`.
  """
  initial, frozen = weights

  def train_on_batch(state, batch):
    trainable, optimizer_state, num_examples, metrics = state
    with tf.GradientTape() as tape:
      tape.watch(trainable)
      loss, outputs, labels = _real_loss(
        model, trainable, frozen, batch, training=True
      )
    optimizer_state, trainable = optimizer.next(
      optimizer_state, trainable, tape.gradient(loss, trainable)
    )
    batch_size = _batch_size(batch)
    metrics = model.update_metrics_state(
      metrics,
      labels=labels,
      batch_output=tff.learning.models.BatchOutput(
        loss=loss,
        predictions=outputs,
        num_examples=tf.cast(batch_size, tf.int32),
      ),
    )
    return trainable, optimizer_state, num_examples + batch_size, metrics

  state = (
    tuple(initial),
    initial_optimizer_state(optimizer, optimizer_hparams, tuple(initial)),
    tf.constant(0, tf.int64),
    model.initialize_metrics_state(),
  )
  trained, _, num_examples, metrics = _loop(loop_implementation)(
    dataset, state, train_on_batch
  )
  update = tuple(w0 - w for w0, w in zip(initial, trained))
  return LocalTraining(update, num_examples, metrics)


def mean_loss(model, trainable, frozen, dataset) -> tf.Tensor:
  """Mean loss over a data set, a float32 scalar; 0 if it is empty.

  Over examples, or over what the loss of a batch is the mean of.
  """

  def add_batch(totals, batch):
    x, y = split_batch(batch)
    outputs = model.predict_on_batch((trainable, frozen), x, training=False)
    total, count = keras_model.loss_sum(model, outputs, y)
    return totals[0] + total, totals[1] + count

  total, count = dataset.reduce((tf.zeros([]), tf.zeros([])), add_batch)
  return tf.math.divide_no_nan(total, count)


def _client_seed(dataset, seed):
  """Folds a fingerprint of the client's data into the round's seed.

  Every client of a round receives the same seed. With the same noise to start
  from, their errors would add up in the average instead of cancelling.
  """

  def fingerprint(_, batch):
    total = tf.reduce_sum(tf.cast(split_batch(batch)[0], tf.float32))
    return tf.bitcast(total, tf.int32)

  data = dataset.take(1).reduce(tf.constant(0, tf.int32), fingerprint)
  return tf.random.experimental.stateless_fold_in(seed, data)


def learn(model, weights, dataset, target, config, hparams, seed):
  """Learns the variables of a client's synthetic data.

  Args:
    model: A `tff.learning.models.FunctionalModel`.
    weights: `(trainable, non_trainable)` tuples of tensors.
    dataset: Batched real data; read by objectives that use real batches.
    target: The real update, or `None` for objectives that do not use it.
    config: A `SynthesisConfig`.
    hparams: Hyperparameters of `config.optimizer`, or `None` for its own.
    seed: int32 [2], of the noise to start from.

  Returns:
    The variables, as in `synthetic_data.initialize`: the best that were seen, or
    the last ones for objectives that use real batches.
  """
  trainable, frozen = weights
  seeded = keras_model.seeded(model, seed)
  if config.objective.uses_batches:
    full_batch = dataset.take(1).reduce(
      tf.constant(0, tf.int64), lambda _, batch: _batch_size(batch)
    )

  def value_and_gradients(variables, batch=None):
    def batch_loss(update):
      updated = tuple(w - u for w, u in zip(trainable, update))
      loss, _, _ = _real_loss(seeded, updated, frozen, batch, training=True)
      # Every example weighs the same, those of a smaller last batch too.
      return loss * tf.cast(_batch_size(batch) / full_batch, loss.dtype)

    with tf.GradientTape() as tape:
      tape.watch(variables)
      data = synthetic_data.relax(config.spec, variables, model, weights)
      update = replay_lib.replay(model, weights, data, config.spec.loss_fn)
      if config.objective.uses_target:
        # At any scale of the data's own, as the best one is sent.
        scale = scaling.fit(update, target, config.spec.layer_scales > 0)
        update = scaling.apply(scale, update)
      value = config.objective.value(update, target, batch_loss)
    return value, tape.gradient(
      value, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )

  variables = synthetic_data.initialize(
    config.spec, seed, config.initial_stddev, config.initial_step_size
  )
  optimizer_state = initial_optimizer_state(
    config.optimizer, hparams, variables
  )
  if config.objective.uses_batches:

    def batch_step(state, batch):
      _, gradients = value_and_gradients(state[1], batch)
      return config.optimizer.next(*state, gradients)

    _, variables = _loop(config.loop_implementation)(
      dataset, (optimizer_state, variables), batch_step
    )
    return variables

  def step(i, optimizer_state, variables, best, least):
    value, gradients = value_and_gradients(variables)
    keep = lambda new, old: tf.where(value < least, new, old)
    best = tf.nest.map_structure(keep, variables, best)
    least = keep(value, least)
    state = config.optimizer.next(optimizer_state, variables, gradients)
    return i + 1, *state, best, least

  @tf.function(jit_compile=config.use_xla)
  def loop(optimizer_state, variables):
    # Rounded data jump about their optimum. One more look, at the last ones.
    *_, best, _ = tf.while_loop(
      lambda i, *_: i <= config.iterations,
      step,
      (0, optimizer_state, variables, variables, tf.constant(float('inf'))),
    )
    return best

  return loop(optimizer_state, variables)


def synthesize(
  model,
  weights,
  dataset,
  *,
  config: SynthesisConfig,
  client_optimizer,
  client_hparams,
  synthesis_hparams,
  seed: tf.Tensor,
) -> SynthesisResult:
  """One client's whole work: train, learn synthetic data, encode them.

  Args:
    model: A `tff.learning.models.FunctionalModel`.
    weights: `(trainable, non_trainable)` tuples of tensors.
    dataset: Batched `tf.data.Dataset` of the client's real data.
    config: A `SynthesisConfig`.
    client_optimizer: The `tff.learning.optimizers.Optimizer` of local training.
    client_hparams: Its hyperparameters, or `None` for its own.
    synthesis_hparams: Those of `config.optimizer`, likewise.
    seed: int32 [2], the same for all clients of a round.

  Returns:
    A `SynthesisResult`.
  """
  trainable, frozen = tuple(weights[0]), tuple(weights[1])
  weights = (trainable, frozen)
  client_seed = _client_seed(dataset, seed)
  if config.measures_target:
    training = local_training(
      keras_model.seeded(model, client_seed),
      weights,
      dataset,
      client_optimizer,
      client_hparams,
      config.loop_implementation,
    )
  else:
    num_examples = dataset.reduce(
      tf.constant(0, tf.int64), lambda n, batch: n + _batch_size(batch)
    )
    training = LocalTraining(None, num_examples, {})

  variables = learn(
    model,
    weights,
    dataset,
    training.update,
    config,
    synthesis_hparams,
    client_seed,
  )
  spec = config.spec
  ones = tf.ones(spec.scale_shape)
  unscaled = synthetic_data.encode(spec, variables, ones)
  data = synthetic_data.decode(spec, unscaled, model, weights)
  update = replay_lib.replay(model, weights, data, spec.loss_fn)
  scale = ones
  if config.objective.uses_target:
    scale = scaling.fit(
      update,
      training.update,
      spec.layer_scales > 0,
      scaling.SCALINGS[config.scaling],
    )
  # A single step has its size in there already.
  payload = collections.OrderedDict(unscaled, scale=scale * unscaled['scale'])
  update = scaling.apply(scale, update)

  measurements = collections.OrderedDict()
  if config.measures_target:
    measurements['cosine'] = objectives.cosine(update, training.update)
    measurements['relative_l2_error'] = tf.sqrt(
      objectives.relative_squared_error(update, training.update)
    )
  if config.residual is not None:
    payload['residual'] = residual_lib.encode(
      config.residual, training.update, update, client_seed
    )
    update = residual_lib.decode_update(
      model, weights, spec, config.residual, payload
    )
    measurements['relative_l2_error_with_residual'] = tf.sqrt(
      objectives.relative_squared_error(update, training.update)
    )
  if config.diagnostics:
    for name, subtracted in (
      ('local_loss_before', None),
      ('local_loss_after_training', training.update),
      ('local_loss_after_replay', update),
    ):
      applied = trainable
      if subtracted is not None:
        applied = tuple(w - u for w, u in zip(trainable, subtracted))
      measurements[name] = mean_loss(model, applied, frozen, dataset)

  is_valid = tf.logical_and(
    training.num_examples > 0,
    synthetic_data.all_finite([*tf.nest.flatten(payload), *update]),
  )
  zero_if_invalid = lambda t: tf.where(is_valid, t, tf.zeros_like(t))
  return SynthesisResult(
    payload=tf.nest.map_structure(zero_if_invalid, payload),
    num_examples=training.num_examples,
    is_valid=is_valid,
    measurements=tf.nest.map_structure(zero_if_invalid, measurements),
    train_metrics=tf.nest.map_structure(
      lambda m, initial: tf.where(is_valid, m, initial),
      training.metrics,
      model.initialize_metrics_state() if config.measures_target else {},
    ),
  )
