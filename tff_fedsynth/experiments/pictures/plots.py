"""Pictures of accuracy: over bytes, rounds, a client's seconds, attackers."""

from collections.abc import Sequence
import pathlib
import textwrap

import numpy as np
import pandas as pd

from tff_fedsynth.experiments.pictures import canvas
from tff_fedsynth.experiments.pictures.styles import style_of

# Deviations of more methods in one panel merge into gray.
_MOST_TOGETHER = 5
_MOST_COLUMNS = 4
# Of methods that stand in another panel.
_OTHERS = dict(color='0.8', linewidth=0.9, zorder=1)
# Points of one budget would hide each other: so far apart are their bytes drawn.
_APART = 1.05


def _groups(methods: list[str]) -> list[list[str]]:
  """The methods that each panel has in color: all, or one each of many."""
  if len(methods) <= _MOST_TOGETHER:
    return [methods]
  return [[method] for method in methods]


def _finish(figure, panels, x: str, y: str, titled: list[str]) -> None:
  """What all panels share: names of the axes, and a legend above.

  Args:
    figure: With the panels.
    panels: Axes.
    x: Name of the horizontal axis.
    y: Name of the vertical axis.
    titled: Methods that need no legend, as their panels have their names.
  """
  figure.supxlabel(x, fontsize='medium')
  figure.supylabel(y, fontsize='medium')
  handles = {}
  for axis in panels:
    lines, labels = axis.get_legend_handles_labels()
    handles.update(zip(labels, lines))
  if titled:
    handles = {k: v for k, v in handles.items() if k not in titled}
    (handles['all other methods'],) = panels[0].plot([], [], **_OTHERS)
  figure.legend(
    handles.values(),
    handles.keys(),
    loc='outside upper center',
    ncols=canvas.columns_of(len(handles), _MOST_COLUMNS),
    frameon=False,
  )


def _title(axis, words: list[str]) -> None:
  axis.set_title(', '.join(words), fontsize='medium')


