"""Figures of panels: how many in a row, and axes of bytes."""

from collections.abc import Iterator
import contextlib

import matplotlib

matplotlib.use('Agg')  # No display is needed.

# pylint: disable=g-import-not-at-top
from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

_DPI = 120
_FONT_SIZE = 9
_MOST_TICKS = 5
# Steps of a decade with a tick, the most readable that are not too many.
_STEPS = ((1, 2, 5), (1, 3), (1,))
# Any range so wide around a number has a tick.
_MARGIN = 1.6
# Of a position, in shares of the canvas.
_DIGITS = 6


def columns_of(panels: int, most: int) -> int:
  """How many panels stand in a row, so that the last row is nearly full."""
  rows = -(-panels // most)
  return -(-panels // rows)


def _settle(figure: Figure) -> None:
  """Lays a figure out for good, the same each time.

  The solver of the layout leaves noise in the last digits, which may move the
  edge of a panel by a whole pixel.
  """
  figure.draw_without_rendering()
  figure.set_layout_engine('none')
  for part in figure.subfigs:
    part.bbox_relative.set_points(
      part.bbox_relative.get_points().round(_DIGITS)
    )
  for axis in figure.axes:
    axis.set_position(
      np.round(axis.get_position(original=True).bounds, _DIGITS)
    )


@contextlib.contextmanager
def drawn(path, width: float, height: float) -> Iterator[Figure]:
  """A figure to draw on, which is written at the end.

  Args:
    path: Of the PNG file to write, or the file.
    width: In inches.
    height: In inches.
  """
  with plt.rc_context({'font.size': _FONT_SIZE}):
    figure = plt.figure(figsize=(width, height), dpi=_DPI, layout='constrained')
    yield figure
    _settle(figure)
    figure.savefig(path)
    plt.close(figure)


def panels_of(figure: Figure, number: int, columns: int) -> list[Axes]:
  """So many panels with shared axes, row by row; places left over stay empty."""
  rows = -(-number // columns)
  grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
  for axis in grid.flat[number:]:
    axis.axis('off')
  for column in grid.T:
    # Where the last place of a column is empty, the one above it has the numbers.
    *_, last = (axis for axis in column if axis.axison)
    last.tick_params(labelbottom=True)
  for axis in grid.flat[:number]:
    axis.grid(alpha=0.3)
  return list(grid.flat[:number])


def scale_bytes(axis: Axes, low: float, high: float) -> None:
  """Makes the horizontal axis one of bytes, from below `low` to above `high`.

  It is logarithmic, with few round ticks such as "2 kB".
  """
  low, high = low / _MARGIN, high * _MARGIN
  decades = 10.0 ** np.arange(
    np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1
  )
  for steps in _STEPS:
    ticks = [t for t in np.outer(decades, steps).flat if low <= t <= high]
    if len(ticks) <= _MOST_TICKS:
      break
  axis.set_xscale('log')
  axis.set_xlim(low, high)
  axis.xaxis.set_major_locator(ticker.FixedLocator(ticks))
  axis.xaxis.set_major_formatter(ticker.EngFormatter('B'))
  axis.xaxis.set_minor_locator(ticker.NullLocator())
