"""Dummies of what contributors add: which files each takes, its test included.

An addition maps a file to its text, if it is new, or to pairs of a line that is
there and of what comes before it.
"""

_CODEC = '''
import collections
import dataclasses

import tensorflow as tf

from tff_fedsynth import options
from tff_fedsynth.compression import codec


@dataclasses.dataclass(frozen=True)
class FirstValues(codec.SizedCodec):
  """Sends the first values of the update."""

  kept_values: int = options.limited(minimum=1)
  factor: float = options.option(1.0, 'Multiplies what is sent.', above=0)

  def _encode(self, values, seed):
    kept = self.factor * codec.flatten(values)[: self.kept_values]
    return collections.OrderedDict(values=kept)

  def _decode(self, message, shapes):
    left = sum(codec.sizes(shapes)) - self.kept_values
    return codec.unflatten(tf.pad(message['values'], [[0, left]]), shapes)

  def _message_bytes(self, shapes):
    return codec.FLOAT_BYTES * self.kept_values

  def _describe(self, shapes):
    return f'the first {self.kept_values} values'
'''

_CODEC_TEST = """
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.settings.settings import Settings


def test_it_fills_its_budget(tmp_path):
  run = building.build(
    Settings(
      output_dir=str(tmp_path / 'run'),
      method='first_values',
      uplink_bytes=404,
      options={'first_values_factor': 2.0},
    )
  )
  assert run.communication.uplink_bytes == 404
  assert run.built.description == 'the first 100 values'
"""

_TASK = '''
import dataclasses

import numpy as np
import tensorflow as tf

from tff_fedsynth import options
from tff_fedsynth.models.architectures import image_classifiers
from tff_fedsynth.tasks.federated import task as task_lib


@dataclasses.dataclass(frozen=True)
class Options:
  """Flags of the task."""

  stripes: int = options.option(
    2, 'Sets how many stripes an image has.', group='Data', minimum=1
  )


def build(*, seed, **fields):
  o = Options(**fields)
  random = np.random.RandomState(seed)
  x = random.uniform(size=(40, 8, 8, 1)).astype(np.float32) * o.stripes
  y = random.randint(0, 10, 40).astype(np.int32)
  return task_lib.Task(
    name='stripes',
    train_data=task_lib.client_data(x, y, np.split(np.arange(40), 4)),
    test_data=tf.data.Dataset.from_tensor_slices((x, y)).batch(10),
    preprocess=lambda batch: (batch['x'], batch['y']),
    models=image_classifiers.models((8, 8, 1), 10),
  )
'''

_TASK_TEST = """
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.settings.settings import Settings


def test_it_has_four_clients(tmp_path):
  task = building.build_task(Settings(task='stripes', options={'stripes': 3}))
  assert len(task.train_data.client_ids) == 4
  x, _ = task.examples(task.train_data.client_ids[0])
  assert 2 < x.numpy().max() <= 3
"""

_OBJECTIVE = '''class LargestError(Objective):
  """The largest difference of a weight."""

  def value(self, update, target, batch_loss):
    return tf.reduce_max(
      [tf.reduce_max(tf.abs(u - t)) for u, t in zip(update, target)]
    )


'''

_OBJECTIVE_TEST = """
import conftest
import tensorflow_federated as tff
from tff_fedsynth import build_fedsynth
from tff_fedsynth import SynthesisConfig
from tff_fedsynth import SyntheticSpec


def test_it_trains():
  model = conftest.make_classifier()
  config = SynthesisConfig(
    SyntheticSpec((6,), (3,)), objective='largest_error', iterations=2
  )
  process = build_fedsynth(
    model, tff.learning.optimizers.build_sgdm(0.1), config=config
  )
  output = process.next(process.initialize(), [conftest.make_dataset(model)])
  assert output.metrics['finalizer']['rejected_clients'] == 0
"""

_FORM = """  # Vectors that are one-sided.
  'positive_embeddings': InputForm(
    lambda values, model, weights: tf.nn.relu(values),
    _predict_on_embeddings,
    lambda m: m.embedding_size,
  ),
"""

_FORM_TEST = """
from tff_fedsynth import build_spec
from tff_fedsynth import from_keras
from tff_fedsynth.models.architectures import lstm_models


def test_it_fits_a_language_model():
  model = from_keras(lstm_models.word_lstm(300, units=6, embedding_size=4))
  spec = build_spec(model, input_form='positive_embeddings', length=2, bits=4)
  assert spec.input_shape == (2, 4)
"""

_OPTION = """  patience: int = _option(
    7, 'Sets how long a client waits.', is_plain=True, minimum=1
  )
"""

_OPTION_TEST = """
import pytest
from tff_fedsynth import errors
from tff_fedsynth import SynthesisConfig
from tff_fedsynth import SyntheticSpec
from tff_fedsynth.experiments.help import pages


def test_it_is_a_field_and_a_flag():
  spec = SyntheticSpec((6,), (3,))
  assert SynthesisConfig(spec, patience=3).patience == 3
  with pytest.raises(errors.OptionError, match='patience must be at least 1'):
    SynthesisConfig(spec, patience=0)
  assert '--patience=N  [default: 7]' in pages.page('train')
"""

_EXPERIMENTS = 'tff_fedsynth/experiments'

ADDITIONS = {
  'compressor': {
    'baselines/first_values.py': _CODEC,
    f'{_EXPERIMENTS}/methods/registry.py': [
      (
        'from baselines.low_rank import LowRank',
        'from baselines.first_values import FirstValues\n',
      ),
      ("  'qsgd': codec", "  'first_values': codec(FirstValues),\n"),
    ],
    'tests/baselines/test_first_values.py': _CODEC_TEST,
  },
  'task': {
    'tff_fedsynth/tasks/stripes.py': _TASK,
    'tff_fedsynth/tasks/__init__.py': [
      (
        'from tff_fedsynth.tasks.text import chat',
        'from tff_fedsynth.tasks import stripes\n',
      ),
      (
        "  'stackoverflow_word':",
        "  'stripes': _images(stripes.build, stripes.Options),\n",
      ),
    ],
    'tests/tasks/test_stripes.py': _TASK_TEST,
  },
  'objective': {
    'tff_fedsynth/client/objectives.py': [
      ('OBJECTIVES: dict', _OBJECTIVE),
      ("  'update_l2': ", "  'largest_error': LargestError(),\n"),
    ],
    'tests/client/test_largest_error.py': _OBJECTIVE_TEST,
  },
  'form of inputs': {
    'tff_fedsynth/payload/forms/registry.py': [
      ("  'soft_tokens': InputForm(", _FORM)
    ],
    'tests/payload/test_positive_embeddings.py': _FORM_TEST,
  },
  'option': {
    'tff_fedsynth/client/config.py': [('  learning_rate: float', _OPTION)],
    'tests/client/test_patience.py': _OPTION_TEST,
  },
}
