"""Makes tables, pictures and the index of the results out of what was measured.

  make results

A study is a folder with a README.md, whose sections are `HEADINGS`. The rows of
its runs lie in it or in folders below, with the command that made them: results.csv
of a comparison, cells.csv of an ablation or of attacks. Tables and pages that this
program writes are compared by tests/test_results.py. Pictures are drawn of the rows, and of
curves.csv where that was stored.
"""

from collections.abc import Iterator
import json
import pathlib
import re
import shlex
import statistics
import textwrap

from absl import flags
import pandas as pd

from tff_fedsynth.experiments.basics import demonstration
from tff_fedsynth.experiments.comparing import compare_command
from tff_fedsynth.experiments.measuring import ablation_report
from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.experiments.pictures import plots
from tff_fedsynth.experiments.records import curves
from tff_fedsynth.experiments.reporting import report
from tff_fedsynth.experiments.reporting import tables
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.trust import siege

ROOT = pathlib.Path(__file__).parent
DEMO = ROOT / 'demo'
INDEX = ROOT / 'README.md'
COMMAND = 'command.txt'
RESULTS = 'results.csv'
CELLS = 'cells.csv'
TABLE = 'table.md'
HEADINGS = (
  *('Question', 'Answer', 'Setup', 'Table', 'Picture'),
  *('Caveats', 'What failed'),
)
# Tables of older code, which nothing rests on.
HISTORIC = ROOT / 'historic'
_WIDTH = 98
_HEAD = """# Results

Each study asks one question. Its page has the answer first, then the setup, the
table, a picture, caveats, and what failed. The commands that made the rows stand
in `command.txt`, the rows in a CSV file beside it, and each row names the code that made
it where that was recorded. `make results` makes the tables, the pictures and this
page; a test compares the text. Results of older code are [kept apart](historic/README.md).
"""


def studies() -> list[pathlib.Path]:
  """The folders of all studies, historic ones left out."""
  return sorted(
    p.parent for p in ROOT.glob('*/README.md') if p.parent != HISTORIC
  )


def folders(study: pathlib.Path) -> list[pathlib.Path]:
  """The folders of a study that have rows: itself, or those below."""
  return sorted(
    p.parent for name in (RESULTS, CELLS) for p in study.rglob(name)
  )


def _settings(folder: pathlib.Path) -> settings_lib.Settings:
  """What the command of a comparison says that all its runs share."""
  _, *arguments = shlex.split((folder / COMMAND).read_text(encoding='utf-8'))
  values = flags.FlagValues()
  compare_command.define_flags(values)
  command_flags.parse(['program', *arguments], values)
  # Not the whole comparison: older code took what is refused today.
  return settings_lib.from_flags(registry.own_options(), values)


def _rows(folder: pathlib.Path) -> pd.DataFrame:
  """What was measured in a folder."""
  path = folder / CELLS
  return pd.read_csv(path if path.exists() else folder / RESULTS)


def _maker(rows: pd.DataFrame):
  """What makes a table and pictures of rows of its own; none of a comparison."""
  if 'variant' in rows:
    return ablation_report
  return siege if 'attack' in rows else None


def table(folder: pathlib.Path) -> str:
  """The table of a folder, made anew out of its rows."""
  rows = _rows(folder)
  maker = _maker(rows)
  # The page of the study says which code made the rows.
  if maker:
    return maker.table(rows, None)
  if folder == DEMO:
    return demonstration.table(rows)
  return tables.comparison(rows, _settings(folder), None)


def draw(folder: pathlib.Path) -> None:
  """Draws the pictures of a folder anew."""
  rows = _rows(folder)
  maker = _maker(rows)
  if maker:
    maker.draw(rows, folder)
  else:
    report.draw(rows, curves.read(folder), folder)


def section(page: str, heading: str) -> str:
  """The text below a heading of a page."""
  (text,) = re.findall(
    rf'^## {heading}\n\n(.*?)\n(?=\n## |\Z)', page, re.M | re.S
  )
  return text


def _wrapped(text: str) -> str:
  """Text of short lines; the rows of a table cannot be broken."""
  return '\n'.join(
    line if line.startswith('|') else textwrap.fill(line, _WIDTH)
    for line in text.splitlines()
  )


