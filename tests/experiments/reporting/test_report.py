"""What is written of a comparison: one page that needs nothing else, and curves."""

import html
import math
import pathlib
import re

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from tff_fedsynth.experiments.records import curves
from tff_fedsynth.experiments.reporting import report
from tff_fedsynth.experiments.running import rounds
from tff_fedsynth.experiments.settings.settings import Settings

STRANGE = 'of <a> "plugin" & co'
METHODS = ('fedavg', 'fedsynth', 'drive', STRANGE)
COMMAND = "fedsynth-compare '--methods=of <a>' --output_dir=DIR"


def _row(directory, method, seed, **changes):
  run = pathlib.Path(directory, 'runs', str(METHODS.index(method)), str(seed))
  run.mkdir(parents=True)
  accuracy = [0.1, 0.2 + seed / 10]
  pd.DataFrame(
    {'round': [0, 1], rounds.ACCURACY: accuracy, rounds.LOSS: accuracy}
  ).to_csv(run / 'metrics.csv')
  if method == 'fedsynth':
    matplotlib.image.imsave(run / 'synthetic.png', np.eye(3))
  if method == STRANGE:
    (run / 'synthetic.txt').write_text("0  'to' 1.00  ->  '<eos>'")
  return (
    dict(
      method=method,
      ratio=None if method == 'fedavg' else 100.0,
      seed=seed,
      server_learning_rate=1.0,
      status='finished',
      final_accuracy=accuracy[-1],
      uplink_bytes=636_044 if method == 'fedavg' else 6_360,
      downlink_bytes=636_040,
      seconds_per_round=1.0,
      error=None,
      command=f'fedsynth-train --method={method!r} --seed={seed}',
      metrics=str(run / 'metrics.csv'),
    )
    | changes
  )


@pytest.fixture(name='rows')
def _rows(tmp_path):
  return [_row(tmp_path, m, seed) for m in METHODS for seed in (0, 1)]


@pytest.fixture(name='page')
def _page(rows, tmp_path):
  rows[-1] |= dict(status='failed', error='ValueError: <b> & so on')
  report.write(rows, Settings(), tmp_path, COMMAND)
  return (tmp_path / 'report.html').read_text()


def test_the_page_fetches_nothing(page):
  assert 'http' not in page and '<link' not in page and '<script' not in page
  sources = re.findall(r'src\s*=\s*"([^"]{30})|url\(', page)
  # Both curves, and the first seed's upload.
  assert sources == ['data:image/png;base64,iVBORw0K'] * 3


def test_the_page_has_every_method_and_says_where_it_is_from(page):
  cells = re.findall(r'</span>([^<]+)</td>', page)
  # A mark says which code made a row.
  assert set(METHODS) <= {html.unescape(c).partition(' [')[0] for c in cells}
  assert 'fedsynth, 1/100 of the model, seed 0' in page
  text = html.unescape(page)
  assert COMMAND in text and '--seed=1' in text
  for name in ('commit', 'tensorflow_version', 'python_version'):
    assert f'<li>{name}: ' in page
  assert '0.250 ± 0.071' in page


def test_no_name_means_anything_to_html(page):
  assert '<a>' not in page and '<eos>' not in page and '<b> &' not in page
  assert html.escape(STRANGE) in page
  assert 'ValueError: &lt;b&gt; &amp; so on' in page


def test_curves_are_kept_when_runs_are_gone(rows, tmp_path):
  report.write(rows, Settings(), tmp_path, COMMAND)
  before = curves.read(tmp_path)
  assert list(before[curves.key_of('fedavg', math.nan, 1)]) == [0.1, 0.3]
  assert len(before) == len(rows)
  gone = [{**row, 'metrics': None} for row in rows[2:]]
  report.write(rows[:2] + gone, Settings(), tmp_path, COMMAND)
  after = curves.read(tmp_path)
  assert after.keys() == before.keys()
  for key, curve in after.items():
    pd.testing.assert_series_equal(curve, before[key])
