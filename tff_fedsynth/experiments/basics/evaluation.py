"""Tells how right the models of finished runs are on a file of examples."""

import dataclasses
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

_WHITE = 255
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
    float32 inputs, those of uint8 divided by 255, and int64 labels.

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
    and np.issubdtype(x.dtype, np.number)
  ):
    raise SettingsError(
      f'examples={path} must hold numbers x and one integer y for each, found '
      f'{x.dtype} {list(x.shape)} and {y.dtype} {list(y.shape)}.',
      'examples',
    )
  scale = _WHITE if x.dtype == np.uint8 else 1
  return x.astype(np.float32) / np.float32(scale), y.astype(np.int64)


def enlarge_ink(x: np.ndarray, side: int) -> np.ndarray:
  """Images in which the longer side of what is drawn is the same.

  Args:
    x: float32 [examples, height, width], within 0 and 1; the background is the
      median of an image.
    side: In pixels, of the larger of height and width of what is drawn.

  Raises:
    SettingsError: If there are no such images, or it does not fit them.
  """
  if x.ndim != 3 or side > min(x.shape[1:]):
    raise SettingsError(
      f'ink_side={side} goes only with images of one channel that are at least '
      f'as large, but the examples have the shape {list(x.shape[1:])}.',
      'ink_side',
    )
  return np.stack([_enlarge_ink(image, side) for image in x])


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


def accuracy(output_dir: str | os.PathLike, x: np.ndarray, y: np.ndarray):
  """The share of examples that the model of a run gets right.

  Args:
    output_dir: As of `load_model`.
    x: float [examples, ...], as in training; an axis of one channel may be left
      out.
    y: int [examples], class numbers.

  Raises:
    SettingsError: If there is no run, or its model takes other inputs or has no
      class of that number.
    TaskError: As the task of the run does.
  """
  model = loading.load_keras_model(output_dir)
  wanted, (*_, classes) = model.input_shape[1:], model.output_shape
  if (*x.shape[1:], 1) == wanted:
    x = x[..., np.newaxis]
  if x.shape[1:] != wanted:
    raise SettingsError(
      f'The model of {output_dir} takes inputs of shape {list(wanted)}, but the '
      f'examples have {list(x.shape[1:])}.'
    )
  if y.min() < 0 or y.max() >= classes:
    raise SettingsError(
      f'The model of {output_dir} has classes from 0 to {classes - 1}, but the '
      f'examples have labels from {y.min()} to {y.max()}.'
    )
  right = [
    model(x[i : i + _BATCH]).numpy().argmax(-1) == y[i : i + _BATCH]
    for i in range(0, len(x), _BATCH)
  ]
  return float(np.mean(np.concatenate(right)))


def _evaluate(argv) -> None:
  del argv
  o = command_flags.read(Options)
  x, y = read_examples(o.examples)
  if o.ink_side is not None:
    x = enlarge_ink(x, o.ink_side)
  for directory in o.run_dir:
    print(f'Accuracy {accuracy(directory, x, y):.4f} on {len(y)}: {directory}')


def define_flags(flag_values: flags.FlagValues) -> None:
  """Defines the flags of the command."""
  command_flags.define(options.fields(Options), flag_values)


def main() -> None:
  """Entry point of `fedsynth-evaluate`."""
  cli.start(_evaluate, define_flags)
