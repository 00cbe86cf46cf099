"""Learning synthetic data on one client: the meta-optimization, pure TensorFlow.

1. Train on the real data, as FedAvg would: the target update (for objectives
   that need one).
2. Start from noise and take optimizer steps on the synthetic data, each through
   a `replay`, seeing the values as the server will decode them.
3. Solve for the labels, where they are a least-squares problem.
4. Encode them, with the best scale, and a sketch of the residual, if that is
   asked for.

The best labels for given inputs. One step with labels r that the loss is linear
in replays to u = J^T r, where J is the Jacobian of the outputs in the weights, at
the synthetic inputs. The labels that minimize |J^T r - t|^2 are a least-squares
problem (variable projection, Golub & Pereyra 1973). `solve_labels` takes steps of
conjugate gradients on it (CGLS, Hestenes & Stiefel 1952). J^T p is a replay with
labels p, and J e is the gradient of a replay in its labels, in the direction e:
nothing as large as J is formed.
"""

import collections
from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tff_fedsynth import updates
from tff_fedsynth.client import local_training
from tff_fedsynth.client.config import SynthesisConfig
from tff_fedsynth.client.local_training import LocalTraining
from tff_fedsynth.models import keras_model
from tff_fedsynth.payload import encoding
from tff_fedsynth.payload.replay import replay

# Iterations in a row that gain too little, before learning stops.
_PATIENCE = 3


class SynthesisResult(NamedTuple):
  """The result of a client's synthesis.

  Attributes:
    payload: Message of `config.payload`.
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


def _scale_labels(config, variables):
  """Gives labels a learning rate of their own, for objectives with real batches.

  Adam moves each variable by its rate, so it is a scale that does so.
  """
  scale = 1.0  # Without it, TensorFlow orders sums in another way.
  if config.objective.uses_batches:
    scale = config.label_learning_rate / config.learning_rate
  return collections.OrderedDict(variables, labels=scale * variables['labels'])


def _build_objective(model, weights, target, config):
  """Builds the objective of variables, and of a loss of updates, if it uses one."""

  def value_of(variables, batch_loss=None):
    scaled = _scale_labels(config, variables)
    data = encoding.relax(config.spec, scaled, model, weights)
    update = replay(model, weights, data, config.spec.loss_fn)
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
  """Computes a value, and its gradient in the variables."""
  with tf.GradientTape() as tape:
    tape.watch(variables)
    value = value_of(variables, *arguments)
  return value, tape.gradient(
    value, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
  )


def _learn_on_batches(model, weights, dataset, config, state, value_of):
  """Takes one optimizer step a real batch and epoch; returns the last variables."""
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
  """Takes `config.iterations` steps at most.

  Returns:
    The best variables seen, and their value.
  """

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
      goes_on = tf.logical_and(goes_on, loop_state[-1] < _PATIENCE)
    return goes_on

  @tf.function(jit_compile=config.use_xla)
  def loop(optimizer_state, variables):
    start = (0, optimizer_state, variables, variables, np.float32('inf'), 0)
    return tf.while_loop(goes_on, step, start)[3:5]

  return loop(*state)


def solve_labels(model, weights, variables, target, spec, steps: int):
  """Takes steps of CGLS towards the labels whose update is nearest to the target.

  Each step lessens |J^T r - target|. Inputs are taken as the server will decode
  them. Of sparse labels, only those that are sent are changed.

  Args:
    model: A `tff.learning.models.FunctionalModel`.
    weights: `(trainable, non_trainable)` tuples of tensors.
    variables: As in `encoding.initialize`; labels to start from.
    target: The local update.
    spec: A `SyntheticSpec` of one step with linear labels.
    steps: Number of steps, from 0; a few, as more bring out rounding errors.

  Returns:
    The variables, with other labels.
  """
  data = encoding.relax(spec, variables, model, weights)
  free = tf.ones_like(data.labels)
  if spec.is_sparse:
    free = tf.cast(tf.not_equal(data.labels, 0), tf.float32)

  def replay_labels(labels):
    moved = data._replace(labels=labels)
    return replay(model, weights, moved, spec.loss_fn)

  with tf.GradientTape(persistent=True) as tape:
    tape.watch(data.labels)
    update = replay_labels(data.labels)

  def descent(error):
    # The gradient of a linear function is the same for all labels.
    return free * tape.gradient(
      update,
      data.labels,
      output_gradients=error,
      unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )

  scale = updates.best_scale(update, target)
  solved = scale * data.labels
  error = tuple(t - scale * u for t, u in zip(target, update))

  def step(i, solved, error, direction, length):
    moved = replay_labels(direction)
    size = tf.math.divide_no_nan(length, updates.squared_norm(moved))
    solved += size * direction
    error = tuple(e - size * m for e, m in zip(error, moved))
    gradient = descent(error)
    last, length = length, tf.reduce_sum(gradient**2)
    direction = gradient + tf.math.divide_no_nan(length, last) * direction
    return i + 1, solved, error, direction, length

  gradient = descent(error)
  # A loop of TensorFlow: the graph of a replay can be large.
  _, solved, _, _, _ = tf.while_loop(
    lambda i, *_: i < steps,
    step,
    (0, solved, error, gradient, tf.reduce_sum(gradient**2)),
  )
  return {**variables, 'labels': solved}


def learn(model, weights, dataset, target, config, hparams, seed):
  """Learns the variables of a client's synthetic data.

  Args:
    model: A `tff.learning.models.FunctionalModel`.
    weights: `(trainable, non_trainable)` tuples of tensors.
    dataset: Batched real data; read by objectives that use real batches.
    target: The local update, or `None` for objectives that do not use it.
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
  value_of = _build_objective(model, weights, target, config)
  if config.objective.uses_batches:
    seeded = keras_model.seeded(model, seed)
    return _learn_on_batches(seeded, weights, dataset, config, state, value_of)
  variables, value = _learn_on_target(config, state, value_of)
  if not config.solves_labels:
    return variables
  solved = solve_labels(
    model, weights, variables, target, config.spec, config.label_steps
  )
  # Rounding can cost more than was gained.
  is_better = value_of(solved) < value
  keep = lambda new, old: tf.where(is_better, new, old)
  return tf.nest.map_structure(keep, solved, variables)