def _variants(study: pathlib.Path) -> Iterator[str]:
  """A row for each folder of ablations; their variants side by side."""
  rows, most = [], 0
  for folder in folders(study):
    measured = _rows(folder)
    groups = [g for _, g in measured.groupby('variant', sort=False)]
    most = max(most, len(groups))
    cell = f'[{folder.name}]({folder.relative_to(study) / TABLE})'
    for name in ('cosine', 'cosine_of_means', 'seconds'):
      if name in measured:
        values = (tables.spread(g[name], 3) for g in groups)
        rows.append([cell, name.replace('_', ' '), *values])
  header = ['cell', '', *(f'variant {i}' for i in range(most))]
  yield (
    'Cosine of what is replayed and the real update, and seconds of a client: mean, '
    'and standard deviation over seeds. Variant 0 is what the flags of the command '
    'say, the others follow in its order. Links lead to each round and the bytes.'
  )
  yield tables.markdown(
    header, [row + [''] * (len(header) - len(row)) for row in rows]
  )


def _errors(study: pathlib.Path) -> Iterator[str]:
  """A row for each folder of ablations of a sketch: the split of least error."""
  rows, factors = [], []
  for folder in folders(study):
    measured = _rows(folder)
    share = measured['flags'].map(
      lambda text: float(json.loads(text)['residual_fraction'])
    )
    errors = measured.unbiased_error.groupby(share)
    means = errors.mean()
    factor = means[1] / means.min()
    factors.append(factor)
    best = errors.get_group(means.idxmin())
    rows.append(
      [
        f'[{folder.name}]({folder.relative_to(study) / TABLE})',
        tables.spread(errors.get_group(1), 2),
        tables.spread(best, 2),
        f'{means.idxmin():g}',
        f'{factor:.2f}',
      ]
    )
  yield (
    'Squared error of one client over the squared norm of its real update, mean and '
    'standard deviation over seeds. The factor is that of the errors, which is one of '
    'bytes, as the error of a sketch falls as 1 / bytes. Links lead to all splits.'
  )
  header = (
    'cell',
    'sketch alone',
    'best split',
    'share of its sketch',
    'factor',
  )
  yield tables.markdown(header, rows)
  mean = statistics.geometric_mean(factors)
  yield f'The geometric mean of the factors is {mean:.2f}.'


def _shown(study: pathlib.Path) -> Iterator[str]:
  """What stands in the section of the table: a table a folder, to its notes."""
  for folder in folders(study):
    text, name = table(folder), folder.relative_to(study)
    if folder != study:
      yield f'### {name}'
    if folder == DEMO or not (folder / RESULTS).exists():
      yield text.rstrip()
      continue
    accuracies, _, _ = text.partition('Bold is the best')
    yield accuracies.rstrip()
    yield f'Costs, and bytes that peers need: [{TABLE}]({name / TABLE}).'


def with_tables(study: pathlib.Path) -> str:
  """The page of a study, with its tables made anew."""
  page = (study / 'README.md').read_text(encoding='utf-8')
  old = section(page, 'Table')
  measured = [_rows(folder) for folder in folders(study)]
  make = _shown
  if all(_maker(rows) is ablation_report for rows in measured):
    of_sketch = all('unbiased_error' in rows for rows in measured)
    make = _errors if of_sketch else _variants
  parts = make(study)
  return page.replace(old, '\n\n'.join(map(_wrapped, parts)))


def _cell(text: str) -> str:
  return ' '.join(text.split())


def index() -> str:
  """The page of all studies."""
  rows = []
  for study in studies():
    page = (study / 'README.md').read_text(encoding='utf-8')
    question, answer = (_cell(section(page, h)) for h in HEADINGS[:2])
    rows.append([f'[{study.name}]({study.name}/README.md)', question, answer])
  header = ['study', 'question', 'answer']
  return f'{_HEAD}\n{tables.markdown(header, rows)}\n'


def main() -> None:
  """Writes all tables and pictures, and the index."""
  for picture in HISTORIC.rglob(report.OVER_UPLINK):
    # Those of older code as well: a method has one color everywhere.
    draw(picture.parent)
  for study in studies():
    for folder in folders(study):
      if folder == DEMO:  # There is nothing to draw over bytes.
        path = DEMO / report.OVER_ROUNDS
        plots.plot_accuracy_over_rounds(curves.read(DEMO), path)
      else:
        draw(folder)
      (folder / TABLE).write_text(table(folder), encoding='utf-8')
    page = with_tables(study)
    (study / 'README.md').write_text(page, encoding='utf-8')
  INDEX.write_text(index(), encoding='utf-8')


if __name__ == '__main__':
  main()
