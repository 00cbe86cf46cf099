"""Pictures of results, with matplotlib."""

from collections.abc import Mapping
import csv
import pathlib

import matplotlib

matplotlib.use('Agg')  # No display is needed.

# pylint: disable=g-import-not-at-top
from matplotlib import pyplot as plt
from matplotlib import ticker
import numpy as np

from tff_fedsynth.experiments.pictures.styles import style_of

_MAX_SHOWN = 16
_TOP_LABELS = 3


def _drawn(example: np.ndarray) -> np.ndarray:
  """What `imshow` takes: colors, or one channel; no images are one row."""
  if example.ndim != 3:
    return example.reshape([1, -1])
  return example if example.shape[-1] == 3 else example[..., 0]


def plot_synthetic_data(data, cosine: float, path) -> None:
  """Draws synthetic images with their strongest labels.

  Args:
    data: A `synthetic_data.SyntheticData` whose inputs are images, or
      other values, which are drawn in a row.
    cosine: Between the replayed and the real update.
    path: Of the PNG file to write, or the file.
  """
  images = np.reshape(data.inputs, [-1, *data.inputs.shape[2:]])[:_MAX_SHOWN]
  labels = np.reshape(data.labels, [-1, data.labels.shape[-1]])[:_MAX_SHOWN]
  what = 'soft labels'
  if labels.min() < 0:
    # Signed labels are a gradient in the logits: what is below zero is to grow.
    labels, what = -labels, 'minus the gradients in the logits'
  total = data.inputs.shape[0] * data.inputs.shape[1]
  columns = min(len(images), 8)
  rows = -(-len(images) // columns)
  figure, axes = plt.subplots(
    rows, columns, figsize=(1.5 * columns, 2.4 * rows + 0.6), squeeze=False
  )
  for axis in axes.flat:
    axis.axis('off')
  for axis, image, label in zip(axes.flat, images, labels):
    axis.imshow(_drawn(image), cmap='gray')
    top = np.argsort(label)[::-1][:_TOP_LABELS]
    axis.set_title('\n'.join(f'{c}: {label[c]:.2f}' for c in top), fontsize=8)
  figure.suptitle(
    f'One upload: {len(images)} of {total} synthetic examples, {what} on '
    f'top\ncosine to the real update {cosine:.2f}',
    fontsize=9,
  )
  figure.tight_layout()
  figure.savefig(path, dpi=120)
  plt.close(figure)


def plot_pairs(above, below, path: pathlib.Path) -> None:
  """Draws synthetic images above the real ones that are nearest to them.

  Args:
    above: Synthetic images, [n, height, width, channels].
    below: As many real ones.
    path: Of the PNG file to write.
  """
  columns = min(len(above), _MAX_SHOWN)
  figure, axes = plt.subplots(
    2, columns, figsize=(1.2 * columns + 0.6, 3.0), squeeze=False
  )
  for i in range(columns):
    for axis, image in ((axes[0, i], above[i]), (axes[1, i], below[i])):
      axis.imshow(_drawn(image), cmap='gray')
      axis.axis('off')
  figure.suptitle(
    'Synthetic examples of one client, and its real example that is nearest',
    fontsize=9,
  )
  figure.tight_layout()
  figure.savefig(path, dpi=120)
  plt.close(figure)


def plot_accuracy(
  runs: Mapping[str, tuple[str, pathlib.Path]], column: str, path: pathlib.Path
) -> None:
  """Draws test accuracy over rounds.

  Args:
    runs: From a method to a legend and the metrics.csv of its run.
    column: The column of the accuracy.
    path: Of the PNG file to write.
  """
  figure, axis = plt.subplots(figsize=(7, 4.5))
  for method, (name, metrics) in runs.items():
    with metrics.open() as file:
      rows = [r for r in csv.DictReader(file) if r.get(column)]
    axis.plot(
      [int(r['round']) for r in rows],
      [float(r[column]) for r in rows],
      label=name,
      **{**style_of(method), 'marker': ''},
    )
  axis.set_xlabel('round')
  axis.set_ylabel('test accuracy')
  axis.set_ylim(0, 1)
  axis.grid(alpha=0.3)
  axis.legend(loc='lower right')
  figure.tight_layout()
  figure.savefig(path, dpi=120)
  plt.close(figure)


def plot_accuracy_over_uplink(frame, path: pathlib.Path) -> None:
  """Draws final accuracy against bytes up, with standard deviations.

  Args:
    frame: A `pandas.DataFrame` with columns method, ratio, uplink_bytes and
      final_accuracy, one row a run. Rows without a ratio become a level line.
    path: Of the PNG file to write.
  """
  figure, axis = plt.subplots(figsize=(9, 5.5))
  for method, rows in frame.groupby('method', sort=False):
    groups = rows.groupby('uplink_bytes').final_accuracy
    mean, deviation = groups.mean(), groups.std(ddof=1).fillna(0)
    if rows.ratio.isna().all():
      axis.axhline(
        mean.iloc[0], color='black', label=f'{method}, {mean.index[0]:,.0f} B'
      )
      axis.axhspan(
        mean.iloc[0] - deviation.iloc[0],
        mean.iloc[0] + deviation.iloc[0],
        color='black',
        alpha=0.08,
      )
    else:
      axis.errorbar(
        mean.index, mean, deviation, label=method, capsize=3, **style_of(method)
      )
  axis.set_xscale('log')
  # The default labels overlap where budgets span less than two decades.
  axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axis.xaxis.set_major_formatter('{x:,.0f}')
  axis.xaxis.set_minor_formatter(ticker.NullFormatter())
  axis.set_xlabel('bytes up, one client in one round (metered)')
  axis.set_ylabel('final test accuracy')
  axis.grid(alpha=0.3)
  axis.legend(loc='center left', bbox_to_anchor=(1, 0.5), fontsize=8)
  figure.tight_layout()
  figure.savefig(path, dpi=120)
  plt.close(figure)


def plot_over_seconds(frame, column: str, path: pathlib.Path) -> None:
  """Draws what a client's time buys: a point a variant, with its name.

  Args:
    frame: A `pandas.DataFrame` with columns variant, seconds and `column`, one
      row a seed; deviations are over seeds.
    column: What is drawn over the seconds.
    path: Of the PNG file to write.
  """
  figure, axis = plt.subplots(figsize=(8, 5))
  for variant, rows in frame.groupby('variant', sort=False):
    x, y = rows.seconds.mean(), rows[column].mean()
    axis.errorbar(
      x,
      y,
      rows[column].std(ddof=1) if len(rows) > 1 else None,
      rows.seconds.std(ddof=1) if len(rows) > 1 else None,
      fmt='o',
      capsize=3,
    )
    axis.annotate(
      variant, (x, y), (6, 6), textcoords='offset points', fontsize=8
    )
  axis.set_xlabel('seconds of one client in one round, local training included')
  axis.set_ylabel(column.replace('_', ' '))
  axis.margins(x=0.25)
  axis.grid(alpha=0.3)
  figure.tight_layout()
  figure.savefig(path, dpi=120)
  plt.close(figure)


def plot_accuracy_over_rounds(curves, path: pathlib.Path) -> None:
  """Draws test accuracy over rounds, one panel a ratio, mean over seeds.

  Args:
    curves: From (method, ratio or NaN, seed) to a `pandas.Series` of accuracy
      by round. Those without a ratio are in every panel.
    path: Of the PNG file to write.
  """
  ratios = sorted({r for _, r, _ in curves if r == r}) or [np.nan]
  methods = list(dict.fromkeys(m for m, _, _ in curves))
  figure, axes = plt.subplots(
    1,
    len(ratios),
    figsize=(4 * len(ratios) + 2, 4),
    sharey=True,
    squeeze=False,
  )
  for axis, ratio in zip(axes[0], ratios):
    for method in methods:
      runs = [
        c for (m, r, _), c in curves.items() if m == method and r in (ratio,)
      ] or [c for (m, r, _), c in curves.items() if m == method and r != r]
      if not runs:
        continue
      rounds = runs[0].index
      values = np.stack([run.reindex(rounds) for run in runs])
      style = {**style_of(method), 'marker': ''}
      mean = values.mean(axis=0)
      axis.plot(rounds, mean, label=method, **style)
      if len(runs) > 1:
        deviation = values.std(axis=0, ddof=1)
        axis.fill_between(
          rounds,
          mean - deviation,
          mean + deviation,
          color=style['color'],
          alpha=0.12,
        )
    axis.set_title(f'1/{ratio:g} of the model' if ratio == ratio else '')
    axis.set_xlabel('round')
    axis.grid(alpha=0.3)
  axes[0, 0].set_ylabel('test accuracy')
  handles = {}
  for axis in axes[0]:
    lines, labels = axis.get_legend_handles_labels()
    handles.update(zip(labels, lines))
  axes[0, -1].legend(
    handles.values(),
    handles.keys(),
    loc='center left',
    bbox_to_anchor=(1, 0.5),
    fontsize=8,
  )
  figure.tight_layout()
  figure.savefig(path, dpi=120)
  plt.close(figure)
