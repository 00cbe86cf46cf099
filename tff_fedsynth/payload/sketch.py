"""A sketch of the residual, to be added after the replay.

Synthetic data are precise, but their error is alike in every round. A sketch by
an unbiased codec is noisy, but its error averages out. So a client replays what
it will upload, and sketches the residual, the local update t minus the replayed
u. The server adds c times the sketch, 0 < c <= 1. With c = 1 the whole is
unbiased: E[u + sketch(t - u)] = t.

How to split a budget between the two. Let an unbiased codec with b bytes have the
relative error v(b) = E|sketch(r) - r|^2 / |r|^2, say pi n / 16 b - 1 for DRIVE
with 8 b of n bits. The replayed update has the best scale, so that t - u is
orthogonal to u, and |t - u|^2 = (1 - cos(u, t)^2) |t|^2.
Say that the residuals of `averaged` clients and rounds are alike, and their
sketches independent. With s bytes of synthetic data the mean then has the error

  (1 - cos(s)^2) ((1 - c)^2 + c^2 w)      with w = v(B - s) / averaged

times |t|^2. The best c is 1 / (1 + w), which leaves (1 - cos(s)^2) w / (1 + w),
and `best_split` makes that smallest over measured cosines. At s = 0 the sketch is
alone, at s = B there is none: the best split is never worse than either. Where
each client may send a sketch alone, it is the error of what `is_better_alone` has
it send.
"""

from collections.abc import Iterable
import dataclasses
import math
from typing import NamedTuple

from tff_fedsynth import errors
from tff_fedsynth import options
from tff_fedsynth.compression import codec as codec_lib

# Rounds whose residuals count as alike. More than there are: most of the noise
# points where the loss is flat. With 50, synthetic data alone were chosen at
# 1/10000 on an MLP, and reached .44 where the sketch reaches .62.
HORIZON = 500


class ResidualError(errors.OptionError):
  """A codec that cannot sketch a residual; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Sketch:
  """How a residual is sketched.

  Attributes:
    codec: An unbiased codec.
    scale: Factor c of the decoded sketch, above 0 and at most 1; below 1, there
      is less noise, and a bias.
    alone: Codec of a client for which a sketch of its whole update has less
      error: it sends that, and no synthetic data. `None` leaves no choice.

  Raises:
    ResidualError: If the scale is out of its range.
  """

  codec: codec_lib.Codec
  scale: float = options.limited(1.0, above=0, maximum=1)
  alone: codec_lib.Codec | None = None

  def __post_init__(self):
    options.check(self, ResidualError)


class Split(NamedTuple):
  """One way to split a budget, as measured.

  Attributes:
    fraction: Share of the budget that goes to the sketch, 0 to 1.
    squared_cosine: Mean over clients of cos(replayed, local update)^2.
    error: `relative_error` of it.
  """

  fraction: float
  squared_cosine: float
  error: float


def check_unbiased(codec: codec_lib.Codec, shapes: codec_lib.Shapes) -> None:
  """Raises `ResidualError` for a codec whose errors would not average out.

  Args:
    codec: The codec of the residual.
    shapes: Shapes of the update's tensors.

  Raises:
    CodecError: If the codec does not fit them.
    ResidualError: If it is biased, or its error is infinite or not known.
  """
  error = codec.relative_error(shapes)
  if error is not None and math.isinf(error):
    raise ResidualError(
      f'{codec} cannot sketch a residual: with so little sent, its error '
      'has no bound. Raise the budget.'
    )
  if error is None:
    raise ResidualError(
      f'{codec} cannot sketch a residual: it is biased, or its error is '
      'not known beforehand. Choose an unbiased random mask, or DRIVE with its '
      'unbiased scale.'
    )


def is_better_alone(
  sketch: Sketch, shapes: codec_lib.Shapes, *, residual, whole
):
  """Returns whether `sketch.alone` has less error than data and a sketch.

  With the relative errors v of the codec and w of the other, the errors are
  v |t - u|^2 and w |t|^2, both unbiased. The scale c is left out: c < 1 lessens
  noise at the price of a bias, which c^2 v |t - u|^2 would not count.

  Args:
    sketch: A sketch with a codec `alone`.
    shapes: Shapes of the update's tensors.
    residual: |t - u|^2, a number or float32 [].
    whole: |t|^2, the same.

  Returns:
    A bool, or bool [].

  Raises:
    CodecError, ResidualError: See `check_unbiased`, of both codecs.
  """
  for codec in (sketch.codec, sketch.alone):
    check_unbiased(codec, shapes)
  beside = sketch.codec.relative_error(shapes) * residual
  return sketch.alone.relative_error(shapes) * whole < beside


def best_scale(
  codec: codec_lib.Codec, shapes: codec_lib.Shapes, averaged: int
) -> float:
  """Returns the scale c of a sketch that leaves the least error; see above.

  Raises:
    CodecError, ResidualError: See `check_unbiased`.
  """
  check_unbiased(codec, shapes)
  return 1 / (1 + codec.relative_error(shapes) / averaged)


def relative_error(
  squared_cosine: float,
  sketch: Sketch | None,
  shapes: codec_lib.Shapes,
  averaged: int = 1,
) -> float:
  """Computes the expected |mean of what was sent - t|^2 / |t|^2; see above.

  Args:
    squared_cosine: Squared cosine of the replayed and the local update.
    sketch: Sketch of the residual; `None` if there is none.
    shapes: Shapes of the update's tensors.
    averaged: Number of clients, of all rounds, whose updates are averaged.

  Raises:
    CodecError, ResidualError: See `check_unbiased`.
  """
  residual = 1 - squared_cosine
  if sketch is None:
    return residual
  check_unbiased(sketch.codec, shapes)
  if sketch.alone is not None and is_better_alone(
    sketch, shapes, residual=residual, whole=1
  ):
    return relative_error(0.0, Sketch(sketch.alone), shapes, averaged)
  noise = sketch.codec.relative_error(shapes) / averaged
  return residual * ((1 - sketch.scale) ** 2 + sketch.scale**2 * noise)


def best_split(splits: Iterable[Split]) -> Split:
  """Returns the split of least error; the largest sketch where they are equal."""
  return min(splits, key=lambda s: (s.error, -s.fraction))
