"""Learning rates and options are tuned on seeds of their own."""

import itertools
import json

import fake_comparison
import pytest

from tff_fedsynth.experiments.comparing import comparison as comparison_lib

pytestmark = pytest.mark.usefixtures('fixed_code')


def test_tuning_takes_the_best_rate_on_other_seeds(tmp_path, monkeypatch):
  fake = fake_comparison.FakeRunner(monkeypatch)
  comparison = fake_comparison.comparison(
    tmp_path,
    methods=('drive', 'sign'),
    tuning_rates=(0.1, 0.3, 1.0),
    tuning_seeds=(100, 101),
    tuning_rounds=1,
  )
  comparison_lib.compare(comparison)
  # The same effort for each: 3 rates on 2 seeds. sign does not fit.
  tuned = [s for s in fake.executed if s.seed >= 100]
  assert len(tuned) == 2 * 6 and {s.total_rounds for s in tuned} == {1}
  frame = fake_comparison.results(tmp_path)
  finished = frame[frame.status == 'finished']
  assert list(finished.method) == ['fedavg', 'drive']
  assert (finished.server_learning_rate == 0.3).all()
  chosen = json.loads((tmp_path / 'tuning.json').read_text())
  assert chosen['drive, ratio 500.0'] == {
    'server_learning_rate': 0.3,
    'accuracies': pytest.approx({'0.1': 1.605, '0.3': 1.805, '1.0': 1.105}),
    'option_accuracies': {},
    'options': {},
  }
  assert chosen['sign, ratio 500.0']['accuracies'] == {}
  # Again, from where it was: the rate of the table is not that of the flags.
  executed = len(fake.executed)
  comparison_lib.compare(comparison)
  assert len(fake.executed) == executed
  assert list(fake_comparison.results(tmp_path).status) == list(frame.status)


def test_what_tuning_measured_holds_for_the_table(tmp_path, monkeypatch):
  fake = fake_comparison.FakeRunner(monkeypatch)
  comparison = fake_comparison.comparison(
    tmp_path,
    methods=('fedsynth_drive',),
    seeds=(0, 1),
    tuning_rates=(1.0, 0.3),
    tuning_seeds=(100,),
    tuning_rounds=1,
  )
  for _ in range(2):  # The second one finds everything done.
    comparison_lib.compare(comparison)
  ours = [s for s in fake.executed if s.method == 'fedsynth_drive']
  assert [s.options.get('residual_fraction') for s in ours] == [
    None,
    0.4,
    0.4,
    0.4,
  ]
  assert all('client_time_ratio' not in s.options for s in ours)
  assert list(fake_comparison.results(tmp_path).status) == ['finished'] * 4


def test_tuning_takes_the_best_value_of_an_option(tmp_path, monkeypatch):
  fake = fake_comparison.FakeRunner(monkeypatch)
  comparison = fake_comparison.comparison(
    tmp_path,
    methods=('fedsynth_drive', 'drive'),
    tuning_rates=(1.0, 0.3),
    tuning_seeds=(100,),
    tuning_rounds=1,
    tuning_options={'fedsynth_drive': ('residual_fraction', (0.0, 0.6, 1.0))},
  )
  for _ in range(2):
    comparison_lib.compare(comparison)
  ours = [s for s in fake.executed if s.method == 'fedsynth_drive']
  # All values with all rates, and the best of both in the table.
  tried = [
    (s.options['residual_fraction'], s.server_learning_rate) for s in ours
  ]
  values, rates = (0.0, 0.6, 1.0), (1.0, 0.3)
  assert tried == [*itertools.product(values, rates), (0.6, 0.3)]
  assert comparison.tuning_runs('fedsynth_drive') == 6
  assert comparison.tuning_runs('drive') == 2
  chosen = json.loads((tmp_path / 'tuning.json').read_text())
  assert chosen['fedsynth_drive, ratio 500.0']['option_accuracies'] == (
    pytest.approx({'0.0': 1.75, '0.6': 1.79, '1.0': 1.75})
  )
