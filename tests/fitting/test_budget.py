import conftest
import pytest

from tff_fedsynth import BudgetTooSmallError
from tff_fedsynth import from_keras
from tff_fedsynth import Payload
from tff_fedsynth import spec_for_budget
from tff_fedsynth.models import architectures
from tff_fedsynth.models.weights import model_bytes

MLP = from_keras(architectures.mlp((28, 28, 1), 10))
MODEL_BYTES = 636_040


@pytest.mark.parametrize('ratio', [20, 100, 500, 2000, 10000])
def test_the_rule_never_exceeds_the_budget(ratio):
  budget = MODEL_BYTES // ratio
  spec = spec_for_budget(MLP, budget)
  used = Payload(spec).data_bytes + 4
  assert used <= budget
  if ratio == 20:
    # More cost client time: the rest of the budget is for a sketch.
    assert (spec.batch_size, spec.resolution) == (32, 28)
  else:
    assert used >= 0.8 * budget


def test_hand_computed_budgets():
  # An image of side 14 takes 98 + 5 + 8 bytes; 8 more are scale and weight.
  spec = spec_for_budget(MLP, 1272)
  assert (spec.steps, spec.batch_size, spec.bits) == (1, 11, 4)
  assert spec.resolution == 14
  # Four of side 11 (74 each); five of side 9 would need one of 10.
  spec = spec_for_budget(MLP, 318)
  assert (spec.batch_size, spec.resolution) == (4, 11)
  # Two of side 5 (13 + 5 + 8 each), as 5 is more than .17 of 28.
  spec = spec_for_budget(MLP, 63)
  assert (spec.batch_size, spec.resolution) == (2, 5)
  # Of side 4 two would fit: one of side 8 (32 + 5 + 8).
  spec = spec_for_budget(MLP, 56)
  assert (spec.batch_size, spec.resolution) == (1, 8)
  # Two of one pixel (14 each) do not fit: one of side 5 takes 13 + 5 + 8.
  spec = spec_for_budget(MLP, 35)
  assert (spec.batch_size, spec.resolution) == (1, 5)


def test_given_fields_are_kept():
  spec = spec_for_budget(MLP, 6360, steps=5, bits=8, resolution=10)
  assert (spec.steps, spec.bits, spec.resolution) == (5, 8, 10)
  assert spec.batch_size == (6360 - 4 - 4 - 5 * 4) // (5 * (100 + 10 + 8))
  assert spec_for_budget(MLP, 6360, batch_size=2).batch_size == 2
  assert spec_for_budget(MLP, 6360, batch_size=2).resolution == 28


def test_a_small_model_takes_less_than_its_budget():
  # As the page on budgets says: 32 examples of 1 + 2 + 8 bytes, and 8 more.
  model = conftest.make_classifier(inputs=2, hidden=200)
  for budget in (900, 4000):
    spec = spec_for_budget(model, budget)
    assert spec.batch_size == 32
    assert Payload(spec).data_bytes + 4 == 32 * 11 + 8


def test_vectors_have_no_resolution():
  model = conftest.make_classifier(inputs=60)
  spec = spec_for_budget(model, 200)
  assert spec.resolution is None
  # 30 + 2 + 8 bytes an example.
  assert spec.batch_size == (200 - 8) // 40


def test_too_small_a_budget_says_how_low_it_can_go():
  # One image of one pixel: 1 + 5 + 8, and 8.
  with pytest.raises(BudgetTooSmallError, match='take 22 bytes.*budget is 21'):
    spec_for_budget(MLP, 21)
  assert Payload(spec_for_budget(MLP, 22)).data_bytes == 18
  with pytest.raises(BudgetTooSmallError, match='take 810 bytes'):
    spec_for_budget(MLP, 800, bits=8, resolution=28, batch_size=1)


@pytest.mark.parametrize('budget', [1e12, float('inf')])
def test_no_budget_makes_a_payload_as_large_as_the_model(budget):
  model = conftest.make_classifier(inputs=60)
  most = model_bytes(model) - 1
  spec = spec_for_budget(model, budget, bits=32)
  # One more example of 252 bytes would be too much.
  assert most - 252 < Payload(spec).data_bytes <= most


@pytest.mark.parametrize('budget', [0, -1, 21.5, float('nan')])
def test_what_is_no_budget_is_too_small(budget):
  with pytest.raises(BudgetTooSmallError, match=f'the budget is {budget}'):
    spec_for_budget(MLP, budget)
