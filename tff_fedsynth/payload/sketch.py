"""A sketch of what synthetic data missed, to be added after the replay.

Synthetic data are precise, but what they miss is alike in every round. A sketch
by an unbiased codec is noisy, but its error averages out. So a client replays
what it will upload, and sketches the residual, the real update t minus the
replayed u. The server adds c times the sketch, 0 < c <= 1. With c = 1 the whole
is unbiased: E[u + sketch(t - u)] = t. `fitting.split` chooses c.
"""

import dataclasses
import math

import tensorflow as tf

from tff_fedsynth import errors
from tff_fedsynth import options
from tff_fedsynth.compression import codec as codec_lib
from tff_fedsynth.updates import Update


class ResidualError(errors.OptionError):
  """A codec that cannot sketch a residual; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Sketch:
  """How a residual is sketched.

  Attributes:
    codec: An unbiased codec.
    scale: What the server multiplies its message with, above 0 and at most 1;
      below 1, there is less noise, and a bias.
    alone: The codec of a client for which a sketch of its whole update misses
      less: it sends that, and no synthetic data. `None` leaves no choice.

  Raises:
    ResidualError: If the scale is out of its range.
  """

  codec: codec_lib.Codec
  scale: float = options.limited(1.0, above=0, maximum=1)
  alone: codec_lib.Codec | None = None

  def __post_init__(self):
    options.check(self, ResidualError)


def check_unbiased(codec: codec_lib.Codec, shapes: codec_lib.Shapes) -> None:
  """Raises `ResidualError` for a codec whose errors would not average out.

  Args:
    codec: Of the residual.
    shapes: Of the update's tensors.

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


def is_better_alone(sketch: Sketch, shapes: codec_lib.Shapes, *, missed, whole):
  """Whether `sketch.alone` misses less than the codec beside synthetic data.

  With the relative errors v of the codec and w of the other, the errors are
  v |t - u|^2 and w |t|^2, both unbiased. The scale c is left out: c < 1 lessens
  noise at the price of a bias, which c^2 v |t - u|^2 would not count.

  Args:
    sketch: With a codec `alone`.
    shapes: Of the update's tensors.
    missed: |t - u|^2, a number or float32 [].
    whole: |t|^2, the same.

  Returns:
    A bool, or bool [].

  Raises:
    CodecError, ResidualError: See `check_unbiased`, of both codecs.
  """
  for codec in (sketch.codec, sketch.alone):
    check_unbiased(codec, shapes)
  beside = sketch.codec.relative_error(shapes) * missed
  return sketch.alone.relative_error(shapes) * whole < beside


def drawn_seed(seed: tf.Tensor) -> tf.Tensor:
  """The int32 [] seed of a codec, out of one of a client and round, int32 [2]."""
  return tf.random.stateless_uniform(
    [], seed, minval=None, maxval=None, dtype=tf.int32
  )


def encode(sketch: Sketch, target: Update, update: Update, seed: tf.Tensor):
  """The message of the sketch's codec for `target - update`.

  Args:
    sketch: How.
    target: The real update.
    update: What the server will replay, scale included.
    seed: int32 [2], of the client and round.
  """
  residual = [t - u for t, u in zip(target, update)]
  return sketch.codec.encode(residual, drawn_seed(seed))


def add(sketch: Sketch, update: Update, message) -> Update:
  """The replayed update, and what a message of the sketch adds to it."""
  shapes = [tuple(u.shape) for u in update]
  decoded = sketch.codec.decode(message, shapes)
  return tuple(u + sketch.scale * r for u, r in zip(update, decoded))