def _train(model, weights, dataset, config, optimizer, hparams, seed):
  """Trains locally, or counts the examples where that is all that is needed."""
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


def _measure(model, weights, dataset, config, target, encoded):
  """Measures how near the update that is sent comes to the local one; by name."""
  measured = collections.OrderedDict()
  if config.measures_target:
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
    for name, update in (
      ('local_loss_before', tf.nest.map_structure(tf.zeros_like, trainable)),
      ('local_loss_after_training', target),
      ('local_loss_after_replay', encoded.update),
    ):
      applied = tuple(w - u for w, u in zip(trainable, update))
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
  """Does one client's whole work: train, learn synthetic data, encode them.

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
  target, num_examples, metrics = _train(
    model, weights, dataset, config, client_optimizer, client_hparams, seed
  )
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
  measurements = _measure(model, weights, dataset, config, target, encoded)
  tensors = [*tf.nest.flatten(encoded.message), *encoded.update]
  is_valid = tf.logical_and(num_examples > 0, updates.all_finite(tensors))
  zero_if_invalid = lambda t: tf.where(is_valid, t, tf.zeros_like(t))
  return SynthesisResult(
    payload=tf.nest.map_structure(zero_if_invalid, encoded.message),
    num_examples=num_examples,
    is_valid=is_valid,
    measurements=tf.nest.map_structure(zero_if_invalid, measurements),
    train_metrics=tf.nest.map_structure(
      lambda m, initial: tf.where(is_valid, m, initial),
      metrics,
      model.initialize_metrics_state() if config.measures_target else {},
    ),
  )
