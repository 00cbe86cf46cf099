"""Calls a Keras model with tensors in place of its weights, and leaves it as it was.

For the time of one call, the attributes of the model's layers that hold variables
hold tensors. So nothing is copied, weights may be shared, and the model needs no
configuration. What is random draws from a seed that is given with the call.
"""

from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import threading
import types

import tensorflow as tf

from tff_fedsynth import seeds

# Lists that Keras keeps beside the attributes which layers compute with.
_BOOKKEEPING = ('_trainable_weights', '_non_trainable_weights')
# Where Keras collects terms of the loss that layers add when they are called.
_LOSSES = ('_callable_losses', '_losses')

_LOCK = threading.RLock()
# That of no function at all, in which AutoGraph converts.
_AUTOGRAPH_CONTEXT = tf.__internal__.autograph.control_status_ctx()


class _Draws:
  """Stands where Keras' random generators are: other numbers for each draw."""

  RNG_STATEFUL = 'stateful'
  _rng_type = 'stateless'

  def __init__(self, seed: tf.Tensor):
    self._seed = seed
    self._draws = 0

  def _maybe_init(self):
    """Keras calls this; there is nothing to do."""

  def make_seed_for_stateless_op(self):
    self._draws += 1
    return tf.random.experimental.stateless_fold_in(self._seed, self._draws)

  def make_legacy_seed(self):
    raise NotImplementedError('It draws by an op that keeps a state.')

  def random_normal(self, shape, mean=0.0, stddev=1.0, dtype=None, nonce=None):
    del nonce
    return tf.random.stateless_normal(
      shape,
      self.make_seed_for_stateless_op(),
      mean,
      stddev,
      dtype or tf.float32,
    )

  def random_uniform(
    self, shape, minval=0.0, maxval=None, dtype=None, nonce=None
  ):
    del nonce
    return tf.random.stateless_uniform(
      shape,
      self.make_seed_for_stateless_op(),
      minval,
      1.0 if maxval is None else maxval,
      dtype or tf.float32,
    )

  def truncated_normal(
    self, shape, mean=0.0, stddev=1.0, dtype=None, nonce=None
  ):
    del nonce
    return tf.random.stateless_truncated_normal(
      shape,
      self.make_seed_for_stateless_op(),
      mean,
      stddev,
      dtype or tf.float32,
    )

  def dropout(self, inputs, rate, noise_shape=None):
    return tf.nn.experimental.stateless_dropout(
      inputs, rate, self.make_seed_for_stateless_op(), noise_shape=noise_shape
    )


def _substitute(value, tensors):
  """A value with tensors in place of variables, or `None` if it has none."""
  if isinstance(value, tf.Variable):
    return tensors.get(id(value))
  if isinstance(value, dict):
    items = {k: _substitute(v, tensors) for k, v in value.items()}
    if all(v is None for v in items.values()):
      return None
    return {k: value[k] if v is None else v for k, v in items.items()}
  if isinstance(value, (list, tuple)):
    items = [_substitute(v, tensors) for v in value]
    if all(v is None for v in items):
      return None
    return [v if i is None else i for v, i in zip(value, items)]
  return None


def _as_float64(part) -> dict[str, object]:
  """What makes a layer compute in float64."""
  if not isinstance(part, tf.keras.layers.Layer):
    return {}
  return dict(
    _dtype_policy=tf.keras.mixed_precision.Policy('float64'),
    _compute_dtype_object=tf.float64,
    _conform_to_reference_input=lambda tensor, ref_input: tensor,
  )


def _undo_v1(types) -> None:
  """Makes classes of layers again what they were when the layers were made.

  Whoever makes a layer in a graph of TFF's, as TFF itself does, turns its class,
  for all its instances, into one for graphs of TF 1, until a new one is made here.
  """
  with tf.__internal__.eager_context.eager_mode():
    for layer_type in types:
      layer_type.__new__(layer_type)


def _own_functions(part) -> dict[str, object]:
  """Methods and attributes that are a `tf.function`, as plain ones by name.

  A `tf.function` keeps the tensors that stood in place of variables when it was
  traced first.
  """
  found = {}
  for cls in reversed(type(part).__mro__):
    if cls.__module__.partition('.')[0] not in ('keras', 'tensorflow'):
      found |= {
        name: types.MethodType(value.python_function, part)
        for name, value in vars(cls).items()
        if hasattr(value, 'python_function')
      }
  return found | {
    name: value.python_function
    for name, value in vars(part).items()
    if hasattr(value, 'python_function')
  }


