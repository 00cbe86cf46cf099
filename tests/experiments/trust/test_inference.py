"""What uploads give away, by hand."""

import numpy as np
import pytest

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
