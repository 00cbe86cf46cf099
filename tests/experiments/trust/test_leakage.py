"""What uploads give away, by hand, and on a small run."""

import dataclasses
import shlex

from absl import flags as absl_flags
import numpy as np
import pandas as pd
import pytest

from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.experiments.trust import disclosure
from tff_fedsynth.experiments.trust import inference


def test_nearest_correlation_ignores_brightness_and_contrast():
  real = np.array([[0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
  synthetic = 5 - 3 * real[:1]
  assert inference.nearest_correlation(3 * real[:1] + 5, real) == pytest.approx(
    1
  )
  # Centred they are (-1, 3, -1, -1) / 4 and (1, 1, -1, -1) / 2, with product 1/2
  # and lengths sqrt(3) / 2 and 1. Negated: -1 to the first, this to the second.
  expected = -1 / np.sqrt(3)
  found = inference.nearest_correlation(synthetic, real)
  assert found == pytest.approx(expected)
  assert inference.nearest_correlation(np.ones([1, 4]), real) == 0


def test_labels_are_guessed_as_many_as_there_are():
  scores = np.array([0.1, 0.9, 0.5, 0.2])
  assert inference.guessed_labels(scores, np.array([1, 2, 1])) == 1.0
  assert inference.guessed_labels(scores, np.array([1, 0])) == 0.5
  # Training raised the bias of label 2 alone: before minus after is negative.
  update = [np.zeros([4, 3]), np.array([0.1, 0.2, -0.3])]
  scores = inference.label_scores_of_update(update, 3)
  assert inference.guessed_labels(scores, np.array([2])) == 1.0
  with pytest.raises(ValueError, match='no bias of 4 classes'):
    inference.label_scores_of_update(update, 4)


def test_membership_by_hand():
  members, others = np.array([1.0, 3.0]), np.array([2.0, 3.0])
  # Pairs: 1<2, 1<3, 3>2, 3=3.
  assert inference.membership_auc(members, others) == pytest.approx(2.5 / 4)
  logits = np.array([[0.0, 0.0], [1000.0, 0.0]])
  np.testing.assert_allclose(
    inference.cross_entropy(logits, np.array([0, 1])), [np.log(2), 1000.0]
  )


def test_others_have_the_labels_of_members():
  pool = np.array([0, 1, 1, 2])
  chosen = inference.matched(
    np.array([1, 1, 2, 7]), pool, np.random.RandomState(0)
  )
  np.testing.assert_array_equal(pool[chosen], [1, 1, 2])


def _base(output_dir, **fields):
  return Settings(
    output_dir=str(output_dir),
    total_rounds=1,
    **{'clients_per_round': 2, 'compression_ratio': 2000.0, **fields},
  )


def test_a_run_is_measured(tmp_path):
  base = _base(
    tmp_path, clients_per_round=3, options={'synthesis_iterations': 5}
  )
  frame = disclosure.measure(base, (0,), 2)
  assert len(frame) == 4 and (tmp_path / 'nearest.png').exists()
  # Two labels a client, of which the bias tells.
  assert (frame.labels_by_chance == 0.2).all()
  plain = frame[frame.upload == 'update']
  assert (plain.labels_from_bias == 1.0).all()
  assert frame.membership_auc.between(0, 1).all()
  text = (tmp_path / 'table.md').read_text()
  assert len([ln for ln in text.splitlines() if ln.startswith('|')]) == 8
  assert (frame.commit == provenance.of_process()['commit']).all()
  _, *flags = shlex.split(frame.command[0])
  values = absl_flags.FlagValues()
  disclosure.define_flags(values)
  values(['program', *flags])
  assert {'--seeds=0', '--probe_clients=2', '--total_rounds=1'} <= set(flags)
  # Other training is another measurement.
  other = dataclasses.replace(base, local_epochs=2)
  with pytest.raises(SettingsError, match="local_epochs: '5' there, '2' now"):
    disclosure.measure(other, (1,), 2)
  assert len(pd.read_csv(tmp_path / 'cells.csv')) == 4


@pytest.mark.parametrize(
  'clients, fields, message',
  [
    (1, {}, 'at least 2'),
    (3, {}, 'at most --clients_per_round=2, found 3'),
    (2, dict(server_optimizer='adam'), 'Leave both at that'),
    (2, dict(method='drive'), 'with synthetic data'),
    (
      2,
      dict(method='fedsynth_drive', options={'residual_fraction': '0.5'}),
      'Leave them out',
    ),
  ],
)
def test_refusals(clients, fields, message, tmp_path):
  with pytest.raises(SettingsError, match=message):
    disclosure.measure(_base(tmp_path / 'new', **fields), (0,), clients)
  assert not (tmp_path / 'new').exists()
