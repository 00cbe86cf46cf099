"""Learning synthetic data on one client: the meta-optimization, pure TensorFlow.

1. Train on the real data, as FedAvg would: the target update (for objectives
   that need one).
2. Start from noise and take optimizer steps on the synthetic data, each through
   a `replay`, seeing the values as the server will decode them.
3. Encode them, with the best scale, and a sketch of what was missed, if that is
   asked for.
"""

import collections
from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tff_fedsynth import updates
from tff_fedsynth.client.config import SynthesisConfig
from tff_fedsynth.client.labels import exact_labels
from tff_fedsynth.client.training import local_training
from tff_fedsynth.client.training.local_training import LocalTraining
from tff_fedsynth.models import keras_model
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload import replay as replay_lib

# Iterations in a row that gain too little, before learning stops.
_MOST_IDLE = 3


class SynthesisResult(NamedTuple):
  """What comes out of a client's synthesis.

  Attributes:
    payload: The message of `config.payload`.
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


def _label_scale(config) -> float:
  """What learned labels are multiplied with.

  Adam moves each variable by its rate, so a scale gives labels a rate of their own.
  """
  if not config.objective.uses_batches:
    return 1.0
  return config.label_learning_rate / config.learning_rate


def _scale_labels(config, variables):
  labels = _label_scale(config) * variables['labels']
  return collections.OrderedDict(variables, labels=labels)


def _objective(model, weights, target, config):
  """A function of variables, and of a function from an update to a loss."""

  def value_of(variables, batch_loss=None):
    scaled = _scale_labels(config, variables)
    data = encoding.relax(config.spec, scaled, model, weights)
    update = replay_lib.replay(model, weights, data, config.spec.loss_fn)
    if config.objective.uses_target:
      # At any scale of the data's own, as the best one is sent.
      scale = updates.best_scale(update, target)
      update = updates.scaled(scale, update)
    value = config.objective.value(update, target, batch_loss)
    if config.objective.uses_batches:
      value += config.proximal * updates.squared_norm(update)
    return value

  return value_of


def _gradients(value_of, variables, *arguments):
  """A value, and its gradient in the variables."""
  with tf.GradientTape() as tape:
    tape.watch(variables)
    value = value_of(variables, *arguments)
  return value, tape.gradient(
    value, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
  )


def _learn_on_batches(model, weights, dataset, config, state, value_of):
  """One optimizer step a real batch and pass; the last variables."""
  trainable, frozen = weights
  largest = local_training.largest_batch(dataset)

  def batch_step(state, batch):
    def batch_loss(update):
      updated = tuple(w - u for w, u in zip(trainable, update))
      loss, _, _ = local_training.real_loss(
        model, updated, frozen, batch, training=True
      )
      return loss

    _, gradients = _gradients(value_of, state[1], batch_loss)
    optimizer_state, variables = config.optimizer.next(*state, gradients)
    # Every example weighs the same, those of a smaller batch too. Adam would take
    # as long a step for a smaller loss.
    share = tf.cast(local_training.batch_size(batch) / largest, tf.float32)
    shorten = lambda new, old: tf.where(
      share < 1, old + share * (new - old), new
    )
    return optimizer_state, tf.nest.map_structure(shorten, variables, state[1])

  loop = local_training.batch_loop(config.loop_implementation)
  _, variables = loop(dataset.repeat(config.passes), state, batch_step)
  return _scale_labels(config, variables)


def _learn_on_target(config, state, value_of):
  """At most `config.iterations` steps; the best variables seen, and their value."""

  def step(i, optimizer_state, variables, best, least, idle):
    value, gradients = _gradients(value_of, variables)
    idle = tf.where(value < (1 - config.minimum_gain) * least, 0, idle + 1)
    keep = lambda new, old: tf.where(value < least, new, old)
    best = tf.nest.map_structure(keep, variables, best)
    least = keep(value, least)
    state = config.optimizer.next(optimizer_state, variables, gradients)
    return i + 1, *state, best, least, idle

  def goes_on(i, *loop_state):
    # Rounded data jump about their optimum. One more look, at the last ones.
    goes_on = i <= config.iterations
    if config.minimum_gain > 0:
      goes_on = tf.logical_and(goes_on, loop_state[-1] < _MOST_IDLE)
    return goes_on

  @tf.function(jit_compile=config.use_xla)
  def loop(optimizer_state, variables):
    start = (0, optimizer_state, variables, variables, np.float32('inf'), 0)
    return tf.while_loop(goes_on, step, start)[3:5]

  return loop(*state)


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
    The variables, as in `encoding.initialize`: the best that were seen, or the
    last ones for objectives that use real batches.
  """
  variables = encoding.initialize(
    config.spec, seed, config.initial_stddev, config.initial_step_size
  )
  if config.objective.uses_batches and config.spec.has_linear_labels:
    # The first update is zero, not one of the wrong size.
    variables['labels'] = tf.zeros_like(variables['labels'])
  optimizer_state = local_training.initial_optimizer_state(
    config.optimizer, hparams, variables
  )
  state = (optimizer_state, variables)
  value_of = _objective(model, weights, target, config)
  if not config.objective.uses_batches:
    variables, value = _learn_on_target(config, state, value_of)
    if not config.solves_labels:
      return variables
    solved = exact_labels.solve(
      model, weights, variables, target, config.spec, config.label_steps
    )
    # Rounding can cost more than was gained.
    is_better = value_of(solved) < value
    keep = lambda new, old: tf.where(is_better, new, old)
    return tf.nest.map_structure(keep, solved, variables)
  seeded = keras_model.seeded(model, seed)
  return _learn_on_batches(seeded, weights, dataset, config, state, value_of)


