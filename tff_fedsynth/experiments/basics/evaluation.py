"""Tells how right the models of finished runs are on a file of examples."""

import dataclasses
import math
import os
import pathlib

from absl import flags
import numpy as np
import tensorflow as tf

from tff_fedsynth import options
from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments.running import loading
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.options import option

_BATCH = 500
# What differs from the background by more is ink.
_INK = 0.5


@dataclasses.dataclass(frozen=True)
class Options:
  """Flags of the command."""

  run_dir: tuple[str, ...] = option(
    (),
    'Names the directory of a run, of any command, or of a cell of a comparison; '
    'give it once for each.',
    group='Evaluation',
    default_text='required',
    is_repeated=True,
  )
  examples: str = option(
    '',
    'Names the file of examples, .npz with arrays x and y.',
    group='Evaluation',
    default_text='required',
    is_file=True,
  )
  ink_side: int | None = option(
    None,
    'Enlarges what is drawn in each image until its longer side has so many '
    'pixels, and centers it: for sizes unlike those of the training.',
    group='Evaluation',
    default_text='images as they are',
    minimum=1,
  )

  def __post_init__(self):
    options.check(self)
    for name in ('run_dir', 'examples'):
      if not getattr(self, name):
        raise SettingsError(f'{name} is required.', name)


def read_examples(
  path: str | os.PathLike,
) -> tuple[np.ndarray, np.ndarray]:
  """Inputs and labels out of a file.

  Args:
    path: Of an .npz file: `x` of [examples, ...], `y` of [examples], integers.

  Returns:
    Both as they stand there: what they mean, only the task of a run knows.

  Raises:
    SettingsError: If they are not there.
  """
  path = pathlib.Path(path).expanduser()
  try:
    with np.load(path, allow_pickle=False) as file:
      x, y = file['x'], file['y']
  except Exception as e:  # Of NumPy, zipfile or the system.
    raise SettingsError(
      f'examples={path} cannot be read: {e}. It must be an .npz file with the '
      'arrays x and y.',
      'examples',
    ) from e
  if not (
    x.ndim > 1
    and y.shape == (len(x),)
    and len(x)
    and np.issubdtype(y.dtype, np.integer)
    and (
      np.issubdtype(x.dtype, np.integer) or np.issubdtype(x.dtype, np.floating)
    )
    and np.isfinite(x).all()
  ):
    raise SettingsError(
      f'examples={path} must hold finite numbers x and one integer y for each, '
      f'found {x.dtype} {list(x.shape)} and {y.dtype} {list(y.shape)}.',
      'examples',
    )
  return x, y


def enlarge_ink(x: np.ndarray, side: int) -> np.ndarray:
  """Images in which the longer side of what is drawn is the same.

  Args:
    x: float32 [examples, height, width, 1], within 0 and 1; the background is
      the median of an image.
    side: In pixels, of the larger of height and width of what is drawn.

  Raises:
    SettingsError: If there are no such images, or it does not fit them.
  """
  if x.ndim != 4 or x.shape[-1] != 1 or side > min(x.shape[1:3]):
    raise SettingsError(
      f'ink_side={side} goes only with images of one channel that are at least '
      f'as large, but the examples have the shape {list(x.shape[1:])}.',
      'ink_side',
    )
  return np.stack([_enlarge_ink(image, side) for image in x[..., 0]])[..., None]


def _enlarge_ink(image: np.ndarray, side: int) -> np.ndarray:
  background = np.median(image)
  drawn = image - background
  rows, columns = np.nonzero(np.abs(drawn) > _INK)
  if not len(rows):
    return image
  drawn = drawn[
    rows.min() : rows.max() + 1, columns.min() : columns.max() + 1, np.newaxis
  ]
  factor = side / max(drawn.shape)
  size = [max(1, round(factor * n)) for n in drawn.shape[:2]]
  drawn = tf.image.resize(drawn, size, antialias=True).numpy()[..., 0]
  margins = [(n - m) // 2 for n, m in zip(image.shape, size)]
  places = tuple(slice(start, start + m) for start, m in zip(margins, size))
  enlarged = np.full_like(image, background)
  enlarged[places] += drawn
  return enlarged


def accuracy(
  output_dir: str | os.PathLike,
  x: np.ndarray,
  y: np.ndarray,
  ink_side: int | None = None,
) -> float:
  """Computes the share of examples that the model of a run gets right.

  Args:
    output_dir: As of `load_model`.
    x: [examples, ...], raw as in the data of the run's task, which preprocesses
      them as for training; see `Task.preprocess_arrays`.
    y: int [examples], class numbers.
    ink_side: As of `enlarge_ink`, for inputs within 0 and 1 once preprocessed.

  Returns:
    The share, or NaN for a model whose outputs are not finite.

  Raises:
    SettingsError: If there is no run, or its model has no class of that number.
    TaskError: As the task of the run does, or for other inputs than it has.
  """
  task, model = loading.load_task_and_model(output_dir)
  *_, classes = model.output_shape
  if y.min() < 0 or y.max() >= classes:
    raise SettingsError(
      f'The model of {output_dir} has classes from 0 to {classes - 1}, but the '
      f'examples have labels from {y.min()} to {y.max()}.'
    )
  x, y = task.preprocess_arrays(x, y)
  if ink_side is not None:
    x = enlarge_ink(x, ink_side)
  logits = np.concatenate(
    [model(x[i : i + _BATCH]).numpy() for i in range(0, len(x), _BATCH)]
  )
  if not np.isfinite(logits).all():
    return math.nan
  return float(np.mean(logits.argmax(-1) == y))


def _evaluate(argv, flag_values: flags.FlagValues = flags.FLAGS) -> None:
  del argv
  o = command_flags.read(Options, flag_values)
  x, y = read_examples(o.examples)
  for directory in o.run_dir:
    found = accuracy(directory, x, y, o.ink_side)
    shown = 'NaN (its outputs are not finite: it diverged)'
    if math.isfinite(found):
      shown = f'{found:.4f}'
    print(f'Accuracy {shown} on {len(y)}: {directory}')


def define_flags(flag_values: flags.FlagValues) -> None:
  """Defines the flags of the command."""
  command_flags.define(options.fields(Options), flag_values)


def main() -> None:
  """Entry point of `fedsynth-evaluate`."""
  cli.start(_evaluate, define_flags)
