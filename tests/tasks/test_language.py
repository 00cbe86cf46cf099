"""Models that start with an embedding, and the tasks of text."""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import from_keras
from tff_fedsynth import UnsupportedModelError
from tff_fedsynth.client.training import clipping
from tff_fedsynth.experiments.pictures import show_text
from tff_fedsynth.models.architectures import language_models
from tff_fedsynth.models.architectures import lstm
from tff_fedsynth.models.functional import language_model
from tff_fedsynth.payload.spec import SyntheticData
from tff_fedsynth.tasks import TASKS
from tff_fedsynth.tasks.federated import task as task_lib
from tff_fedsynth.tasks.text import plays
from tff_fedsynth.tasks.text import tokens

keras = tf.keras
TOKENS = np.array([[1, 2, 3, 4, 0, 0], [3, 0, 4, 5, 6, 7]])


def test_lstm_is_that_of_keras_with_a_mask_too():
  own = language_models.word_lstm(9, units=5, embedding_size=4)
  theirs = keras.Sequential(
    [
      keras.Input([None]),
      keras.layers.Embedding(9, 4, mask_zero=True),
      keras.layers.LSTM(5, return_sequences=True),
      keras.layers.Dense(4),
      keras.layers.Dense(9),
    ]
  )
  # Gates in Keras' order: a bias of one for the forget gate.
  np.testing.assert_array_equal(own.get_weights()[3], theirs.get_weights()[3])
  theirs.set_weights(own.get_weights())
  np.testing.assert_allclose(own(TOKENS), theirs(TOKENS), atol=1e-6)


