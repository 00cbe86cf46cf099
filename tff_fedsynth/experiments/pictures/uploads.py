"""Pictures of what one client uploads."""

from collections.abc import Mapping
import pathlib

import numpy as np
import tensorflow as tf

from tff_fedsynth.experiments.pictures import canvas

_MAX_SHOWN = 16
_MOST_COLUMNS = 8
# More labels have no room for a tick each, or for an example each.
_MANY_LABELS = 10
# The mean of fewer examples would show a single one.
_FEWEST = 20
_GROWS, _SHRINKS = '#1f5fc4', '#e66b00'
_SIGNED = (
  'Bars: what a step on the example does to each logit, minus the gradient of its '
  'loss.\nA blue bar raises the logit of its label, an orange one lowers it.'
)
_SOFT = 'Bars: the label, a number for each class.'
_COLORED = '\nColors are scaled to the range of each image.'


def mean_examples(data: tf.data.Dataset) -> dict[int, np.ndarray]:
  """The mean input of each label that at least 20 examples have.

  Args:
    data: Batches `(x, y)`, with one label an example.
  """
  sums, counts = {}, {}
  for x, y in data.as_numpy_iterator():
    for label in map(int, np.unique(y)):
      rows = x[y == label]
      sums[label] = sums.get(label, 0) + rows.sum(axis=0)
      counts[label] = counts.get(label, 0) + len(rows)
  return {k: sums[k] / counts[k] for k in sorted(sums) if counts[k] >= _FEWEST}


def _is_colored(example: np.ndarray) -> bool:
  return example.ndim == 3 and example.shape[-1] == 3


def _draw(axis, example: np.ndarray, title: str = '') -> None:
  """Draws colors, or one channel; no images are one row."""
  if example.ndim != 3:
    example = example.reshape([1, -1])
  elif _is_colored(example):
    # As matplotlib does with one channel; colors beyond 0 and 1 it clips.
    example = np.nan_to_num(example)
    low, high = example.min(), example.max()
    example = (example - low) / ((high - low) or 1)
  else:
    example = example[..., 0]
  axis.imshow(example, cmap='gray')
  axis.set_title(title, fontsize=8)
  axis.axis('off')


def _draw_label(axis, label: np.ndarray) -> None:
  axis.bar(
    range(len(label)), label, color=np.where(label < 0, _SHRINKS, _GROWS)
  )
  axis.axhline(0, color='black', linewidth=0.6)
  is_many = len(label) > _MANY_LABELS
  axis.set_xticks([np.argmax(label)] if is_many else range(len(label)))
  axis.tick_params(labelsize=6, length=0, pad=1)
  axis.set_yticks([])
  axis.spines[:].set_visible(False)


def plot_synthetic_data(
  data, cosine: float, path, means: Mapping[int, np.ndarray] | None = None
) -> None:
  """Draws synthetic images with their labels, above what real ones look like.

  Args:
    data: A `synthetic_data.SyntheticData` whose inputs are images, or
      other values, which are drawn in a row.
    cosine: Between the replayed and the real update.
    path: Of the PNG file to write, or the file.
    means: From a label to the mean of many real examples that anybody may see;
      none if there are no such.
  """
  images = np.reshape(data.inputs, [-1, *data.inputs.shape[2:]])[:_MAX_SHOWN]
  labels = np.reshape(data.labels, [-1, data.labels.shape[-1]])[:_MAX_SHOWN]
  what = _SOFT
  if labels.min() < 0:
    # Signed labels are a gradient in the logits: what is below zero is to grow.
    labels, what = -labels, _SIGNED
  total = data.inputs.shape[0] * data.inputs.shape[1]
  strongest = sorted(set(map(int, labels.argmax(axis=-1))))
  means = means or {}
  if len(means) > _MANY_LABELS:
    means = {k: means[k] for k in strongest if k in means}
  columns = canvas.columns_of(len(images), _MOST_COLUMNS)
  rows = -(-len(images) // columns)
  width = max(6.5, 1.3 * columns)
  heights = [1.9 * rows + 0.9, 1.2] if means else [1.9 * rows + 0.9]
  with canvas.drawn(path, width, sum(heights)) as figure:
    parts = figure.subfigures(
      len(heights), 1, height_ratios=heights, squeeze=False
    )
    upper, *lower = parts[:, 0]
    grid = upper.subplots(
      2 * rows, columns, squeeze=False, height_ratios=[3, 1] * rows
    )
    limits = min(0, labels.min()), max(0, labels.max())
    for axis in grid.flat:
      axis.axis('off')
    for i, (image, label) in enumerate(zip(images, labels)):
      row, column = divmod(i, columns)
      _draw(grid[2 * row, column], image, f'strongest: {label.argmax()}')
      below = grid[2 * row + 1, column]
      below.axis('on')
      if any(limits):  # All are 0 where learning diverged.
        below.set_ylim(limits)
      _draw_label(below, label)
    upper.suptitle(
      f'One upload: {len(images)} of {total} synthetic examples, cosine to the '
      f'real update {cosine:.2f}.\n{what}'
      + (_COLORED if _is_colored(images[0]) else ''),
      fontsize=8,
    )
    if lower:
      _draw_means(lower[0], means)


def _draw_means(figure, means: Mapping[int, np.ndarray]) -> None:
  grid = figure.subplots(1, len(means), squeeze=False)
  for axis, (label, example) in zip(grid.flat, means.items()):
    _draw(axis, example, str(label))
  figure.suptitle(
    'For comparison: the mean of all real test examples of a label. None is of '
    'a client.',
    fontsize=8,
  )


def plot_pairs(above, below, path: pathlib.Path) -> None:
  """Draws synthetic images above the real ones that are nearest to them.

  Args:
    above: Synthetic images, [n, height, width, channels].
    below: As many real ones.
    path: Of the PNG file to write.
  """
  columns = min(len(above), _MAX_SHOWN)
  with canvas.drawn(path, 1.2 * columns + 0.6, 3.0) as figure:
    grid = figure.subplots(2, columns, squeeze=False)
    for i in range(columns):
      _draw(grid[0, i], above[i])
      _draw(grid[1, i], below[i])
    figure.suptitle(
      'Synthetic examples of one client, and its real example that is nearest'
    )
