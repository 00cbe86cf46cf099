"""Makes the tables and the index of the results out of their rows.

  make results

A study is a folder with README.md, results.csv, a row a run, command.txt, and
pictures as the commands drew them. What stands between the two marks of its
README.md is written here. Rows of several cells have a column that names them.
"""

from collections.abc import Iterator
import pathlib
import re

import pandas as pd

ROOT = pathlib.Path(__file__).parent
INDEX = ROOT / 'README.md'
STUDIES = sorted(path.parent for path in ROOT.glob('*/README.md'))
_TABLE = re.compile(r'(?<=<!-- table -->\n).*?(?=<!-- /table -->)', re.S)
_HEAD = """# Results

Each study asks one question. Its page has the answer first, then the setup, the
table, a picture, caveats, and what failed. `results.csv` beside it has a row a run,
with the commit and the command that made it, and `command.txt` the commands of the
study. `make results` makes the tables and this page out of the rows; a test compares
them. The pictures are those that the commands drew.
"""
_NOISE = """\
Squared error of one client over the squared norm of its real update, mean and standard
deviation over seeds, for each share of the sketch; at 1 it has all bytes. The factor is that of
the errors of a sketch alone and of the best share, which is one of bytes, as the error of a
sketch falls as 1 / bytes."""
_VARIANTS = """\
Cosine of what is replayed and the real update, and seconds of a client, mean and standard
deviation over seeds. Variant 0 is what the flags of the command say, the others follow in its
order. `results.csv` has the bytes and each round."""
_COMPARISON = """\
Test accuracy, mean of the last evaluations, mean +- standard deviation over seeds. Bold is the
best at its ratio; * is not worse than it: its lead, paired by seed, is within two standard
errors. "too large" means that no setting of the method fits the budget. `results.csv` has bytes,
seconds, server learning rates, and rounds and megabytes to 90% and 95% of FedAvg's accuracy."""


def _spread(digits: int):
  """Returns what writes mean +- standard deviation over seeds."""
  return lambda values: (
    f'{values.mean():.{digits}f} +- {values.std(ddof=1):.{digits}f}'
  )


def _markdown(frame: pd.DataFrame) -> str:
  lines = [list(frame), ['---'] * len(frame.columns), *frame.values.tolist()]
  return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)


def _pivot(rows, index, columns, values, digits: int) -> pd.DataFrame:
  """Means and standard deviations over seeds, in the order of the rows."""
  return rows.pivot_table(
    values, index, columns, aggfunc=_spread(digits), sort=False
  )


def _demo(rows: pd.DataFrame) -> Iterator[str]:
  """The table that `make demo` prints."""
  yield _markdown(
    pd.DataFrame(
      {
        'method': rows.method.map('`{}`'.format),
        'bytes up a client and round': rows.uplink_bytes.map('{:,}'.format),
        'times less': rows.compression_ratio.map('{:.0f}'.format),
        'accuracy, mean of last 5': rows.final_accuracy.map('{:.3f}'.format),
        'last': rows.last_accuracy.map('{:.3f}'.format),
      }
    )
  )


def _attacks(rows: pd.DataFrame) -> Iterator[str]:
  yield (
    'Accuracy, mean of the last evaluations, mean +- standard deviation over seeds, '
    'and the last.'
  )
  where = ['attack', 'attackers'], 'defense'
  last = rows.pivot_table('last_accuracy', *where, sort=False)
  texts = _pivot(rows, *where, 'final_accuracy', 3)
  texts += ', last ' + last.map('{:.3f}'.format)
  yield _markdown(texts.reset_index())


def _noise(rows: pd.DataFrame) -> Iterator[str]:
  yield _NOISE
  where = 'cell', 'residual_fraction', 'unbiased_error'
  table = _pivot(rows, *where, 2)
  means = rows.pivot_table(where[2], *where[:2], sort=False)
  factors = means[1] / means.min(axis=1)
  table = table[sorted(table)].rename(columns='share {:g}'.format).fillna('')
  table['factor'] = factors.map('{:.2f}'.format)
  yield _markdown(table.reset_index())
  mean = factors.product() ** (1 / len(factors))
  yield f'The geometric mean of the factors is {mean:.2f}.'


