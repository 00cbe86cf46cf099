"""Accuracy over rounds of all runs of a table, in one file beside it."""

from collections.abc import Mapping
import math
import pathlib

import pandas as pd

from tff_fedsynth.experiments.records import recovery

FILE = 'curves.csv'
_KEY = ['method', 'ratio', 'seed']
_COLUMNS = [*_KEY, 'round', 'accuracy']


def key_of(method: str, ratio: float, seed: int) -> tuple[str, float, int]:
  """What tells runs apart; keys without a ratio, of NaN, are the same key too."""
  return method, math.nan if pd.isna(ratio) else float(ratio), int(seed)


def write(curves: Mapping[tuple, pd.Series], directory: pathlib.Path) -> None:
  """Writes curves.csv.

  Args:
    curves: From a `key_of` a run to its accuracy by round.
    directory: Where to.
  """
  rows = [
    (*key, number, accuracy)
    for key, curve in curves.items()
    for number, accuracy in curve.items()
  ]
  frame = pd.DataFrame(rows, columns=_COLUMNS)
  recovery.write_text(directory / FILE, frame.to_csv(index=False))


def read(directory: pathlib.Path) -> dict[tuple, pd.Series]:
  """What `write` wrote; nothing where there is no such file."""
  path = directory / FILE
  if not path.exists():
    return {}
  frame = pd.read_csv(path)
  return {
    key_of(*key): rows.set_index('round').accuracy
    for key, rows in frame.groupby(_KEY, sort=False, dropna=False)
  }
