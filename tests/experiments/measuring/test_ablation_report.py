"""What the picture of an ablation shows."""

import pandas as pd
import pytest

from tff_fedsynth.experiments.measuring import ablation_report
from tff_fedsynth.experiments.pictures import plots


@pytest.mark.parametrize(
  'columns, shown',
  [
    (dict(cosine=[0.5, 0.6], final_accuracy=[0.8, 0.9]), 'final_accuracy'),
    (dict(cosine=[0.5, 0.6], unbiased_error=[2.0, 3.0]), 'unbiased_error'),
    # One row with a sketch among others.
    (dict(cosine=[0.5, 0.6], unbiased_error=[None, 3.0]), 'cosine'),
    (dict(cosine=[0.5, None], unbiased_error=[2.0, 3.0]), 'unbiased_error'),
  ],
)
def test_what_most_rows_have_is_drawn(tmp_path, monkeypatch, columns, shown):
  drawn = []
  monkeypatch.setattr(
    plots, 'plot_over_seconds', lambda frame, value, path: drawn.append(value)
  )
  ablation_report.draw(pd.DataFrame(columns), tmp_path)
  assert drawn == [shown]
