"""A sketch of what synthetic data missed, to be added after the replay.

Synthetic data are precise, but what they miss is alike in every round. A sketch
by an unbiased codec is noisy, but its error averages out. So a client replays
what it will upload, and sketches the residual, the real update t minus the
replayed u. The server adds c times the sketch, 0 < c <= 1. With c = 1 the whole
is unbiased: E[u + sketch(t - u)] = t.

How to split a budget of B bytes, and to choose c. Let an unbiased codec with b
bytes have the relative error v(b) = E|sketch(r) - r|^2 / |r|^2, say
pi n / 16 b - 1 for DRIVE with 8 b of n bits. The replayed update has the best
scale, so that t - u is orthogonal to u, and |t - u|^2 = (1 - cos(u, t)^2) |t|^2.
Say that the residuals of `averaged` clients and rounds are alike, and their
sketches independent. With s bytes of synthetic data the mean then misses

  (1 - cos(s)^2) ((1 - c)^2 + c^2 w)      with w = v(B - s) / averaged

of |t|^2. The best c is 1 / (1 + w), which leaves (1 - cos(s)^2) w / (1 + w), and
`best_split` makes that smallest over measured cosines. At s = 0 the sketch is
alone, at s = B there is none: the best split is never worse than either.
"""

from collections.abc import Iterable
import dataclasses
import math
from typing import NamedTuple

import tensorflow as tf

from tff_fedsynth import codec as codec_lib
from tff_fedsynth import options
from tff_fedsynth import replay as replay_lib
from tff_fedsynth import synthetic_data
from tff_fedsynth.objectives import Update

# Rounds whose residuals count as alike. More than there are: most of the noise
# points where the loss is flat. With 50, synthetic data alone were chosen at
# 1/10000 on an MLP, and reached .44 where the sketch reaches .62.
HORIZON = 500


class ResidualError(options.OptionError):
  """A codec that cannot sketch a residual; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Sketch:
  """How a residual is sketched.

  Attributes:
    codec: An unbiased codec.
    scale: What the server multiplies its message with, above 0 and at most 1;
      below 1, there is less noise, and a bias.

  Raises:
    ResidualError: If the scale is out of its range.
  """

  codec: codec_lib.Codec
  scale: float = 1.0

  def __post_init__(self):
    if not 0 < self.scale <= 1:
      raise ResidualError(
        f'The scale of a sketch must be above 0 and at most 1, found {self.scale}.'
      )


class Split(NamedTuple):
  """One way to split a budget, as measured.

  Attributes:
    fraction: Share of the budget that goes to the sketch, 0 to 1.
    squared_cosine: Mean over clients of cos(replayed, real update)^2.
    error: `relative_error` of it.
  """

  fraction: float
  squared_cosine: float
  error: float


def check_unbiased(sketch: Sketch, shapes: codec_lib.Shapes) -> None:
  """Raises `ResidualError` for a codec whose errors would not average out.

  Args:
    sketch: Of the residual.
    shapes: Of the update's tensors.

  Raises:
    CodecError: If the codec does not fit them.
    ResidualError: If it is biased, or its error is infinite or not known.
  """
  error = sketch.codec.relative_error(shapes)
  if error is not None and math.isinf(error):
    raise ResidualError(
      f'{sketch.codec} cannot sketch a residual: with so little sent, its error '
      'has no bound. Raise the budget.'
    )
  if error is None:
    raise ResidualError(
      f'{sketch.codec} cannot sketch a residual: it is biased, or its error is '
      'not known beforehand. Choose an unbiased random mask, or DRIVE with its '
      'unbiased scale.'
    )


def best_scale(
  codec: codec_lib.Codec, shapes: codec_lib.Shapes, averaged: int
) -> float:
  """The scale of a sketch that leaves the least error; see above.

  Raises:
    CodecError, ResidualError: See `check_unbiased`.
  """
  check_unbiased(Sketch(codec), shapes)
  return 1 / (1 + codec.relative_error(shapes) / averaged)


def relative_error(
  squared_cosine: float,
  sketch: Sketch | None,
  shapes: codec_lib.Shapes,
  averaged: int = 1,
) -> float:
  """Expected |mean of what was sent - t|^2 / |t|^2; see above.

  Args:
    squared_cosine: Of the replayed and the real update.
    sketch: Of the residual; `None` if there is none.
    shapes: Of the update's tensors.
    averaged: Clients, of all rounds, whose updates are averaged.

  Raises:
    CodecError, ResidualError: See `check_unbiased`.
  """
  if sketch is None:
    return 1 - squared_cosine
  check_unbiased(sketch, shapes)
  noise = sketch.codec.relative_error(shapes) / averaged
  return (1 - squared_cosine) * (
    (1 - sketch.scale) ** 2 + sketch.scale**2 * noise
  )


def best_split(splits: Iterable[Split]) -> Split:
  """The split of least error; the largest sketch where they are equal."""
  return min(splits, key=lambda s: (s.error, -s.fraction))


def encode(sketch: Sketch, target: Update, update: Update, seed: tf.Tensor):
  """The message of the sketch's codec for `target - update`.

  Args:
    sketch: How.
    target: The real update.
    update: What the server will replay, scale included.
    seed: int32 [2], of the client and round.
  """
  drawn = tf.random.stateless_uniform(
    [], seed, minval=None, maxval=None, dtype=tf.int32
  )
  return sketch.codec.encode([t - u for t, u in zip(target, update)], drawn)


def decode_update(
  model,
  weights,
  spec: synthetic_data.SyntheticSpec,
  sketch: Sketch | None,
  payload,
) -> Update:
  """The update that a payload stands for; client and server call this.

  Args:
    model: A `tff.learning.models.FunctionalModel`.
    weights: `(trainable, non_trainable)` tuples of tensors, as broadcast.
    spec: The `synthetic_data.SyntheticSpec` of the payload.
    sketch: That of the residual, or `None`.
    payload: As `synthetic_data.payload_specs` has it; with a sketch, its message
      as `residual`.
  """
  data = synthetic_data.decode(spec, payload, model, weights)
  update = replay_lib.replay(model, weights, data, spec.loss_fn)
  if sketch is None:
    return update
  shapes = [tuple(w.shape) for w in weights[0]]
  decoded = sketch.codec.decode(payload['residual'], shapes)
  return tuple(u + sketch.scale * r for u, r in zip(update, decoded))