@pytest.mark.parametrize('length', [7, 45])  # Unrolled, and not.
def test_derivatives_of_the_lstm_are_those_of_tf(length):
  """The gradient by hand, and the one of it, against TF's own in float64."""
  random = np.random.RandomState(0)
  shapes = [(3, length, 2), (2, 20), (5, 20), (20,)]
  values = [random.normal(size=shape) for shape in shapes]
  directions = [random.normal(size=shape) for shape in shapes]
  upstream = random.normal(size=(3, length, 5))
  mask = tf.constant(random.uniform(size=(3, length)) < 0.7)

  def derivatives(dtype):
    cast = lambda arrays: [tf.constant(a, dtype) for a in arrays]

    @tf.function
    def outputs(inputs, *weights):
      layer = lstm.LSTM(5)
      layer.kernel, layer.recurrent_kernel, layer.bias = weights
      return layer.call(inputs, mask)

    @tf.function
    def twice(*sources):
      with tf.GradientTape() as outer:
        outer.watch(sources)
        with tf.GradientTape() as inner:
          inner.watch(sources)
          value = tf.reduce_sum(outputs(*sources) * cast([upstream])[0])
        first = inner.gradient(value, sources)
        product = sum(
          tf.reduce_sum(g * d) for g, d in zip(first, cast(directions))
        )
      return first, outer.gradient(product, sources)

    # In a loop, as the meta-steps are.
    sources = cast(values)
    zeros = tf.nest.map_structure(tf.zeros_like, (sources, sources))
    return tf.function(
      lambda: tf.while_loop(
        lambda i, _: i < 1, lambda i, _: (i + 1, twice(*sources)), (0, zeros)
      )[1]
    )()

  for own, theirs in zip(
    tf.nest.flatten(derivatives(tf.float32)),
    tf.nest.flatten(derivatives(tf.float64)),
  ):
    np.testing.assert_allclose(own, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize(
  'make, parameters',
  [
    # Of tff.simulation.baselines' models, counted by Keras.
    (lambda: language_models.character_lstm(90), 820_522),
    (lambda: language_models.word_lstm(10_004), 4_050_748),
  ],
)
def test_sizes_are_those_of_tff(make, parameters):
  assert make().count_params() == parameters


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


def _two_embeddings():
  x = keras.Input([None])
  y = keras.layers.Embedding(9, 4)(x) + keras.layers.Embedding(9, 4)(x)
  return keras.Model(x, keras.layers.Dense(9)(y))


def _skips():
  x = keras.Input([None])
  y = keras.layers.Embedding(9, 4)(x)
  z = keras.layers.Dense(4)(y)
  return keras.Model(x, keras.layers.Dense(9)(keras.layers.Add()([y, z])))


def _late():
  x = keras.Input([None])
  y = keras.layers.Embedding(9, 4)(keras.layers.Activation('relu')(x))
  return keras.Model(x, keras.layers.Dense(9)(y))


@pytest.mark.parametrize(
  'make, message',
  [
    (_two_embeddings, '2 embeddings'),
    (_skips, 'does not simply follow'),
    (_late, 'not the first layer'),
  ],
)
def test_models_that_cannot_be_split(make, message):
  with pytest.raises(UnsupportedModelError, match=message):
    from_keras(make())


def test_loss_leaves_padding_out_and_accuracy_other_tokens():
  labels = np.array([[1, 2, 0], [3, 0, 0]])
  logits = np.random.RandomState(0).normal(size=(2, 3, 4)).astype(np.float32)
  log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
  expected = -(log_p[0, 0, 1] + log_p[0, 1, 2] + log_p[1, 0, 3]) / 3
  loss = language_model.masked_cross_entropy(logits, labels)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  mean = language_model.MaskedLoss()
  mean.update_state(labels[:1], logits[:1])
  mean.update_state(labels[1:], logits[1:])
  # Two batches of two tokens and one weigh as much as their tokens.
  np.testing.assert_allclose(mean.result(), expected, rtol=1e-5)
  right = tf.one_hot([[1, 0, 1], [3, 1, 1]], 4)
  accuracy = language_model.MaskedAccuracy((0, 3))
  accuracy.update_state(labels, right)
  assert accuracy.result() == 0.5  # Of labels 1 and 2, one is right.


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


def test_speeches_are_without_directions():
  markdown = (
    '# Title\n\n**ANNE**  \nHear me,  \n_\\[Aside]_ my lord.\n\n'
    '_Enter BOB_\n\nAgain.\n\n**BOB**\n\nNo.\n\n## ACT II\n\n**ANNE**\n\nYes!\n'
  )
  assert list(plays._speeches(markdown)) == [
    ('ANNE', 'Hear me,\nmy lord.\nAgain.'),
    ('BOB', 'No.'),
    ('ANNE', 'Yes!'),
  ]


@pytest.mark.parametrize(
  'name, model, clients, length',
  [
    ('plays_character', 'small_character_lstm', 824, 80),
    ('chat_word', 'small_word_lstm', 399, 20),
  ],
)
def test_stand_ins_of_the_wheels(name, model, clients, length):
  task = TASKS[name].build(seed=0, max_client_examples=12, test_examples=50)
  assert len(task.train_data.client_ids) == clients
  assert model in task.models
  batches = list(
    task_lib.client_batches(
      task, task.train_data.client_ids[3], epochs=2, batch_size=4, seed=0
    )
  )
  x, y = batches[0]
  assert x.shape == y.shape == (4, length) and len(batches) >= 5
  np.testing.assert_array_equal(x[:, 1:], y[:, :-1])
  assert sum(len(x) for x, _ in task.test_data) == 50
  # Most tokens are known words, not the last three special ones.
  size = len(task.token_names)
  seen = np.concatenate([np.ravel(y) for _, y in task.test_data])
  assert seen.max() < size
  unknown = np.mean(seen[seen > 0] == size - 3)
  assert unknown < 0.25


def _save(path, data, split_names):
  """A file in TFF's schema; `data` maps clients to columns."""
  tff.simulation.datasets.save_to_sql_client_data(
    list(data),
    lambda c: tf.data.Dataset.from_tensor_slices(
      collections.OrderedDict(data[c])
    ),
    str(path),
    split_names_by_client_id=split_names,
  )


def test_shakespeare_is_read_where_tff_keeps_it(tmp_path):
  data = {
    'ROLE': {'snippets': ['Hark!', 'What, ho!']},
    'LAST': {'snippets': ['Who is there?']},
  }
  splits = {'ROLE': 'train', 'LAST': 'test'}
  _save(tmp_path / 'shakespeare.sqlite', data, splits)
  task = TASKS['shakespeare_character'].build(
    seed=0, cache_dir=str(tmp_path), test_examples=5
  )
  assert task.train_data.client_ids == ['ROLE']
  ((x, y),) = task_lib.client_batches(
    task, 'ROLE', epochs=1, batch_size=4, seed=0
  )
  shown = [''.join(task.token_names[i] for i in row if i) for row in x]
  assert sorted(shown) == ['<bos>Hark!<eos>', '<bos>What, ho!<eos>']
  ((test_x, _),) = task.test_data
  assert test_x.shape == (1, 80)


def test_stackoverflow_is_tffs(monkeypatch):
  datasets = tff.simulation.datasets.stackoverflow
  data = datasets.get_synthetic()
  monkeypatch.setattr(
    datasets, 'load_data', lambda cache_dir: (data, data, data)
  )
  counts = datasets.get_synthetic_word_counts()
  monkeypatch.setattr(
    datasets, 'load_word_counts', lambda cache_dir, vocab_size: counts
  )
  task = TASKS['stackoverflow_word'].build(seed=0)
  assert len(task.token_names) == len(counts) + 4
  client = task.train_data.client_ids[0]
  ((x, _),) = task_lib.client_batches(
    task, client, epochs=1, batch_size=8, seed=0
  )
  assert x.shape == (3, 20)


def test_stackoverflow_is_read_where_tff_keeps_it(tmp_path, monkeypatch):
  datasets = tff.simulation.datasets.stackoverflow
  data = datasets.create_synthetic_data_dictionary()
  users = list(data)
  splits = dict(zip(users, ['train', 'heldout', 'test']))
  _save(tmp_path / 'stackoverflow.sqlite', data, splits)
  # Keras holds the counts of words against a hash, which only the real file has.
  (tmp_path / 'stackoverflow.word_count').write_text('the 30\ncss 20\nis 10\n')
  asked = []

  def get_file(name, cache_dir, **_):
    asked.append((name, cache_dir))
    return str(tmp_path / name)

  monkeypatch.setattr(tf.keras.utils, 'get_file', get_file)
  task = TASKS['stackoverflow_word'].build(
    seed=0, cache_dir=str(tmp_path), vocabulary_size=2, test_examples=2
  )
  assert asked == [('stackoverflow.word_count.tar.bz2', str(tmp_path))]
  assert task.token_names == ['<pad>', 'the', 'css', '<oov>', '<bos>', '<eos>']
  assert task.train_data.client_ids == users[:1]
  ((x, _),) = task_lib.client_batches(
    task, users[0], epochs=1, batch_size=8, seed=0
  )
  # "css3 does finally define the"; 5 is the end, 0 padding.
  assert [4, 3, 3, 3, 3, 1, 5] + [0] * 13 in x.numpy().tolist()
  assert x.shape == (3, 20)
  assert sum(len(x) for x, _ in task.test_data) == 2


@pytest.mark.parametrize(
  'name, file',
  [
    ('shakespeare_character', 'shakespeare.sqlite'),
    ('stackoverflow_word', 'stackoverflow.sqlite'),
  ],
)
def test_no_network_is_told(name, file, tmp_path, monkeypatch):
  def fail(cache_dir=None, **_):
    raise OSError('no route')

  datasets = tff.simulation.datasets
  monkeypatch.setattr(datasets.shakespeare, 'load_data', fail)
  monkeypatch.setattr(datasets.stackoverflow, 'load_data', fail)
  with pytest.raises(task_lib.TaskError, match=f'{tmp_path}/{file}.*no route'):
    TASKS[name].build(seed=0, cache_dir=str(tmp_path))


def test_clipped_optimizer_by_hand():
  optimizer = clipping.ClippedOptimizer(
    tff.learning.optimizers.build_sgdm(0.5), norm=1.0
  )
  weights = (tf.constant([1.0, 1.0]), tf.constant([1.0]))
  state = optimizer.initialize(
    tf.nest.map_structure(lambda w: tf.TensorSpec(w.shape), weights)
  )
  # A norm of 5 becomes 1; one of 0.5 stays.
  gradients = (tf.constant([3.0, 0.0]), tf.constant([4.0]))
  _, moved = optimizer.next(state, weights, gradients)
  np.testing.assert_allclose(moved[0], [0.7, 1.0], rtol=1e-6)
  np.testing.assert_allclose(moved[1], [0.6], rtol=1e-6)
  gradients = (tf.constant([0.5, 0.0]), tf.constant([0.0]))
  _, moved = optimizer.next(state, weights, gradients)
  np.testing.assert_allclose(moved[0], [0.75, 1.0], rtol=1e-6)


def test_synthetic_text_names_the_nearest_tokens():
  table = np.eye(4, dtype=np.float32)[:, :3]
  names = ['<pad>', 'to', 'be', '<eos>']
  labels = np.array([[[[0.0, 0.1, -2.0, 0.3]]]], np.float32)
  ones = np.ones([1], np.float32)
  embedded = np.array([[[[0.0, 0.2, 0.0]]]], np.float32)
  data = SyntheticData(embedded, labels, ones, 1.0)
  text = show_text.synthetic_text(data, table, names, 0.5)
  last = text.splitlines()[-1]
  assert "0  'to' 1.00" in last and "->  'be' 2.00" in last
  soft = np.array([[[[0.1, 0.2, 0.3, 0.4]]]], np.float32)
  data = SyntheticData(soft, np.abs(labels), ones, 1.0)
  text = show_text.synthetic_text(data, table, names, 0.5)
  last = text.splitlines()[-1]
  assert "'<eos>' 0.40  'be' 0.30" in last and "->  'be' 2.00" in last
