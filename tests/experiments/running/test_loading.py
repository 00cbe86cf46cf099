"""Models of runs that were trained."""

import fault_injection
import numpy as np
import pytest
import small_runs
import tensorflow_federated as tff

from tff_fedsynth import experiments
from tff_fedsynth.experiments import tff_contexts
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import rounds
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError


def _predictions(model, task):
  """Labels and logits of a Keras model on the test data."""
  inputs, labels = zip(*task.test_data.as_numpy_iterator())
  logits = [model(x).numpy() for x in inputs]
  return np.concatenate(labels), np.concatenate(logits)


def test_the_model_of_a_run_is_loaded(whole):
  weights = experiments.load_model(whole.settings.output_dir)
  model = experiments.load_keras_model(whole.settings.output_dir)
  for keras, loaded in zip(model.trainable_weights, weights.trainable):
    np.testing.assert_array_equal(keras, loaded)
  labels, logits = _predictions(model, whole.task)
  last = fault_injection.metrics(small_runs.directory(whole))[-1]
  assert np.mean(logits.argmax(-1) == labels) == pytest.approx(
    float(last[rounds.ACCURACY])
  )


def test_a_language_model_is_loaded(tmp_path):
  run = building.build(
    Settings(
      output_dir=str(tmp_path),
      task='plays_character',
      model='small_character_lstm',
      method='fedavg',
      total_rounds=1,
      options={'test_examples': 20},
    )
  )
  process = run.built.process
  random = np.random.RandomState(0)
  weights = tff.learning.models.ModelWeights(
    [
      w + random.normal(0, 0.1, w.shape).astype(w.dtype)
      for w in run.model.initial_weights[0]
    ],
    [],
  )
  state = process.set_model_weights(process.initialize(), weights)
  expected = rounds._evaluation(run)(state, [run.task.test_data])
  lines = [f'--{k}={v}\n' for k, v in run.settings.as_flags().items()]
  (tmp_path / 'flags.txt').write_text(''.join(lines))
  with tff_contexts.event_loop() as loop:
    manager = tff.program.FileProgramStateManager(tmp_path / 'checkpoints')
    loop.run_until_complete(manager.save(state, 1))
  model = experiments.load_keras_model(tmp_path)
  labels, logits = _predictions(model, run.task)
  counts = ~np.isin(labels, run.task.ignored_labels)
  hits = (logits.argmax(-1) == labels)[counts]
  assert 0 < np.mean(hits) == pytest.approx(expected['accuracy'])


def test_what_cannot_be_loaded_whole_is_told(whole, tmp_path, caplog):
  with pytest.raises(
    SettingsError, match='holds no run: there is no flags.txt'
  ):
    experiments.load_model(tmp_path)
  run = small_runs.changed(
    whole, output_dir=str(tmp_path / 'run'), total_rounds=3
  )
  runner.execute(run)
  saved = tmp_path / 'run' / 'checkpoints'
  expected = experiments.load_model(tmp_path / 'run').trainable[0]
  assert not caplog.records
  (saved / 'program_state_3' / 'saved_model.pb').write_bytes(b'cut')
  older = experiments.load_model(tmp_path / 'run').trainable[0]
  assert 'Checkpoint 3 is broken' in caplog.text
  assert 'after 2 of 3 rounds' in caplog.text
  assert np.abs(older - expected).max() > 0
  for path in saved.iterdir():
    (path / 'saved_model.pb').write_bytes(b'cut')
  with pytest.raises(SettingsError, match='no checkpoint that can be read'):
    experiments.load_model(tmp_path / 'run')