class KerasFunction:
  """A Keras model, or some layers of it, as a function of its weights.

  Attributes:
    model: The model.
    variables: The variables that tensors take the place of, in their order.
  """

  def __init__(
    self,
    model: tf.keras.Model,
    call: Callable[..., tf.Tensor] | None = None,
    weights: Sequence[tf.Variable] | None = None,
  ):
    """Wraps a built model.

    Args:
      model: The model.
      call: (inputs, training) -> outputs, by layers of the model; the model
        itself if `None`.
      weights: The variables to replace, trainable ones alone; those of the
        model if `None`.
    """
    self.model = model
    self._call = call or model
    self.variables = list(
      model.trainable_weights if weights is None else weights
    )
    # Not `submodules`, which stumbles over what recurrent layers cache.
    self._parts = [
      part
      for module in model._flatten_modules()
      for part in (
        [module]
        if isinstance(module, tf.keras.layers.Layer)
        else [module, *module.submodules]
      )
    ]

    self._layer_types = {
      type(p) for p in self._parts if isinstance(p, tf.keras.layers.Layer)
    }

  @property
  def is_random(self) -> bool:
    """Whether a part of the model draws random numbers in training."""
    return any('_random_generator' in vars(part) for part in self._parts)

  @contextlib.contextmanager
  def _replaced(self, weights, draws, float64):
    tensors = {
      id(v): tf.convert_to_tensor(t)
      for v, t in zip(self.variables, weights, strict=True)
    }
    with _LOCK:
      _undo_v1(self._layer_types)
      before = [dict(vars(part)) for part in self._parts]
      try:
        for part, attributes in zip(self._parts, before):
          new = {
            name: tensor
            for name, value in attributes.items()
            if name not in _BOOKKEEPING
            and (tensor := _substitute(value, tensors)) is not None
          }
          new.update(_own_functions(part))
          if '_random_generator' in attributes:
            new['_random_generator'] = draws
          if '_could_use_gpu_kernel' in attributes:
            # What Keras chooses a kernel with cannot be differentiated twice.
            new['_could_use_gpu_kernel'] = False
          if hasattr(part, '_create_non_trackable_mask_cache'):
            # Masks of recurrent dropout, kept by graph.
            part._create_non_trackable_mask_cache()
          if float64:
            new.update(_as_float64(part))
          for name in _LOSSES:
            if name in attributes:
              new[name] = list(attributes[name])
          vars(part).update(new)
        yield
      finally:
        for part, attributes in zip(self._parts, before):
          vars(part).clear()
          vars(part).update(attributes)
        self.model._clear_losses()

  def __call__(
    self,
    weights: Sequence[tf.Tensor],
    inputs: tf.Tensor,
    training: bool,
    seed: tf.Tensor | None = None,
    float64: bool = False,
  ) -> tf.Tensor:
    """The outputs.

    Args:
      weights: Tensors like the trainable weights.
      inputs: Of the model.
      training: As in Keras.
      seed: int32 [2], of what is random in training. The weights and inputs
        are folded into it, so that every step draws anew.
      float64: Whether all computations are in float64; weights and inputs are.
    """
    inputs = tf.convert_to_tensor(inputs)
    draws = None
    if self.is_random:  # Some layers draw outside of training, too, in vain.
      if seed is None:
        seed = tf.constant([0, 0], tf.int32)
      draws = _Draws(seeds.fold_in_data(seed, [*weights, inputs]))
    call = self._call
    if not tf.executing_eagerly():
      # Layers may have branches, also where TFF has switched AutoGraph off.
      call = tf.__internal__.autograph.tf_convert(call, _AUTOGRAPH_CONTEXT)
    with self._replaced(weights, draws, float64):
      return call(inputs, training=training)

  def added_losses(self, weights, inputs) -> list[str]:
    """Names of layers that add terms to the loss: regularizers and the like."""
    layers = [p for p in self._parts if isinstance(p, tf.keras.layers.Layer)]
    with self._replaced(weights, _Draws(tf.constant([0, 0])), False):
      self._call(inputs, training=True)
      return [
        layer.name
        for layer in layers
        if layer._losses or layer._callable_losses or layer._eager_losses
      ]
