"""Images can be learned small: both sides enlarge them, by bilinear interpolation."""

import tensorflow as tf

# An image has no more channels, which tells them from rows.
_MAX_CHANNELS = 4


def _has_channels_first(shape: tuple[int, ...]) -> bool:
  return shape[0] <= _MAX_CHANNELS < min(shape[1:])


def image_size(shape: tuple[int, ...]) -> tuple[int, int] | None:
  """Height and width of inputs that are images; `None` for others.

  Images are (height, width, channels) or (channels, height, width).
  """
  if len(shape) != 3:
    return None
  return tuple(shape[1:]) if _has_channels_first(shape) else tuple(shape[:2])


def with_side(shape: tuple[int, ...], side: int) -> tuple[int, ...]:
  """The shape of an image, made a square of another size."""
  if _has_channels_first(shape):
    return (shape[0], side, side)
  return (side, side, shape[-1])


def enlarge(images: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
  """Images [steps, batch_size, ...] of any size, enlarged to a shape each."""
  lead = images.shape[:2]
  images = tf.reshape(images, [-1, *images.shape[2:]])
  channels_first = _has_channels_first(shape)
  if channels_first:
    images = tf.transpose(images, [0, 2, 3, 1])
  images = tf.image.resize(images, image_size(shape), method='bilinear')
  if channels_first:
    images = tf.transpose(images, [0, 3, 1, 2])
  return tf.reshape(images, [*lead, *shape])
