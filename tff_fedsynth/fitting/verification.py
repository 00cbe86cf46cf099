"""Refuses models whose replay TensorFlow differentiates wrongly, at build time."""

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import budget
from tff_fedsynth.errors import UnsupportedModelError
from tff_fedsynth.models.checks import differentiability
from tff_fedsynth.models.functional import language_model
from tff_fedsynth.payload import forms
from tff_fedsynth.payload.spec import SyntheticSpec

_EXAMPLES = 2
_SHORT = 3


def _check(model, input_form, label_form, sizes) -> list[bool]:
  loss_of_forms = forms.loss_of(input_form, label_form)

  def loss(view, weights, inputs, labels):
    return loss_of_forms(
      view,
      weights,
      forms.INPUTS[input_form].decode(inputs, view, weights),
      forms.LABELS[label_form].decode(labels, view, weights),
    )

  def draw(random):
    return [random.normal(size=(_EXAMPLES, *size)) for size in sizes]

  try:
    return differentiability.check_model(
      model, (input_form, label_form), loss, draw
    )
  except differentiability.WrongGradientError:
    raise
  except Exception as e:
    raise UnsupportedModelError(
      'The model cannot be replayed on a batch of two examples: '
      f'{type(e).__name__}: {e}'
    ) from e


def check_replay(
  model: tff.learning.models.FunctionalModel, spec: SyntheticSpec
) -> None:
  """Compares the gradient of a replay with a finite difference, on a tiny batch.

  Once for each model and form of synthetic data. In float64 where the model can
  compute so, to a relative 1e-2. Else in float32: labels to .1; and of the inputs,
  where activations have kinks, whether there is a gradient at all.

  Raises:
    UnsupportedModelError: If the gradient is missing or wrong, the replay is
      random, or labels that are learned as targets have no effect.
  """
  sizes = [spec.input_shape, spec.label_shape]
  if isinstance(model, language_model.LanguageModel):
    sizes = [(min(size[0], _SHORT), *size[1:]) for size in sizes]
  try:
    if spec.label_form == 'targets':
      # Where this is right, the loss alone can be wrong.
      outputs = budget.output_shape(model)
      _check(model, spec.input_form, 'signed', [sizes[0], outputs])
  except differentiability.WrongGradientError as e:
    raise UnsupportedModelError(
      f'The model cannot be replayed: {e}. Replace that part of it.'
    ) from e
  try:
    zero = _check(model, spec.input_form, spec.label_form, sizes)
  except differentiability.WrongGradientError as e:
    what = (
      'The loss of the model' if spec.label_form == 'targets' else 'The model'
    )
    raise UnsupportedModelError(
      f'{what} cannot be replayed: {e}. Write it out in elementary operations, '
      'or replace it.'
    ) from e
  if zero[1] and spec.label_form == 'targets':
    raise UnsupportedModelError(
      'The gradient of the loss does not change with small changes of the labels, '
      "so that none can be learned. Build the spec with label_form='signed', or "
      'choose a smooth loss.'
    )


def has_independent_examples(
  model: tff.learning.models.FunctionalModel, spec: SyntheticSpec
) -> bool:
  """Whether the output of a synthetic example is the same in any batch.

  Tried on one example, beside two different others. Batch normalization on the
  statistics of the batch is what makes it `False`.
  """
  random = np.random.RandomState(0)
  one, *others = (
    random.normal(size=spec.input_shape).astype(np.float32) for _ in range(3)
  )
  form = forms.INPUTS[spec.input_form]

  # Keras models inside a FunctionalModel work in graphs only.
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    weights = tf.nest.map_structure(tf.constant, model.initial_weights)

    @tf.function
    def first_output(batch):
      inputs = form.decode(batch, model, weights)
      return form.predict(model, weights, inputs)[0]

    outputs = session.run(
      [first_output(tf.constant(np.stack([one, other]))) for other in others]
    )
  return np.allclose(*outputs, rtol=1e-4, atol=1e-6)
