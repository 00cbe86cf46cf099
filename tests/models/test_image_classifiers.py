import numpy as np
import pytest

from tff_fedsynth import from_keras
from tff_fedsynth.models import architectures
from tff_fedsynth.models import weights as weights_lib

SHAPE = (28, 28, 1)


@pytest.mark.parametrize(
  'name, parameters',
  [
    ('mlp', 159_010),
    ('wide_mlp', 1_590_010),
    ('cnn', 101_682),
    ('fedavg_cnn', 1_663_370),
    ('cnn_dropout', 1_199_882),
  ],
)
def test_parameter_counts(name, parameters):
  model = architectures.MODELS[name](SHAPE, 10)
  assert model.count_params() == parameters
  assert model.output_shape == (None, 10)
  assert weights_lib.model_parameters(from_keras(model)) == parameters


def test_the_cnns_of_emnist_are_as_large_as_in_the_literature():
  # Reddi et al. 2020 count 1,206,590 weights for 62 classes.
  assert architectures.cnn_dropout(SHAPE, 62).count_params() == 1_206_590
  assert architectures.fedavg_cnn(SHAPE, 62).count_params() == 1_690_046


@pytest.mark.parametrize(
  'shape, without',
  [
    ((6, 6, 3), set()),
    ((5, 8, 1), {'cnn_dropout'}),
    ((3, 3, 1), {'cnn', 'fedavg_cnn', 'cnn_dropout'}),
    ((40,), {'cnn', 'fedavg_cnn', 'cnn_dropout'}),
  ],
)
def test_models_are_those_that_fit_the_inputs(shape, without):
  models = architectures.models(shape, 4)
  assert set(models) == set(architectures.MODELS) - without
  for make in models.values():
    assert make(0)(np.ones((2, *shape), np.float32)).shape == (2, 4)


def test_initial_weights_depend_on_the_seed_alone():
  a, b, c = (
    architectures.mlp(SHAPE, 10, seed).get_weights() for seed in (1, 1, 2)
  )
  for x, y in zip(a, b, strict=True):
    np.testing.assert_array_equal(x, y)
  assert np.abs(a[0] - c[0]).max() > 0
  # Glorot uniform: the limit is sqrt(6 / (in + out)).
  limit = np.sqrt(6 / (784 + 200))
  assert 0.99 * limit < np.abs(a[0]).max() <= limit
  assert np.abs(a[1]).max() == 0
