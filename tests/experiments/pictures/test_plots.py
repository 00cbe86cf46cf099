"""What stands in the pictures of accuracy, read off the figures."""

import math

from matplotlib import figure as figure_lib
import matplotlib.colors
import pandas as pd
import pytest

from tff_fedsynth.experiments.pictures import canvas
from tff_fedsynth.experiments.pictures import plots
from tff_fedsynth.experiments.pictures.styles import style_of

FIVE = ['drive', 'top_k', 'sign', 'qsgd', 'low_rank']
SIX = [*FIVE, 'fedsynth']


@pytest.fixture(name='figures')
def _figures(monkeypatch):
  """The figures that are written."""
  found = []
  save = figure_lib.Figure.savefig

  def savefig(self, path, **kwargs):
    found.append(self)
    save(self, path, **kwargs)

  monkeypatch.setattr(figure_lib.Figure, 'savefig', savefig)
  return found


def _frame(methods):
  rows = [('fedavg', math.nan, 0, 636_044, 0.8)]
  rows += [
    (m, ratio, seed, int(636_040 / ratio), 0.5 + seed / 10)
    for m in methods
    for ratio in (100.0, 500.0)
    for seed in (0, 1)
  ]
  columns = ['method', 'ratio', 'seed', 'uplink_bytes', 'final_accuracy']
  return pd.DataFrame(rows, columns=columns)


def _curves(methods, ratios=(100.0, 500.0)):
  curve = pd.Series([0.1, 0.5], [0, 10])
  return {('fedavg', math.nan, 0): curve} | {
    (m, ratio, seed): curve + seed / 10
    for m in methods
    for ratio in ratios
    for seed in (0, 1)
  }


def _panels(figure):
  return [axis for axis in figure.axes if axis.axison]


def _colors(axis):
  return {matplotlib.colors.to_hex(line.get_color()) for line in axis.lines}


def _bands(axis):
  return [c for c in axis.collections if c.get_alpha()]


@pytest.mark.parametrize(
  'draw, data, panels',
  [
    (plots.plot_accuracy_over_uplink, _frame, 1),
    (plots.plot_accuracy_over_rounds, _curves, 2),
  ],
)
def test_above_five_methods_each_has_panels_of_its_own(
  draw, data, panels, figures, tmp_path
):
  for methods in (FIVE, SIX):
    draw(data(methods), tmp_path / 'picture.png')
  together, apart = map(_panels, figures)
  assert len(together) == panels
  for axis in together:
    assert {style_of(m)['color'] for m in FIVE} < _colors(axis)
  assert len(apart) == len(SIX) * panels
  for i, axis in enumerate(apart):
    method = SIX[i // panels]
    colors = {style_of(m)['color'] for m in SIX}
    assert colors & _colors(axis) == {style_of(method)['color']}
    assert method in axis.get_title()
    assert len(_bands(axis)) <= 1
    # All others are there, in gray, and FedAvg is in every panel.
    assert {'#cccccc', '#000000'} < _colors(axis)


def test_a_panel_of_what_never_ran_says_so(figures, tmp_path):
  curves = _curves(SIX)
  ratios = sorted({r for _, r, _ in curves if r == r})
  missing = SIX[1], ratios[0]
  left = {k: v for k, v in curves.items() if k[:2] != missing}
  for of_table in (curves, left):
    plots.plot_accuracy_over_rounds(of_table, tmp_path / 'picture.png')
  all_of_them, without = (
    {a.get_title(): [t.get_text() for t in a.texts] for a in _panels(figure)}
    for figure in figures
  )
  assert not any(all_of_them.values())
  title = f'{missing[0]}, 1/{missing[1]:g}'
  assert {t for t, texts in without.items() if texts} == {title}
  assert without[title] == ['no run']


def test_the_reference_alone_is_a_picture(figures, tmp_path):
  plots.plot_accuracy_over_uplink(_frame([]), tmp_path / 'uplink.png')
  plots.plot_accuracy_over_rounds(_curves([]), tmp_path / 'rounds.png')
  assert [len(_panels(figure)) for figure in figures] == [1, 1]
  assert not figures[1].axes[0].texts


@pytest.mark.parametrize(
  'low, high, names',
  [
    (1272, 1272, ['1 kB', '2 kB']),
    (318, 31_802, ['300 B', '1 kB', '3 kB', '10 kB', '30 kB']),
    (1000, 10_000_000, ['1 kB', '10 kB', '100 kB', '1 MB', '10 MB']),
  ],
)
def test_ticks_of_bytes_can_be_read(low, high, names, figures, tmp_path):
  with canvas.drawn(tmp_path / 'picture.png', 4, 3) as figure:
    (axis,) = canvas.panels_of(figure, 1, 1)
    canvas.scale_bytes(axis, low, high)
  labels = [label.get_text() for label in axis.get_xticklabels()]
  assert [label.replace('\N{NO-BREAK SPACE}', ' ') for label in labels] == names
  assert not axis.get_xticklabels(minor=True)


@pytest.mark.parametrize('panels', range(1, 40))
def test_less_than_a_third_of_a_canvas_is_empty(panels):
  columns = canvas.columns_of(panels, 4)
  rows = math.ceil(panels / columns)
  assert columns <= 4 and panels > rows * columns * 2 / 3


def test_a_layout_has_no_noise_in_its_last_digits(tmp_path, figures):
  with canvas.drawn(tmp_path / 'a.png', 4, 3) as figure:
    above, below = figure.subfigures(2, 1)
    below.subplots(1, 3)
    above.subplots(1, 2)[1].imshow([[0, 1]])
    above.suptitle('two')
  (figure,) = figures
  for points in (
    *(axis.get_position(original=True).bounds for axis in figure.axes),
    *(part.bbox_relative.bounds for part in figure.subfigs),
  ):
    assert points == pytest.approx([round(p, 6) for p in points], abs=1e-13)


def test_what_lying_clients_do_starts_at_the_honest_run(tmp_path, figures):
  rows = [
    ('none', 0, 'bounds', 0, 0.9),
    ('none', 0, 'bounds', 1, 0.7),
    ('nan', 1, 'bounds', 0, 0.5),
    ('nan', 1, 'bounds', 1, 0.3),
    ('nan', 2, 'bounds', 0, 0.1),
    ('zeros', 2, 'bounds', 0, 0.2),
  ]
  frame = pd.DataFrame(
    rows, columns=['attack', 'attackers', 'defense', 'seed', 'final_accuracy']
  )
  plots.plot_accuracy_over_attackers(frame, tmp_path / 'a.png')
  nan, zeros = (a for a in figures[0].axes if a.lines)
  assert (nan.get_title(), zeros.get_title()) == ('nan', 'zeros')
  line = nan.containers[0].lines[0]
  assert list(line.get_xdata()) == [0, 1, 2]
  assert list(line.get_ydata()) == pytest.approx([0.8, 0.4, 0.1])
  line = zeros.containers[0].lines[0]
  assert list(line.get_xdata()) == [0, 2]