def plot_accuracy_over_uplink(
  frame, path: pathlib.Path, diverged: Sequence[str] = ()
) -> None:
  """Draws final accuracy against bytes up, with standard deviations.

  Above five methods, each has a panel of its own, with the others in gray.

  Args:
    frame: A `pandas.DataFrame` with columns method, ratio, uplink_bytes and
      final_accuracy, one row a run. Rows without a ratio become a level line.
    path: Of the PNG file to write.
    diverged: What is not in the frame, as its accuracy is NaN; the picture says so.
  """
  points = frame.groupby(['method', 'uplink_bytes'], sort=False).agg(
    accuracy=('final_accuracy', 'mean'),
    deviation=('final_accuracy', 'std'),
    ratio=('ratio', 'first'),
  )
  points = points.fillna(dict(deviation=0)).reset_index()
  levels = points[points.ratio.isna()]
  budgets = points[points.ratio.notna()].sort_values('uplink_bytes')
  lines = {m: budgets[budgets.method == m] for m in frame.method.unique()}
  methods = [m for m, line in lines.items() if len(line)]
  groups = _groups(methods)
  columns = canvas.columns_of(len(groups), _MOST_COLUMNS)
  rows = -(-len(groups) // columns)
  size = (7.5, 5.2) if len(groups) == 1 else (2.6 * columns, 2.2 * rows + 0.7)
  with canvas.drawn(path, *size) as figure:
    panels = canvas.panels_of(figure, len(groups), columns)
    for axis, shown in zip(panels, groups):
      for level in levels.itertuples():
        _draw_level(axis, level)
      for method in methods:
        if method in shown:
          place = shown.index(method) - (len(shown) - 1) / 2
          _draw_budgets(axis, lines[method], _APART**place, style_of(method))
        else:
          axis.plot(
            lines[method].uplink_bytes, lines[method].accuracy, **_OTHERS
          )
      if len(groups) > 1:
        _title(axis, shown)
      sizes = (budgets if len(budgets) else points).uplink_bytes
      canvas.scale_bytes(axis, sizes.min(), sizes.max())
    _finish(
      figure,
      panels,
      'bytes up, one client in one round (metered)'
      + (
        '' if len(methods) < 2 or len(groups) > 1 else '; drawn a little apart'
      )
      + (f'\ndiverged: {", ".join(diverged)}' if diverged else ''),
      'final test accuracy, mean and deviation over seeds',
      titled=methods if len(groups) > 1 else [],
    )


def _draw_level(axis, level) -> None:
  """A method that has no budget, as a line with a band."""
  color = style_of(level.method)['color']
  name = f'{level.method}, {level.uplink_bytes:,.0f} bytes'
  low, high = level.accuracy - level.deviation, level.accuracy + level.deviation
  axis.axhline(level.accuracy, color=color, linewidth=1.2, label=name)
  axis.axhspan(low, high, color=color, alpha=0.08, linewidth=0)


def _draw_budgets(axis, line, shift: float, style) -> None:
  axis.errorbar(
    line.uplink_bytes * shift,
    line.accuracy,
    line.deviation if line.deviation.any() else None,
    label=line.method.iloc[0],
    capsize=3,
    markersize=5,
    **style,
  )


def plot_accuracy_over_rounds(curves, path: pathlib.Path) -> None:
  """Draws test accuracy over rounds, a panel a ratio, mean over seeds.

  Above five methods, each has panels of its own, with the others in gray.

  Args:
    curves: From (method, ratio or NaN, seed) to a `pandas.Series` of accuracy
      by round. Those without a ratio are in every panel.
    path: Of the PNG file to write.
  """
  ratios = sorted({r for _, r, _ in curves if r == r}) or [np.nan]
  levels = {m for m, r, _ in curves if r != r}
  methods = list(dict.fromkeys(m for m, _, _ in curves))
  groups = _groups([m for m in methods if m not in levels])
  is_many = len(groups) > 1
  # A row has all ratios of one group, or of a few.
  across = canvas.columns_of(len(groups), max(1, _MOST_COLUMNS // len(ratios)))
  columns = across * len(ratios)
  size = (max(7.5, 3.2 * columns), 4.4)
  if is_many:
    size = (max(7.5, 2.6 * columns), 1.9 * -(-len(groups) // across) + 0.7)
  with canvas.drawn(path, *size) as figure:
    panels = canvas.panels_of(figure, len(groups) * len(ratios), columns)
    cells = [(shown, ratio) for shown in groups for ratio in ratios]
    for axis, (shown, ratio) in zip(panels, cells):
      for method in methods:
        runs = [
          curve
          for (m, r, _), curve in curves.items()
          if m == method and (r == ratio or r != r)
        ]
        if runs:
          _draw_curve(axis, method, runs, method in levels or method in shown)
      if shown and not any(m in shown and r == ratio for m, r, _ in curves):
        axis.text(0.5, 0.5, 'no run', transform=axis.transAxes, ha='center')
      names = shown if is_many else []
      _title(axis, [*names, *([f'1/{ratio:g}'] if ratio == ratio else [])])
    titled = [m for m in methods if m not in levels] if is_many else []
    x = 'round'
    if ratios[0] == ratios[0]:
      x += f' (1/{ratios[0]:g}: bytes up over the bytes of the model)'
    _finish(figure, panels, x, 'test accuracy', titled)


def _draw_curve(axis, method: str, runs, is_shown: bool) -> None:
  """The mean of some runs; with a band of one deviation where it is shown."""
  numbers = runs[0].index
  values = np.stack([run.reindex(numbers) for run in runs])
  mean = values.mean(axis=0)
  if not is_shown:
    axis.plot(numbers, mean, **_OTHERS)
    return
  color = style_of(method)['color']
  axis.plot(numbers, mean, color=color, label=method)
  if len(runs) > 1:
    deviation = values.std(axis=0, ddof=1)
    low, high = mean - deviation, mean + deviation
    axis.fill_between(numbers, low, high, color=color, alpha=0.12, linewidth=0)


def plot_over_seconds(frame, column: str, path: pathlib.Path) -> None:
  """Draws what a client's time buys: a point a variant, numbered as in the legend.

  Args:
    frame: A `pandas.DataFrame` with columns variant, seconds and `column`, one
      row a seed; deviations are over seeds. A variant without seconds is a line.
    column: What is drawn over the seconds.
    path: Of the PNG file to write.
  """
  with canvas.drawn(path, 8, 5) as figure:
    (axis,) = canvas.panels_of(figure, 1, 1)
    groups = frame.groupby('variant', sort=False)
    for i, (variant, rows) in enumerate(groups):
      # Where a seed diverged it is NaN, and not drawn.
      x, y = rows.seconds.mean(), rows[column].mean(skipna=False)
      label = textwrap.fill(f'{i}: {variant}'.replace(',', ', '), 110)
      if rows.seconds.isna().all():
        axis.axhline(y, color='gray', linestyle='--', label=label)
        continue
      axis.errorbar(
        x,
        y,
        rows[column].std(ddof=1) if len(rows) > 1 else None,
        rows.seconds.std(ddof=1) if len(rows) > 1 else None,
        fmt='o',
        capsize=3,
        label=label,
      )
      axis.annotate(str(i), (x, y), (6, 6), textcoords='offset points')
    figure.legend(loc='outside lower left', fontsize=8)
    axis.set_xlabel('seconds of one client in one round, training included')
    axis.set_ylabel(column.replace('_', ' '))
    axis.margins(x=0.25)


def plot_accuracy_over_attackers(frame, path: pathlib.Path) -> None:
  """Draws what lying clients do: a panel an attack, a line a defense.

  Args:
    frame: A `pandas.DataFrame` with columns attack, attackers, defense and
      final_accuracy, one row a seed; deviations are over seeds. Rows without
      attackers are in every panel.
    path: Of the PNG file to write.
  """
  honest = frame[frame.attackers == 0]
  attacks = list(frame.attack[frame.attackers > 0].unique())
  columns = canvas.columns_of(len(attacks), _MOST_COLUMNS // 2)
  size = (max(7.5, 3.6 * columns), 2.3 * -(-len(attacks) // columns) + 1)
  with canvas.drawn(path, *size) as figure:
    panels = canvas.panels_of(figure, len(attacks), columns)
    for axis, attack in zip(panels, attacks):
      shown = pd.concat([honest, frame[frame.attack == attack]])
      for defense, rows in shown.groupby('defense', sort=False):
        accuracy = rows.groupby('attackers').final_accuracy
        # That of seeds of which one diverged is NaN, and not drawn.
        mean = accuracy.agg(lambda values: values.mean(skipna=False))
        axis.errorbar(
          mean.index,
          mean,
          accuracy.std(ddof=1).fillna(0),
          marker='.',
          capsize=2,
          label=defense,
        )
      _title(axis, [attack.replace('_', ' ')])
      axis.set_xticks(sorted(frame.attackers.unique()))
    _finish(figure, panels, 'lying clients in a round', 'test accuracy', [])
