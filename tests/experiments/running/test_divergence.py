"""Runs that diverged say so wherever their accuracy would stand."""

import json
import math

import fake_comparison
from matplotlib import figure as figure_lib
import numpy as np
import pandas as pd
import pytest
import small_runs
import tensorflow_federated as tff

from tff_fedsynth.experiments.basics import training
from tff_fedsynth.experiments.comparing import comparison as comparison_lib
from tff_fedsynth.experiments.measuring import ablation_report
from tff_fedsynth.experiments.records import recovery
from tff_fedsynth.experiments.reporting import costs
from tff_fedsynth.experiments.running import rounds
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.trust import siege


def _no_constant(name):
  raise ValueError(f'{name} is no JSON.')


def _summary_file(directory):
  """What summary.json holds, read as JSON alone."""
  text = (directory / 'summary.json').read_text(encoding='utf-8')
  return json.loads(text, parse_constant=_no_constant)


def test_weights_that_are_no_numbers_have_no_accuracy(whole):
  process = whole.built.process
  nan = tff.learning.models.ModelWeights(
    [np.full_like(w, np.nan) for w in whole.model.initial_weights[0]], []
  )
  state = process.set_model_weights(process.initialize(), nan)
  measured = rounds._evaluation(whole)(state, [whole.task.test_data])
  assert math.isnan(measured['accuracy']) and math.isnan(measured['loss'])


@pytest.mark.parametrize(
  'arguments, reason, rejected',
  [
    # One step to weights of about 1e36, of which logits overflow.
    (
      dict(method='fedavg', server_learning_rate=1e38),
      'the loss is not finite',
      None,
    ),
    # TFF leaves out updates that are not finite.
    (
      dict(method='fedavg', client_learning_rate=1e38),
      'no update of the last 2 rounds could be used',
      None,
    ),
    # Bounds keep what diverges on clients out of the model.
    (
      dict(client_learning_rate=1e12),
      'no update of the last 2 rounds could be used',
      6,
    ),
  ],
)
def test_a_run_that_diverged(arguments, reason, rejected, tmp_path):
  summary = small_runs.train(tmp_path, **arguments)
  for found in (
    summary,
    runner.read_summary(small_runs.settings(tmp_path, **arguments)),
  ):
    assert found['diverged'] == reason
    assert found['rejected_clients'] == rejected
    assert math.isnan(found['final_accuracy'])
    assert math.isnan(found['last_accuracy'])
  stored = _summary_file(tmp_path)
  assert stored['final_accuracy'] == stored['last_accuracy'] == 'NaN'
  line = training.result(summary)
  assert line.startswith(
    f'Accuracy NaN, as the run diverged: {reason}, after 3'
  )
  assert ('The server rejected 6 of 6 uploads.' in line) == bool(rejected)


def test_what_is_no_number_is_text_in_json(tmp_path):
  path = tmp_path / 'a.json'
  value = {'a': math.nan, 'b': {'c': -math.inf}, 'd': [1, 0.5, None, 'x']}
  recovery.write_json(path, value)
  stored = json.loads(path.read_text(), parse_constant=_no_constant)
  assert stored == {'a': 'NaN', 'b': {'c': '-Infinity'}, 'd': value['d']}
  again = recovery.read_json(path)
  assert math.isnan(again.pop('a'))
  assert again == {'b': {'c': -math.inf}, 'd': value['d']}


def test_a_metric_that_is_no_number_is_no_gap(tmp_path):
  path = tmp_path / 'metrics.csv'
  path.write_text(
    f'round,{rounds.ACCURACY}\n0,0.1\n1,0.5\n2,\n3,nan\n', encoding='utf-8'
  )
  found = rounds.read_metric(path, rounds.ACCURACY)
  assert math.isnan(found.pop(3))
  assert found == {0: 0.1, 1: 0.5}
  assert rounds.read_metric(path, 'another') == {}
  assert math.isnan(costs.last_accuracy(path))


@pytest.fixture
def compared(tmp_path, monkeypatch, fixed_code):
  """A comparison in which drive diverged with one of two seeds; its pictures."""
  del fixed_code
  fake_comparison.FakeRunner(
    monkeypatch, diverge=lambda s: (s.method, s.seed) == ('drive', 1)
  )
  texts = []
  savefig = figure_lib.Figure.savefig

  def spy(self, path, **kwargs):
    found = self.findobj(lambda o: hasattr(o, 'get_text'))
    texts.append(' '.join(t.get_text() for t in found))
    savefig(self, path, **kwargs)

  monkeypatch.setattr(figure_lib.Figure, 'savefig', spy)
  comparison_lib.compare(
    fake_comparison.comparison(
      tmp_path, methods=('drive', 'top_k'), seeds=(0, 1)
    )
  )
  return tmp_path, texts


def test_a_comparison_shows_it_everywhere(compared):
  directory, texts = compared
  frame = fake_comparison.results(directory).set_index(['method', 'seed'])
  assert frame.status['drive', 1] == 'diverged'
  assert frame.rejected_clients['drive', 1] == 7
  assert np.isnan(frame.final_accuracy['drive', 1])
  table = (directory / 'table.md').read_text()
  shown = 'NaN (1 of 2 diverged, 7 uploads rejected)'
  assert f'| drive | {shown} |' in table
  assert '| top_k | **0.105 +- 0.007** |' in table
  assert 'Diverged: drive 1/500, seed 1: the loss is not finite' in table
  for name in ('table.tex', 'report.html'):
    assert shown in (directory / name).read_text()
  assert 'diverged: drive 1/500' in ' '.join(texts)
  # The same again reads what was written.
  comparison_lib.compare(
    fake_comparison.comparison(directory, methods=('top_k',), seeds=(0, 1))
  )
  assert shown in (directory / 'table.md').read_text()


def test_a_rate_that_diverged_is_never_chosen(tmp_path, monkeypatch):
  # By its formula 0.3 would be the best.
  fake_comparison.FakeRunner(
    monkeypatch, diverge=lambda s: s.server_learning_rate == 0.3
  )
  comparison_lib.compare(
    fake_comparison.comparison(tmp_path, **fake_comparison.TUNED)
  )
  assert (fake_comparison.results(tmp_path).server_learning_rate == 0.1).all()
  text = (tmp_path / 'tuning.json').read_text()
  tuned = json.loads(text, parse_constant=_no_constant)
  assert tuned['drive, ratio 500.0']['accuracies']['0.3'] == 'NaN'


def test_attacks_and_ablations_show_it():
  common = dict(uplink_bytes=100, seconds=1.0, rejected_clients=2, attackers=1)
  rows = pd.DataFrame(
    [
      dict(
        variant='base',
        attack='nan',
        defense='median',
        seed=seed,
        status=status,
        final_accuracy=accuracy,
        last_accuracy=accuracy,
        **common,
      )
      for seed, (status, accuracy) in enumerate(
        [('finished', 0.5), ('diverged', math.nan)]
      )
    ]
  )
  for module in (siege, ablation_report):
    text = module.table(rows, None)
    assert 'NaN (1 of 2 diverged, 2 uploads rejected)' in text
    assert '0.5' not in text
