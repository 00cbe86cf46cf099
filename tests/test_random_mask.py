import conftest
import numpy as np
import pytest
import tensorflow_federated as tff

from baselines import random_mask
from baselines.random_mask import RandomMaskFactory

VALUE_TYPE = tff.to_type(
  (tff.TensorType(np.float32, [3, 4]), tff.TensorType(np.float32, [8]))
)
SIZE = 20


def _value(seed):
  random = np.random.RandomState(seed)
  return (
    random.normal(size=(3, 4)).astype(np.float32),
    random.normal(size=8).astype(np.float32),
  )


def _flat(value):
  return np.concatenate([np.ravel(v) for v in value])


def _run(factory, values, rounds=1):
  process = factory.create(VALUE_TYPE)
  state = process.initialize()
  results = []
  for _ in range(rounds):
    output = process.next(state, values)
    state = output.state
    results.append(_flat(output.result))
  return np.array(results)


@pytest.mark.parametrize('unbiased', [True, False])
def test_kept_values_are_exact_and_the_rest_is_zero(unbiased):
  value = _value(0)
  (result,) = _run(RandomMaskFactory(5, unbiased=unbiased), [value])
  kept = np.flatnonzero(result)
  assert len(kept) == 5
  factor = SIZE / 5 if unbiased else 1
  np.testing.assert_allclose(result[kept], factor * _flat(value)[kept])


def test_all_values_kept_is_a_plain_sum():
  values = [_value(0), _value(1)]
  (result,) = _run(RandomMaskFactory(SIZE), values)
  np.testing.assert_allclose(
    result, _flat(values[0]) + _flat(values[1]), rtol=1e-6
  )


def test_masks_differ_between_clients_and_rounds_and_repeat_with_the_seed():
  values = [_value(0), _value(1)]
  factory = RandomMaskFactory(3, unbiased=False)
  (both,) = _run(factory, values)
  # Two masks of 3 in 20 that coincide have a chance of 1 in 1,140.
  assert len(np.flatnonzero(both)) > 3
  first, second = _run(factory, values[:1], rounds=2)
  assert (np.flatnonzero(first) != np.flatnonzero(second)).any()
  again = _run(RandomMaskFactory(3, unbiased=False), values)
  np.testing.assert_array_equal([both], again)
  (other,) = _run(RandomMaskFactory(3, unbiased=False, seed=1), values)
  assert (both != other).any()


@pytest.mark.parametrize('unbiased', [True, False])
def test_mean_over_masks(unbiased):
  # A coordinate of the unbiased mask is v / p with chance p = 1/4, else 0: its
  # variance is v^2 (1/p - 1) = 3 v^2, so the mean of n = 400 rounds has a
  # standard deviation of |v| sqrt(3 / 400) = 0.087 |v|. 5 of them leave a chance
  # of failure of 6e-7 a coordinate. Without 1/p, the mean is p v.
  value = _value(3)
  results = _run(RandomMaskFactory(5, unbiased=unbiased), [value], rounds=400)
  expected = _flat(value) * (1 if unbiased else 0.25)
  bound = 5 * np.abs(expected) * np.sqrt(3 / 400)
  assert (np.abs(results.mean(axis=0) - expected) <= bound).all()
  # The masks are uniform: hits of a coordinate are binomial(400, 1/4), with
  # standard deviation 8.7.
  hits = (results != 0).sum(axis=0)
  assert (np.abs(hits - 100) <= 5 * 8.7).all()


def test_type_signature():
  process = RandomMaskFactory(5).create(VALUE_TYPE)
  signature = process.next.type_signature
  assert signature.parameter[1] == tff.FederatedType(VALUE_TYPE, tff.CLIENTS)
  assert signature.result.result == tff.FederatedType(VALUE_TYPE, tff.SERVER)
  assert not process.is_weighted


def test_trains_inside_tff_fed_avg():
  model = conftest.make_classifier()
  process = tff.learning.algorithms.build_weighted_fed_avg(
    model,
    tff.learning.optimizers.build_sgdm(0.1),
    model_aggregator=tff.aggregators.MeanFactory(RandomMaskFactory(10)),
  )
  state = process.initialize()
  output = process.next(state, [conftest.make_dataset(model)])
  changed = [
    np.count_nonzero(a != b)
    for a, b in zip(
      state.global_model_weights.trainable,
      output.state.global_model_weights.trainable,
      strict=True,
    )
  ]
  assert 0 < sum(changed) <= 10


def test_refusals():
  with pytest.raises(ValueError, match='kept_values must be at least 1'):
    RandomMaskFactory(0)
  with pytest.raises(ValueError, match='only 20 coordinates'):
    RandomMaskFactory(21).create(VALUE_TYPE)
  with pytest.raises(TypeError, match='for float32 values'):
    RandomMaskFactory(1).create(tff.TensorType(np.int32, [3]))


def test_budget():
  assert random_mask.kept_values_for_budget(12, 100) == 1
  assert random_mask.kept_values_for_budget(51, 100) == 10
  assert random_mask.kept_values_for_budget(10_000, 100) == 100
  with pytest.raises(
    random_mask.BudgetTooSmallError, match='at least 12 bytes'
  ):
    random_mask.kept_values_for_budget(11, 100)
