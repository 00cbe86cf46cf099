"""The table of a comparison for a paper, in LaTeX with booktabs."""

from collections.abc import Mapping

import pandas as pd

from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.reporting import costs
from tff_fedsynth.experiments.reporting import tables
from tff_fedsynth.experiments.settings.settings import Settings

_SPECIAL = {
  '\\': r'\textbackslash{}',
  '~': r'\textasciitilde{}',
  '^': r'\textasciicircum{}',
  **{c: rf'\{c}' for c in '&%$#_{}'},
  # Other letters in LaTeX's first font.
  '<': r'\textless{}',
  '>': r'\textgreater{}',
  '|': r'\textbar{}',
}


def escape(text: str) -> str:
  """Text in which no character means anything to LaTeX."""
  return ''.join(_SPECIAL.get(c, c) for c in text)


def _accuracy(rows: pd.DataFrame, form: str = '{}') -> str:
  text = tables.accuracy(rows)
  if text.startswith('NaN'):
    return escape(text)
  return f'${form.format(text.replace("+-", chr(92) + "pm"))}$'


def _cell(cell: tables.Cell) -> str:
  if cell.rows.empty:
    return '--'
  marks = escape(cell.remarks + cell.marks)
  if cell.finished.empty:
    return escape(cell.rows.status.iloc[0]) + marks
  form = '{}^{{*}}' if cell.is_tied else '{}'
  if cell.is_best:
    form = r'\mathbf{{{}}}'
  return _accuracy(cell.finished, form) + marks


def comparison(
  frame: pd.DataFrame, settings: Settings, current: Mapping[str, str]
) -> str:
  """Accuracy at each ratio; the setup and the code are in the caption.

  Args:
    frame: A row a run.
    settings: What all runs share.
    current: The code that makes the table; see `provenance`.
  """
  reference = costs.ended(frame[frame.method == costs.REFERENCE])
  marks, notes = tables.code_notes(frame, current)
  ratios = sorted(frame.ratio.dropna().unique())
  words = tables.setup(frame, settings).replace('+-', 'and')
  caption = ' '.join(
    [
      escape(f'Accuracy by compression ratio: {words}'),
      r'Bold is the best at its ratio; $^{*}$ is not worse by more than two '
      r'standard errors.',
      escape(f'Made by {provenance.in_words(current)}.'),
      *map(escape, notes),
    ]
  )
  found = tables.cells(frame, marks)
  rows = []
  if not reference.empty:
    text = _accuracy(reference) + escape(tables.joined(marks[reference.index]))
    across = (
      rf'\multicolumn{{{len(ratios)}}}{{c}}{{{text}}}' if ratios else text
    )
    rows.append(['FedAvg, no budget', across])
  if rows and found:
    rows.append(None)  # A line.
  for method, of_method in found.items():
    rows.append([escape(method), *(_cell(of_method[r]) for r in ratios)])
  header = ['Method', *(f'$1/{ratio:g}$' for ratio in ratios)]
  body = '\n'.join(
    r'    \midrule' if row is None else f'    {" & ".join(row)} \\\\'
    for row in rows
  )
  columns = 'l' + 'c' * max(1, len(ratios))
  return rf"""% \usepackage{{booktabs}}
\begin{{table}}
  \centering
  \caption{{{caption}}}
  \label{{tab:comparison}}
  \begin{{tabular}}{{{columns}}}
    \toprule
    {' & '.join(header)} \\
    \midrule
{body}
    \bottomrule
  \end{{tabular}}
\end{{table}}
"""
