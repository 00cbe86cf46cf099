"""The synthetic data that fit a model, and fill a budget."""

import conftest
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import BudgetTooSmallError
from tff_fedsynth import build_spec
from tff_fedsynth import from_keras
from tff_fedsynth import spec_for_budget
from tff_fedsynth import SyntheticPayload
from tff_fedsynth import SyntheticSpecError
from tff_fedsynth.models import architectures
from tff_fedsynth.models.weights import model_bytes

MODEL_BYTES = 636_040


@pytest.fixture(scope='module')
def mlp():
  return from_keras(architectures.mlp((28, 28, 1), 10))


def test_a_spec_takes_shapes_from_the_model(mlp):
  spec = build_spec(mlp, steps=2, batch_size=3, bits=8, resolution=7)
  assert spec.input_shape == (28, 28, 1)
  assert spec.label_shape == (10,)
  assert spec.label_form == 'signed'
  # 49 + 10 bytes of values, two ranges of 4.
  assert SyntheticPayload(spec).data_bytes == 6 * (49 + 10 + 8) + 2 * 4 + 4


@pytest.mark.parametrize('ratio', [20, 100, 2000, 10000])
def test_the_rule_never_exceeds_the_budget(mlp, ratio):
  budget = MODEL_BYTES // ratio
  spec = spec_for_budget(mlp, budget)
  used = SyntheticPayload(spec).data_bytes + 4
  assert used <= budget
  if ratio == 20:
    # More cost client time: the rest of the budget is for a sketch.
    assert (spec.batch_size, spec.resolution) == (32, 28)
  else:
    assert used >= 0.8 * budget


@pytest.mark.parametrize(
  'budget, batch_size, resolution',
  [
    # An image of side 14 takes 98 + 5 + 8 bytes; 8 more are scale and weight.
    (1272, 11, 14),
    # Four of side 11 (74 each); five of side 9 would need one of 10.
    (318, 4, 11),
    # Two of side 5 (13 + 5 + 8 each), as 5 is more than .17 of 28.
    (63, 2, 5),
    # Of side 4 two would fit: one of side 8 (32 + 5 + 8).
    (56, 1, 8),
    # Two of one pixel (14 each) do not fit: one of side 5 takes 13 + 5 + 8.
    (35, 1, 5),
  ],
)
def test_hand_computed_budgets(mlp, budget, batch_size, resolution):
  spec = spec_for_budget(mlp, budget)
  assert (spec.steps, spec.bits) == (1, 4)
  assert (spec.batch_size, spec.resolution) == (batch_size, resolution)


def test_given_fields_are_kept(mlp):
  spec = spec_for_budget(mlp, 6360, steps=5, bits=8, resolution=10)
  assert (spec.steps, spec.bits, spec.resolution) == (5, 8, 10)
  assert spec.batch_size == (6360 - 4 - 4 - 5 * 4) // (5 * (100 + 10 + 8))
  spec = spec_for_budget(mlp, 6360, batch_size=2)
  assert (spec.batch_size, spec.resolution) == (2, 28)
  assert spec_for_budget(mlp, 6360, resolution=0).resolution is None


def test_vectors_have_no_resolution():
  spec = spec_for_budget(conftest.make_classifier(inputs=60), 200)
  assert spec.resolution is None
  # 30 + 2 + 8 bytes an example.
  assert spec.batch_size == (200 - 8) // 40


def test_a_budget_of_text_is_filled_with_short_sequences():
  model = from_keras(architectures.character_lstm(90, 128, 1))
  one = spec_for_budget(model, 655)
  # A position takes 49 bytes, ranges, scale and weight 16.
  assert one.batch_size == 1
  assert (one.input_shape, one.label_shape) == ((13, 8), (13, 90))
  assert (one.input_form, one.label_form) == ('token_queries', 'signed')
  many = spec_for_budget(model, 6_000)
  assert many.input_shape[0] <= 20 and many.batch_size > 5
  assert 0.95 * 6_000 < SyntheticPayload(many).data_bytes + 4 <= 6_000
  # More cost client time: the rest of the budget is for a sketch.
  for length in (None, 10):
    most = spec_for_budget(model, 40_000, length=length)
    assert (most.batch_size, most.input_shape) == (8, (length or 20, 8))
  assert spec_for_budget(model, 40_000, batch_size=25).batch_size == 25
  fixed = spec_for_budget(model, 3_000, length=10, batch_size=2)
  assert (fixed.batch_size, fixed.input_shape) == (2, (10, 8))
  with pytest.raises(BudgetTooSmallError, match='length'):
    spec_for_budget(model, 60)


def test_too_small_a_budget_says_how_low_it_can_go(mlp):
  # One image of one pixel: 1 + 5 + 8, and 8.
  with pytest.raises(BudgetTooSmallError, match='take 22 bytes.*budget is 21'):
    spec_for_budget(mlp, 21)
  assert SyntheticPayload(spec_for_budget(mlp, 22)).data_bytes == 18
  with pytest.raises(BudgetTooSmallError, match='take 810 bytes'):
    spec_for_budget(mlp, 800, bits=8, resolution=28, batch_size=1)
  for budget in (-1, 21.5, float('nan')):
    with pytest.raises(BudgetTooSmallError, match=f'the budget is {budget}'):
      spec_for_budget(mlp, budget)


def test_no_budget_makes_a_payload_as_large_as_the_model(mlp):
  model = conftest.make_classifier(inputs=60)
  most = model_bytes(model) - 1
  spec = spec_for_budget(model, float('inf'), bits=32)
  # One more example of 252 bytes would be too much.
  assert most - 252 < SyntheticPayload(spec).data_bytes <= most
  with pytest.raises(SyntheticSpecError, match='the model itself 636040'):
    build_spec(mlp, batch_size=300)


def test_integer_inputs_are_refused():
  model = tff.learning.models.FunctionalModel(
    initial_weights=((), ()),
    predict_on_batch_fn=tf.function(lambda weights, x, training: x),
    loss_fn=lambda output, label, sample_weight=None: 0.0,
    input_spec=(
      tf.TensorSpec([None, 3], tf.int64),
      tf.TensorSpec([None], tf.int32),
    ),
  )
  with pytest.raises(SyntheticSpecError, match='must take one float tensor'):
    build_spec(model)


def test_a_small_model_takes_less_than_its_budget():
  # As the page on budgets says: 32 examples of 1 + 2 + 8 bytes, and 8 more.
  model = conftest.make_classifier(inputs=2, hidden=200)
  for budget in (900, 4000):
    spec = spec_for_budget(model, budget)
    assert spec.batch_size == 32
    assert SyntheticPayload(spec).data_bytes + 4 == 32 * 11 + 8
