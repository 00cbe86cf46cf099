"""Pictures of results, with matplotlib."""

from collections.abc import Mapping
import csv
import pathlib

import matplotlib

matplotlib.use('Agg')  # No display is needed.

# pylint: disable=g-import-not-at-top
from matplotlib import pyplot as plt
import numpy as np

_MAX_SHOWN = 16
_TOP_LABELS = 3


def plot_synthetic_data(data, cosine: float, path: pathlib.Path) -> None:
  """Draws synthetic images with their most likely labels.

  Args:
    data: A `synthetic_data.SyntheticData` whose inputs are images.
    cosine: Between the replayed and the real update.
    path: Of the PNG file to write.
  """
  images = np.reshape(data.inputs, [-1, *data.inputs.shape[2:]])[:_MAX_SHOWN]
  labels = np.reshape(data.labels, [-1, data.labels.shape[-1]])[:_MAX_SHOWN]
  total = data.inputs.shape[0] * data.inputs.shape[1]
  columns = min(len(images), 8)
  rows = -(-len(images) // columns)
  figure, axes = plt.subplots(
    rows, columns, figsize=(1.5 * columns, 2.4 * rows + 0.6), squeeze=False
  )
  for axis in axes.flat:
    axis.axis('off')
  for axis, image, label in zip(axes.flat, images, labels):
    axis.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap='gray')
    top = np.argsort(label)[::-1][:_TOP_LABELS]
    axis.set_title('\n'.join(f'{c}: {label[c]:.2f}' for c in top), fontsize=8)
  figure.suptitle(
    f'One upload: {len(images)} of {total} synthetic examples, soft labels on '
    f'top\ncosine to the real update {cosine:.2f}',
    fontsize=9,
  )
  figure.tight_layout()
  figure.savefig(path, dpi=120)
  plt.close(figure)


def plot_accuracy(
  runs: Mapping[str, pathlib.Path], column: str, path: pathlib.Path
) -> None:
  """Draws test accuracy over rounds.

  Args:
    runs: From a legend to the metrics.csv of a run.
    column: The column of the accuracy.
    path: Of the PNG file to write.
  """
  figure, axis = plt.subplots(figsize=(7, 4.5))
  for name, metrics in runs.items():
    with metrics.open() as file:
      rows = [r for r in csv.DictReader(file) if r.get(column)]
    axis.plot(
      [int(r['round']) for r in rows],
      [float(r[column]) for r in rows],
      label=name,
    )
  axis.set_xlabel('round')
  axis.set_ylabel('test accuracy')
  axis.set_ylim(0, 1)
  axis.grid(alpha=0.3)
  axis.legend(loc='lower right')
  figure.tight_layout()
  figure.savefig(path, dpi=120)
  plt.close(figure)
