"""One color and marker for each method, the same in every picture."""

import zlib

# Methods of one family have shades of one color. A method that stands here keeps
# its style whatever others come; one that does not has a style that its name tells.
_STYLES = {
  'fedavg': ('black', ''),
  'fedsynth': ('#1f5fc4', 'o'),
  'fedsynth_drive': ('#00a6d6', 's'),
  'fedsynth_cross_polytope': ('#0b2f7a', '^'),
  'fedsynth_data_loss': ('#7fb2ff', 'D'),
  'goetz_tewari': ('#6a51a3', 'v'),
  'threesfc': ('#b39ddb', 'P'),
  'random_mask': ('#e66b00', 'o'),
  'random_mask_8bit': ('#f5b041', 's'),
  'random_mask_unscaled': ('#8a4b08', '^'),
  'top_k': ('#1b7837', 'o'),
  'top_k_8bit': ('#7fbf5b', 's'),
  'drive': ('#c51b1b', 'D'),
  'drive_mse': ('#f4877e', 'P'),
  'cross_polytope': ('#d6278f', 'v'),
  'low_rank': ('#6b6b00', 'X'),
  'low_rank_8bit': ('#bdb500', 'h'),
  'qsgd': ('#008080', 'h'),
  'sign': ('#6fc7b6', '*'),
  'tff_compression': ('#795548', 'd'),
}
# Of those that are not there.
_COLORS = ('#4b0082', '#a0522d', '#2f4f4f', '#ff7f50', '#9acd32', '#db7093')
_MARKERS = '<>p8'


def style_of(method: str) -> dict[str, str]:
  """What `Axes.plot` takes for a method: its `color` and its `marker`."""
  number = zlib.crc32(method.encode())
  spare = (
    _COLORS[number % len(_COLORS)],
    _MARKERS[number // len(_COLORS) % len(_MARKERS)],
  )
  return dict(zip(('color', 'marker'), _STYLES.get(method, spare)))
