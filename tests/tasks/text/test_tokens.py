"""Rows of tokens are those of TFF."""

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.tasks.text import tokens


def _tff_rows(preprocess, key, texts):
  data = tf.data.Dataset.from_tensor_slices({key: texts})
  rows = [
    np.concatenate([x.numpy(), y.numpy()[:, -1:]], axis=1)
    for x, y in preprocess(data)
  ]
  return np.concatenate(rows)


def _spec():
  return tff.simulation.baselines.ClientSpec(
    num_epochs=1, batch_size=1, shuffle_buffer_size=1
  )


def test_rows_of_characters_are_those_of_tff():
  texts = ['To be, or not to be', 'é \\ ~', 'x' * 200, '']
  datasets = tff.simulation.baselines.shakespeare
  task = datasets.create_character_prediction_task(
    _spec(), use_synthetic_data=True
  )
  vocabulary = tokens.Vocabulary(tuple(tokens.CHARACTERS))
  assert vocabulary.size == datasets.VOCAB_LENGTH
  np.testing.assert_array_equal(
    tokens.character_rows(texts, vocabulary, 80),
    _tff_rows(task.datasets.train_preprocess_fn, 'snippets', texts),
  )


def test_rows_of_words_are_those_of_tff():
  stackoverflow = tff.simulation.baselines.stackoverflow
  task = stackoverflow.create_word_prediction_task(
    _spec(), use_synthetic_data=True
  )
  words = tff.simulation.datasets.stackoverflow.get_synthetic_word_counts()
  vocabulary = tokens.Vocabulary(tuple(words))
  known = list(words)[:3]
  texts = [' '.join(known), 'zebra ' + known[0], ' '.join(known * 10)]
  np.testing.assert_array_equal(
    tokens.word_rows(texts, vocabulary, 20),
    _tff_rows(task.datasets.train_preprocess_fn, 'tokens', texts),
  )
