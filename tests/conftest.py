import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np
import pytest
import small_runs
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.experiments.pictures import showing
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.running import building

# Of code that is committed.
CODE = dict.fromkeys(provenance.COLUMNS, '1') | dict(
  commit='c' * 40, tree='clean'
)


@pytest.fixture
def clean_tree(monkeypatch):
  """The code counts as committed, whatever a developer is changing."""
  code = {**provenance.of_process(), 'tree': 'clean'}
  monkeypatch.setattr(provenance, 'of_process', lambda: code)


@pytest.fixture
def fixed_code(monkeypatch):
  """What is changed in the tree that is tested marks no rows."""
  monkeypatch.setattr(provenance, 'of_process', lambda: CODE)


@pytest.fixture(scope='session')
def whole(tmp_path_factory):
  """A run of five rounds, never stopped."""
  directory = tmp_path_factory.mktemp('runs') / 'whole'
  run = building.build(small_runs.growing(directory, 5))
  showing.execute(run)
  return run


@pytest.fixture
def same_initial_weights():
  """Keras draws the same initial weights in each test."""
  tf.keras.utils.set_random_seed(0)


def make_classifier(dtype=np.float32, inputs=6, hidden=5, classes=3, seed=0):
  """A smooth two-layer classifier in plain TensorFlow, any float type."""
  random = np.random.RandomState(seed)
  weights = tuple(
    w.astype(dtype)
    for w in (
      random.normal(size=(inputs, hidden)) / np.sqrt(inputs),
      np.zeros(hidden),
      random.normal(size=(hidden, classes)) / np.sqrt(hidden),
      np.zeros(classes),
    )
  )

  @tf.function
  def predict(model_weights, x, training):
    del training
    w1, b1, w2, b2 = model_weights[0]
    return tf.tanh(x @ w1 + b1) @ w2 + b2

  def loss(output, label, sample_weight=None):
    del sample_weight
    return tf.reduce_mean(
      tf.nn.sparse_softmax_cross_entropy_with_logits(label, output)
    )

  return tff.learning.models.FunctionalModel(
    initial_weights=(weights, ()),
    predict_on_batch_fn=predict,
    loss_fn=loss,
    input_spec=(
      tf.TensorSpec([None, inputs], tf.as_dtype(dtype)),
      tf.TensorSpec([None], tf.int32),
    ),
  )


def make_linear_regression(inputs=3, outputs=2):
  """outputs = x @ w with loss sum of squares / (2 * examples)."""
  w = np.random.RandomState(1).normal(size=(inputs, outputs))

  @tf.function
  def predict(model_weights, x, training):
    del training
    return x @ model_weights[0][0]

  def loss(output, label, sample_weight=None):
    del sample_weight
    examples = tf.cast(tf.shape(output)[0], output.dtype)
    return tf.reduce_sum(tf.square(output - label)) / (2 * examples)

  return tff.learning.models.FunctionalModel(
    initial_weights=((w.astype(np.float32),), ()),
    predict_on_batch_fn=predict,
    loss_fn=loss,
    input_spec=(
      tf.TensorSpec([None, inputs], tf.float32),
      tf.TensorSpec([None, outputs], tf.float32),
    ),
  )


def make_dataset(model, examples=24, batch_size=4, seed=0):
  """Real batches that the classifier above can learn."""
  random = np.random.RandomState(seed)
  size = model.input_spec[0].shape[1]
  y = random.randint(0, 3, examples).astype(np.int32)
  x = random.normal(size=(examples, size)).astype(np.float32)
  x[np.arange(examples), y] += 2.0
  return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)


@pytest.fixture
def classifier():
  return make_classifier()
