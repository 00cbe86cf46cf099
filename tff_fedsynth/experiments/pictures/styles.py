"""One color, line and marker for each method, the same in every picture."""

import zlib

from matplotlib import pyplot as plt

from tff_fedsynth.experiments.methods.registry import METHODS

_REFERENCE = 'fedavg'
_LINES = ('-', '--')
_MARKERS = 'osv^Dx'


def style_of(method: str) -> dict[str, object]:
  """What `Axes.plot` takes; FedAvg is black.

  Args:
    method: Its name. One that is in no registry, as of an older table, has a
      style that depends on the name alone.
  """
  if method == _REFERENCE:
    return dict(color='black', linestyle='-', marker='')
  colors = plt.get_cmap('tab20').colors
  names = [name for name in METHODS if name != _REFERENCE]
  if method in names:
    number = names.index(method)
  else:
    number = zlib.crc32(method.encode())
  # Neighbours in this map are the dark and the light one of a color.
  color = 2 * number + number // (len(colors) // 2)
  return dict(
    color=colors[color % len(colors)],
    linestyle=_LINES[number // (len(colors) // 2) % len(_LINES)],
    marker=_MARKERS[number % len(_MARKERS)],
  )
