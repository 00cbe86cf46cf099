"""The table and the picture of an ablation."""

from collections.abc import Mapping
import pathlib

import pandas as pd

from tff_fedsynth.experiments.pictures import plots
from tff_fedsynth.experiments.reporting import tables


def draw(frame: pd.DataFrame, directory: pathlib.Path) -> None:
  """Draws over_seconds.png: accuracies, errors or cosines, what most rows have.

  Args:
    frame: What `ablation.ablate` returns.
    directory: Where to.
  """
  values = ('final_accuracy', 'unbiased_error', 'cosine')
  # The first of several that as many rows have.
  value = max(
    (name for name in values if name in frame), key=lambda n: frame[n].count()
  )
  plots.plot_over_seconds(frame, value, directory / 'over_seconds.png')


def _text(group: pd.DataFrame, column: str) -> str:
  if column in ('final_accuracy', 'last_accuracy'):
    return tables.accuracy(group, column)
  return tables.spread(group[column], 3)


def table(frame: pd.DataFrame, current: Mapping[str, str] | None) -> str:
  """Mean +- standard deviation over seeds, a row a variant, as Markdown.

  Args:
    frame: What `ablation.ablate` returns.
    current: As in `tables.code_notes`.
  """
  shown = [
    c
    for c in frame
    if c.startswith('cosine')
    or c in ('seconds', 'unbiased_error', 'final_accuracy', 'last_accuracy')
  ]
  marks, notes = tables.code_notes(frame, current)
  rows = []
  for name, group in frame.groupby('variant', sort=False):
    rows.append(
      [
        name + tables.joined(marks[group.index]),
        f'{group.uplink_bytes.max():,}',
        *(_text(group, column) for column in shown),
      ]
    )
  header = ['variant', 'bytes up', *(c.replace('_', ' ') for c in shown)]
  return '\n\n'.join([tables.markdown(header, rows), *notes]) + '\n'
