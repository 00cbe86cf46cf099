"""The weights of a functional model: their shapes, number, bytes and type."""

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff


def model_shapes(
  model: tff.learning.models.FunctionalModel,
) -> list[tuple[int, ...]]:
  """The shapes of the trainable weights of a model."""
  return [np.shape(w) for w in model.initial_weights[0]]


def model_parameters(model: tff.learning.models.FunctionalModel) -> int:
  """The number of trainable floats of a model."""
  return int(sum(np.size(w) for w in model.initial_weights[0]))


def model_bytes(model: tff.learning.models.FunctionalModel) -> int:
  """The size of the trainable weights in float32, in bytes."""
  return 4 * model_parameters(model)


def model_weights_type(
  model: tff.learning.models.FunctionalModel,
) -> tff.types.StructWithPythonType:
  """The `tff.Type` of the model's weights, in a `ModelWeights` container."""
  specs = tff.learning.models.ModelWeights(
    *(
      tuple(tf.TensorSpec(w.shape, w.dtype) for w in weights)
      for weights in model.initial_weights
    )
  )
  return tff.types.tensorflow_to_type(specs)
