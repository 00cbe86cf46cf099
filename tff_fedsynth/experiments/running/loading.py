"""Loads the model that a run has trained."""

import os
import pathlib

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import rounds
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.settings import user_modules
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.tasks.federated import task as task_lib


def _read_settings(directory: pathlib.Path) -> Settings:
  """The settings of the run in a directory.

  Raises:
    SettingsError: If there is none.
    OptionError: If a plugin of it cannot be imported.
  """
  path = directory / rounds.FLAGS
  if not path.exists():
    raise SettingsError(f'{directory} holds no run: there is no {path.name}.')
  written = settings_lib.read_flags(path)
  user_modules.load([written.get('plugin', '')])
  own = registry.own_options()
  values = flags.FlagValues()
  settings_lib.define_flags(own, values)
  values([path.name, *(f'--{k}={v}' for k, v in written.items())])
  return settings_lib.from_flags(own, values)


def _warn_of_changed_files(directory: pathlib.Path, settings: Settings) -> None:
  recorded = provenance.files_of(directory)
  for path in provenance.changed_files(recorded, settings):
    logging.warning(
      '%s: %s has changed since its training. The weights are those of the run; '
      'data, preprocessing and layers are those of the file as it is now.',
      directory,
      path,
    )


def load_model(
  output_dir: str | os.PathLike,
) -> tff.learning.models.ModelWeights:
  """Loads the model of a run's last checkpoint: that of the end, if it is finished.

  A data file or plugin of another content than in the training is warned of.

  Args:
    output_dir: Of the run, of any command, of a cell of a comparison, ...

  Returns:
    Arrays, in the order of the Keras model's weights; see `load_keras_model`.

  Raises:
    SettingsError: If there is no run, or none of its checkpoints can be read.
  """
  directory = pathlib.Path(output_dir).expanduser()
  settings = _read_settings(directory)
  _warn_of_changed_files(directory, settings)
  total = settings.total_rounds
  for round_num, path in rounds.checkpoints(directory):
    try:
      state = tf.saved_model.load(str(path))()
      weights = state.global_model_weights
      trainable, frozen = weights.trainable, weights.non_trainable
    # Whatever is wrong with the file, an older one is better.
    except Exception as e:
      logging.warning('Checkpoint %d is broken: %s', round_num, e)
      continue
    if round_num < total:
      logging.warning(
        '%s is not at its end: this is its model after %d of %d rounds.',
        directory,
        round_num,
        total,
      )
    return tff.learning.models.ModelWeights(
      [np.array(w) for w in trainable], [np.array(w) for w in frozen]
    )
  raise SettingsError(f'{directory} has no checkpoint that can be read.')


def load_task_and_model(
  output_dir: str | os.PathLike,
) -> tuple[task_lib.Task, tf.keras.Model]:
  """Builds the task of a run, and its Keras model with the weights of `load_model`.

  Raises:
    SettingsError, TaskError: As `load_model` and the task of the run do.
  """
  weights = load_model(output_dir)
  settings = _read_settings(pathlib.Path(output_dir).expanduser())
  task = building.build_task(settings)
  model = task.models[settings.model](settings.seed)
  weights.assign_weights_to(model)
  return task, model


def load_keras_model(output_dir: str | os.PathLike) -> tf.keras.Model:
  """The same as a Keras model, that of the run's task, with these weights.

  Args:
    output_dir: As of `load_model`.

  Raises:
    SettingsError, TaskError: As `load_model` and the task of the run do.
  """
  return load_task_and_model(output_dir)[1]
