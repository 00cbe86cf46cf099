"""The error of a split budget, and the best of them."""

import conftest
import numpy as np
import pytest

from baselines.drive import Drive
from baselines.random_mask import RandomMask
from tff_fedsynth.fitting import split as split_lib
from tff_fedsynth.payload import sketch as sketch_lib

MODEL = conftest.make_classifier()
SHAPES = [tuple(w.shape) for w in MODEL.initial_weights[0]]
Sketch = sketch_lib.Sketch


def test_errors_by_hand():
  # The model has 53 floats: a mask of 16 has the error 53 / 16 - 1.
  error = split_lib.relative_error
  mask = RandomMask(16)
  assert error(0.0, Sketch(mask), SHAPES) == 37 / 16
  assert error(0.75, Sketch(mask), SHAPES) == 37 / 64
  assert error(0.75, Sketch(mask), SHAPES, averaged=37) == 1 / 64
  assert error(0.75, Sketch(mask, 0.5), SHAPES) == (1 + 37 / 16) / 16
  assert error(0.75, None, SHAPES) == 0.25
  # Clients and rounds that average the noise to 1: half of the residual.
  assert split_lib.best_scale(mask, SHAPES, 37 / 16) == 0.5
  # 53 coordinates fill a grid of 53 x 1: pi * 53 / 2 / 40 - 1.
  expected = 0.5 * (np.pi * 53 / 80 - 1)
  assert error(0.5, Sketch(Drive(40)), SHAPES) == pytest.approx(expected)


def test_an_error_without_a_bound_is_refused():
  # With two signs of many, the scale divides by what may be next to nothing.
  assert Drive(2).relative_error(SHAPES) == np.inf
  with pytest.raises(sketch_lib.ResidualError, match='error has no bound'):
    split_lib.best_scale(Drive(2), SHAPES, 5)


def test_the_split_of_least_error_is_best():
  split = split_lib.Split
  alone = split(1.0, 0.0, 20.0)
  splits = [split(0.2, 0.9, 15.0), split(0.6, 0.8, 9.0), alone]
  assert split_lib.best_split(splits).fraction == 0.6
  # Never worse than the sketch alone.
  assert split_lib.best_split([split(0.2, 0.1, 30.0), alone]) is alone
  assert split_lib.best_split([split(0.5, 0.5, 20.0), alone]) is alone