def _variants(rows: pd.DataFrame) -> Iterator[str]:
  yield _VARIANTS
  numbers = rows.groupby('cell').variant.transform(lambda v: v.factorize()[0])
  names = ['cosine', 'cosine_of_means', 'seconds']
  long = rows.assign(variant=numbers.map('variant {}'.format)).melt(
    ['cell', 'variant'], [name for name in names if name in rows], ''
  )
  long[''] = long[''].str.replace('_', ' ')
  order = list(dict.fromkeys(rows.cell))
  table = _pivot(long, ['cell', ''], 'variant', 'value', 3).fillna('')
  yield _markdown(table[sorted(table)].loc[order].reset_index())


def _marked(runs: pd.DataFrame) -> pd.Series:
  """Accuracies of the methods at one ratio, with marks for the best ones."""
  values = runs.pivot(index='seed', columns='method', values='final_accuracy')
  texts = values.apply(_spread(3))
  unfinished = values.columns[values.isna().all()]
  texts[unfinished] = runs.groupby('method').status.first()[unfinished]
  best = values.mean().idxmax()
  lead = values.rsub(values[best], axis=0)
  is_tied = lead.mean() <= 2 * lead.std(ddof=1) / lead.count() ** 0.5
  texts[is_tied] += ' *'
  texts[best] = f'**{texts[best].removesuffix(" *")}**'
  return texts


def _comparison(rows: pd.DataFrame) -> Iterator[str]:
  yield _COMPARISON
  for cell, runs in rows.groupby('cell', sort=False):
    if rows.cell.nunique() > 1:
      yield f'### {cell}'
    fedavg = runs[runs.method == 'fedavg']
    yield (
      f'FedAvg: {_spread(3)(fedavg.final_accuracy)} with '
      f'{fedavg.uplink_bytes.iloc[0]:,.0f} bytes up a client and round.'
    )
    at = {f'1/{ratio:g}': _marked(r) for ratio, r in runs.groupby('ratio')}
    methods = [m for m in runs.method.unique() if m != 'fedavg']
    table = pd.DataFrame(at).loc[methods].fillna('')
    yield _markdown(table.rename_axis('method').reset_index())


def tables(study: pathlib.Path) -> list[str]:
  """The tables of a study with what explains them, by the columns it has."""
  rows = pd.read_csv(study / 'results.csv')
  for column, make in (
    ('attack', _attacks),
    ('residual_fraction', _noise),
    ('variant', _variants),
    ('ratio', _comparison),
  ):
    if column in rows:
      return list(make(rows))
  return list(_demo(rows))


def page(study: pathlib.Path) -> str:
  """The page of a study, with its tables made anew."""
  text = '\n\n'.join(tables(study))
  old = (study / 'README.md').read_text(encoding='utf-8')
  return _TABLE.sub(lambda _: f'\n{text}\n\n', old)


def _section(text: str, heading: str) -> str:
  """A section of a page in one line."""
  return ' '.join(text.split(f'## {heading}\n')[1].split('\n## ')[0].split())


def index() -> str:
  """The page of all studies."""
  rows = []
  for study in STUDIES:
    text = (study / 'README.md').read_text(encoding='utf-8')
    question, answer = (_section(text, h) for h in ('Question', 'Answer'))
    rows.append([f'[{study.name}]({study.name}/README.md)', question, answer])
  header = ['study', 'question', 'answer']
  return f'{_HEAD}\n{_markdown(pd.DataFrame(rows, columns=header))}\n'


def main() -> None:
  """Writes all tables and the index."""
  for study in STUDIES:
    (study / 'README.md').write_text(page(study), encoding='utf-8')
  INDEX.write_text(index(), encoding='utf-8')


if __name__ == '__main__':
  main()
