import numpy as np
import pytest
import tensorflow as tf

from tff_fedsynth import from_keras
from tff_fedsynth.models import losses
from tff_fedsynth.models import metrics

keras = tf.keras
TOKENS = np.array([[1, 2, 3, 4, 0, 0], [3, 0, 4, 5, 6, 7]])


@pytest.mark.parametrize('mask_zero', [True, False])
def test_a_users_keras_model_is_split(mask_zero):
  model = keras.Sequential(
    [
      keras.Input([None]),
      keras.layers.Embedding(9, 4, mask_zero=mask_zero),
      keras.layers.LSTM(5, return_sequences=True),
      keras.layers.Dense(9),
    ]
  )
  expected = model(TOKENS).numpy()
  split = from_keras(model)
  assert split.vocabulary_size == 9
  assert (split.embedding_size, split.hidden_size) == (4, 5)
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    weights = tf.nest.map_structure(tf.constant, split.initial_weights)
    found = session.run(split.predict_on_batch(weights, TOKENS))
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_loss_leaves_padding_out_and_accuracy_other_tokens():
  labels = np.array([[1, 2, 0], [3, 0, 0]])
  logits = np.random.RandomState(0).normal(size=(2, 3, 4)).astype(np.float32)
  log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
  expected = -(log_p[0, 0, 1] + log_p[0, 1, 2] + log_p[1, 0, 3]) / 3
  loss = losses.value(losses.MaskedCrossEntropy(), labels, logits)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  mean = losses.MeanLoss(losses.MaskedCrossEntropy())
  mean.update_state(labels[:1], logits[:1])
  mean.update_state(labels[1:], logits[1:])
  # Two batches of two tokens and one weigh as much as their tokens.
  np.testing.assert_allclose(mean.result(), expected, rtol=1e-5)
  right = tf.one_hot([[1, 0, 1], [3, 1, 1]], 4)
  accuracy = metrics.MaskedAccuracy((0, 3))
  accuracy.update_state(labels, right)
  assert accuracy.result() == 0.5  # Of labels 1 and 2, one is right.