def _train(model, weights, dataset, config, optimizer, hparams, seed):
  """Local training, or a count of examples where none is needed."""
  if not config.measures_target:
    num_examples = local_training.count_examples(dataset)
    return LocalTraining(None, num_examples, {})
  return local_training.local_training(
    keras_model.seeded(model, seed),
    weights,
    dataset,
    optimizer,
    hparams,
    config.loop_implementation,
  )


def _measure(model, weights, dataset, config, training, encoded):
  """How near the update that is sent comes to the real one; by name."""
  measured = collections.OrderedDict()
  if config.measures_target:
    target = training.update
    measured['cosine'] = updates.cosine(encoded.replayed, target)
    measured['relative_l2_error'] = tf.sqrt(
      updates.relative_squared_error(encoded.replayed, target)
    )
  if config.residual is not None:
    measured['relative_l2_error_with_residual'] = tf.sqrt(
      updates.relative_squared_error(encoded.update, target)
    )
    if config.residual.alone is not None:
      is_alone = encoded.message['is_alone']
      measured['sends_synthetic_data'] = 1 - tf.cast(is_alone, tf.float32)
  if config.diagnostics:
    trainable, frozen = weights
    for name, subtracted in (
      ('local_loss_before', None),
      ('local_loss_after_training', target),
      ('local_loss_after_replay', encoded.update),
    ):
      applied = trainable
      if subtracted is not None:
        applied = tuple(w - u for w, u in zip(trainable, subtracted))
      measured[name] = local_training.mean_loss(model, applied, frozen, dataset)
  return measured


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
  weights = (tuple(weights[0]), tuple(weights[1]))
  dataset = local_training.usable_batches(dataset)
  seed = local_training.client_seed(dataset, seed)
  training = _train(
    model, weights, dataset, config, client_optimizer, client_hparams, seed
  )
  target = training.update
  variables = learn(
    model, weights, dataset, target, config, synthesis_hparams, seed
  )
  encoded = config.payload.encode(
    variables,
    model,
    weights,
    target=target,
    fits_scale=config.objective.uses_target,
    seed=seed,
  )
  measurements = _measure(model, weights, dataset, config, training, encoded)
  tensors = [*tf.nest.flatten(encoded.message), *encoded.update]
  is_valid = tf.logical_and(
    training.num_examples > 0, updates.all_finite(tensors)
  )
  zero_if_invalid = lambda t: tf.where(is_valid, t, tf.zeros_like(t))
  return SynthesisResult(
    payload=tf.nest.map_structure(zero_if_invalid, encoded.message),
    num_examples=training.num_examples,
    is_valid=is_valid,
    measurements=tf.nest.map_structure(zero_if_invalid, measurements),
    train_metrics=tf.nest.map_structure(
      lambda m, initial: tf.where(is_valid, m, initial),
      training.metrics,
      model.initialize_metrics_state() if config.measures_target else {},
    ),
  )
