"""A sketch of what synthetic data missed, which makes the whole unbiased.

Synthetic data are precise, but what they miss is alike in every round. A sketch
by an unbiased codec is noisy, but its error averages out. So a client replays
what it will upload, and adds a sketch of the residual, the real update t minus
the replayed u: E[u + sketch(t - u)] = t.

How to split a budget of B bytes. Let an unbiased codec with b bytes have the
relative error v(b) = E|sketch(r) - r|^2 / |r|^2, say pi n / 16 b - 1 for DRIVE
with 8 b of n bits. The replayed update has the best scale, so that t - u is
orthogonal to u, and |t - u|^2 = (1 - cos(u, t)^2) |t|^2. With s bytes of
synthetic data the noise of the whole is therefore

  E|u + sketch(t - u) - t|^2 / |t|^2 = (1 - cos(s)^2) v(B - s)

which `best_split` makes smallest over measured cosines. At s = 0 the cosine is 0
and the sketch is alone: the whole is never noisier than that.
"""

from collections.abc import Iterable
from typing import NamedTuple

import tensorflow as tf

from tff_fedsynth import codec as codec_lib
from tff_fedsynth import replay as replay_lib
from tff_fedsynth import synthetic_data
from tff_fedsynth.objectives import Update


class ResidualError(ValueError):
  """A codec that cannot sketch a residual; the message says what to change."""


class Split(NamedTuple):
  """One way to split a budget, as measured.

  Attributes:
    fraction: Share of the budget that goes to the sketch, 0 to 1.
    squared_cosine: Mean over clients of cos(replayed, real update)^2.
    noise: Expected |sent - t|^2 / |t|^2, dimensionless.
  """

  fraction: float
  squared_cosine: float
  noise: float


def check_unbiased(codec: codec_lib.Codec, shapes: codec_lib.Shapes) -> None:
  """Raises `ResidualError` for a codec whose errors would not average out."""
  if codec.relative_error(shapes) is None:
    raise ResidualError(
      f'{codec} cannot sketch a residual: it is biased, or its error is not '
      'known beforehand. Choose an unbiased random mask, or DRIVE with its '
      'unbiased scale.'
    )


def noise(
  squared_cosine: float, codec: codec_lib.Codec, shapes: codec_lib.Shapes
) -> float:
  """Expected |sent - t|^2 / |t|^2 with a sketch of the residual; see above."""
  return (1 - squared_cosine) * codec.relative_error(shapes)


def best_split(splits: Iterable[Split]) -> Split:
  """The split of least noise; the largest sketch where they are equal."""
  return min(splits, key=lambda s: (s.noise, -s.fraction))


def encode(
  codec: codec_lib.Codec, target: Update, update: Update, seed: tf.Tensor
):
  """The sketch of `target - update`, a message of `codec`.

  Args:
    codec: An unbiased codec.
    target: The real update.
    update: What the server will replay, scale included.
    seed: int32 [2], of the client and round.
  """
  drawn = tf.random.stateless_uniform(
    [], seed, minval=None, maxval=None, dtype=tf.int32
  )
  return codec.encode([t - u for t, u in zip(target, update)], drawn)


def decode_update(
  model, weights, spec: synthetic_data.SyntheticSpec, codec, payload
) -> Update:
  """The update that a payload stands for; client and server call this.

  Args:
    model: A `tff.learning.models.FunctionalModel`.
    weights: `(trainable, non_trainable)` tuples of tensors, as broadcast.
    spec: The `synthetic_data.SyntheticSpec` of the payload.
    codec: That of the residual, or `None`.
    payload: As `synthetic_data.payload_specs` has it; with a codec, its message
      as `residual`.
  """
  data = synthetic_data.decode(spec, payload, model, weights)
  update = replay_lib.replay(model, weights, data, spec.loss_fn)
  if codec is None:
    return update
  shapes = [tuple(w.shape) for w in weights[0]]
  sketch = codec.decode(payload['residual'], shapes)
  return tuple(u + s for u, s in zip(update, sketch))
