"""Training on a client's real data, as TFF's FedAvg does; pure TensorFlow."""

from typing import Any
from typing import NamedTuple

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.models import keras_model
from tff_fedsynth.models.keras_model import split_batch


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


def real_loss(model, trainable, frozen, batch, training):
  """Loss, outputs and labels of a batch of real data."""
  x, y = split_batch(batch)
  outputs = model.predict_on_batch((trainable, frozen), x, training=training)
  return model.loss(outputs, y), outputs, y


def batch_loop(implementation):
  """A function like `Dataset.reduce`, in the way of TFF's FedAvg."""
  build = tff.learning.loop_builder.build_training_loop
  # TFF's loop is Python for AutoGraph, which is not on where we are called.
  loop = tf.function(build(implementation))
  return lambda dataset, state, function: loop(function, dataset, lambda: state)


def batch_size(batch) -> tf.Tensor:
  """Examples in a batch, int64 []."""
  return tf.shape(split_batch(batch)[0], out_type=tf.int64)[0]


def usable_batches(dataset):
  """The data set without batches of no examples, whose mean loss may be NaN.

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


def largest_batch(dataset) -> tf.Tensor:
  """Examples in the largest batch, int64 []."""
  return dataset.reduce(
    tf.constant(0, tf.int64), lambda n, batch: tf.maximum(n, batch_size(batch))
  )


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


def count_examples(dataset) -> tf.Tensor:
  """Examples in all batches, int64 []."""
  return dataset.reduce(
    tf.constant(0, tf.int64), lambda n, batch: n + batch_size(batch)
  )


def client_seed(dataset, seed):
  """Folds a fingerprint of the client's data into the round's seed.

  Every client of a round receives the same seed. With the same noise to start
  from, their errors would add up in the average instead of cancelling.
  """

  def fingerprint(_, batch):
    total = tf.reduce_sum(tf.cast(split_batch(batch)[0], tf.float32))
    return tf.bitcast(total, tf.int32)

  data = dataset.take(1).reduce(tf.constant(0, tf.int32), fingerprint)
  return tf.random.experimental.stateless_fold_in(seed, data)
