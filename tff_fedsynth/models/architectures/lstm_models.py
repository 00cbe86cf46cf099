"""Recurrent language models, by name: tokens in, logits of the next token out.

Sizes and layers are those of TFF's own baselines; `tasks` chooses them.
"""

import tensorflow as tf

from tff_fedsynth.models.architectures.lstm import LSTM

keras = tf.keras


def _layers(layers, vocabulary_size, embedding_size, seed, name):
  """A model of an embedding and layers, drawn from the seed alone."""
  model = keras.Sequential(
    [
      keras.Input([None], dtype=tf.int64),
      keras.layers.Embedding(vocabulary_size, embedding_size, mask_zero=True),
      *layers,
      keras.layers.Dense(vocabulary_size),
    ],
    name=name,
  )
  initializers = keras.initializers
  for i, weight in enumerate(model.weights):
    own = 1000 * seed + i
    if 'embeddings' in weight.name:
      weight.assign(initializers.RandomUniform(seed=own)(weight.shape))
    elif 'recurrent_kernel' in weight.name:
      weight.assign(initializers.Orthogonal(seed=own)(weight.shape))
    elif 'kernel' in weight.name:
      weight.assign(initializers.GlorotUniform(seed=own)(weight.shape))
  return model


def character_lstm(
  vocabulary_size: int,
  units: int = 256,
  num_layers: int = 2,
  embedding_size: int = 8,
  seed: int = 0,
) -> keras.Model:
  """Of Shakespeare (McMahan et al. 2017, section 3).

  820,522 weights with 90 tokens, as in TFF.
  """
  layers = [LSTM(units) for _ in range(num_layers)]
  return _layers(
    layers, vocabulary_size, embedding_size, seed, 'character_lstm'
  )


def word_lstm(
  vocabulary_size: int,
  units: int = 670,
  embedding_size: int = 96,
  seed: int = 0,
) -> keras.Model:
  """Of Stack Overflow (Reddi et al. 2020, table 9).

  4,050,748 weights with 10,004 tokens, as in TFF.
  """
  layers = [LSTM(units), keras.layers.Dense(embedding_size)]
  return _layers(layers, vocabulary_size, embedding_size, seed, 'word_lstm')
