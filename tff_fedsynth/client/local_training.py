"""Training on a client's real data, as TFF's FedAvg does; pure TensorFlow."""

from typing import Any
from typing import NamedTuple

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import options
from tff_fedsynth import seeds
from tff_fedsynth.models import keras_model
from tff_fedsynth.models.keras_model import split_batch

Optimizer = tff.learning.optimizers.Optimizer


class ClippedOptimizer(Optimizer):
  """Clips gradients to a global norm (Pascanu et al. 2013), then optimizes.

  TFF's own optimizers do not clip.
  """

  def __init__(self, optimizer: Optimizer, norm: float):
    """Wraps an optimizer.

    Args:
      optimizer: Gets the clipped gradients.
      norm: Largest norm over all tensors together.

    Raises:
      OptionError: If the norm is not above 0, or not finite.
    """
    options.check_number('norm', norm, above=0)
    self._optimizer = optimizer
    self._norm = norm

  def initialize(self, specs):
    return self._optimizer.initialize(specs)

  def next(self, state, weights, gradients):
    flat = tf.nest.flatten(
      tff.learning.optimizers.handle_indexed_slices_gradients(gradients)
    )
    clipped, _ = tf.clip_by_global_norm(flat, self._norm)
    gradients = tf.nest.pack_sequence_as(weights, clipped)
    return self._optimizer.next(state, weights, gradients)

  def get_hparams(self, state):
    return self._optimizer.get_hparams(state)

  def set_hparams(self, state, hparams):
    return self._optimizer.set_hparams(state, hparams)


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


def get_optimizer(name: str, optimizer_fn) -> Optimizer:
  """Returns what an argument for an optimizer is or returns.

  Raises:
    TypeError: If that is no optimizer of `tff.learning.optimizers`.
  """
  optimizer = optimizer_fn
  if callable(optimizer_fn) and not isinstance(optimizer_fn, Optimizer):
    optimizer = optimizer_fn()
  if not isinstance(optimizer, Optimizer):
    raise TypeError(
      f'{name} must come from tff.learning.optimizers, or return what does, found '
      f'{optimizer!r}.'
    )
  return optimizer


def initial_optimizer_state(optimizer: Optimizer, hparams, values):
  """Returns an optimizer's state for tensors, with hyperparameters put in."""
  specs = tf.nest.map_structure(
    lambda t: tf.TensorSpec(t.shape, t.dtype), values
  )
  state = optimizer.initialize(specs)
  if hparams is not None:
    state = optimizer.set_hparams(state, hparams)
  # Loops carry tensors.
  return tf.nest.map_structure(tf.convert_to_tensor, state)


def batch_size(batch) -> tf.Tensor:
  """Returns the number of examples in a batch, int64 []."""
  return tf.shape(split_batch(batch)[0], out_type=tf.int64)[0]


def usable_batches(dataset):
  """Returns the data set without batches of no examples, whose loss may be NaN.

  Raises:
    tf.errors.InvalidArgumentError: At run time, if it never ends.
  """
  tf.debugging.assert_none_equal(
    dataset.cardinality(),
    tf.constant(-1, tf.int64),  # tf.data.INFINITE_CARDINALITY
    message="A client's data set never ends. Give repeat() a number of epochs.",
  )

  def has_examples(*batch):
    # A mapping comes as one argument, a pair as two.
    return batch_size(batch if len(batch) > 1 else batch[0]) > 0

  return dataset.filter(has_examples)


def count_examples(dataset) -> tf.Tensor:
  """Counts the examples in all batches, int64 []."""
  return dataset.reduce(
    tf.constant(0, tf.int64), lambda n, batch: n + batch_size(batch)
  )


def largest_batch(dataset) -> tf.Tensor:
  """Returns the number of examples in the largest batch, int64 []."""
  return dataset.reduce(
    tf.constant(0, tf.int64), lambda n, batch: tf.maximum(n, batch_size(batch))
  )


def client_seed(dataset, seed: tf.Tensor) -> tf.Tensor:
  """Folds the first batch of a client into the seed of the round, int32 [2]."""
  fold = lambda seed, batch: seeds.fold_in_data(seed, [split_batch(batch)[0]])
  return dataset.take(1).reduce(seed, fold)


def batch_loop(implementation: tff.learning.LoopImplementation):
  """Returns a function like `Dataset.reduce`, in the way of TFF's FedAvg."""
  build = tff.learning.loop_builder.build_training_loop
  # TFF's loop is Python for AutoGraph, which is not on where we are called.
  loop = tf.function(build(implementation))
  return lambda dataset, state, function: loop(function, dataset, lambda: state)


def real_loss(model, trainable, frozen, batch, training: bool):
  """Computes the loss of a batch of real data; outputs and labels come with it."""
  x, y = split_batch(batch)
  outputs = model.predict_on_batch((trainable, frozen), x, training=training)
  return model.loss(outputs, y), outputs, y


def local_training(
  model,
  weights,
  dataset,
  optimizer: Optimizer,
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
    loop_implementation: As in `tff.learning.algorithms.build_weighted_fed_avg`.
  """
  initial, frozen = weights

  def train_on_batch(state, batch):
    trainable, optimizer_state, num_examples, metrics = state
    with tf.GradientTape() as tape:
      tape.watch(trainable)
      loss, outputs, labels = real_loss(
        model, trainable, frozen, batch, training=True
      )
    optimizer_state, trainable = optimizer.next(
      optimizer_state, trainable, tape.gradient(loss, trainable)
    )
    examples = batch_size(batch)
    metrics = model.update_metrics_state(
      metrics,
      labels=labels,
      batch_output=tff.learning.models.BatchOutput(
        loss=loss,
        predictions=outputs,
        num_examples=tf.cast(examples, tf.int32),
      ),
    )
    return trainable, optimizer_state, num_examples + examples, metrics

  state = (
    tuple(initial),
    initial_optimizer_state(optimizer, optimizer_hparams, tuple(initial)),
    tf.constant(0, tf.int64),
    model.initialize_metrics_state(),
  )
  trained, _, num_examples, metrics = batch_loop(loop_implementation)(
    dataset, state, train_on_batch
  )
  update = tuple(w0 - w for w0, w in zip(initial, trained))
  return LocalTraining(update, num_examples, metrics)


def mean_loss(model, trainable, frozen, dataset) -> tf.Tensor:
  """Computes the mean loss over a data set, float32 []; 0 if it is empty.

  It is the mean over examples, or over what the loss of a batch is the mean of.
  """

  def add_batch(totals, batch):
    x, y = split_batch(batch)
    outputs = model.predict_on_batch((trainable, frozen), x, training=False)
    total, count = keras_model.loss_sum(model, outputs, y)
    return totals[0] + total, totals[1] + count

  total, count = dataset.reduce((tf.zeros([]), tf.zeros([])), add_batch)
  return tf.math.divide_no_nan(total, count)
