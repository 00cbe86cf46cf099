import numpy as np
import pytest
import tensorflow as tf

from tff_fedsynth.client import objectives

A = (tf.constant([3.0, 0.0]), tf.constant([[4.0]]))
B = (tf.constant([0.0, 5.0]), tf.constant([[5.0]]))


def test_values():
  get = objectives.get_objective
  assert float(get('data_loss').value(A, None, lambda u: u[1][0, 0])) == 4.0
  np.testing.assert_allclose(
    get('update_cosine').value(A, B, None), 1 - 20 / (5 * np.sqrt(50))
  )
  np.testing.assert_allclose(get('update_l2').value(A, B, None), 35 / 50)


def test_own_objective_passes_through():
  class Mine(objectives.UpdateL2):
    pass

  mine = Mine()
  assert objectives.get_objective(mine) is mine


def test_refusals():
  with pytest.raises(ValueError, match="Unknown objective 'l3'.*update_l2"):
    objectives.get_objective('l3')
  with pytest.raises(TypeError, match='must be a name or an instance'):
    objectives.get_objective(lambda update: 0.0)
