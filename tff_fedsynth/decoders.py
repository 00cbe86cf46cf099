"""Fixed linear maps from the images that are sent to those that are trained on.

Both sides know them, so they cost no bytes. An own one is a function of values
float [n, r, r, channels] and a shape (height, width), put into `DECODERS`; it
must be linear, and TensorFlow must be able to differentiate it.
"""

from collections.abc import Callable
import functools

import numpy as np
import tensorflow as tf


def _cosines(size: int, kept: int) -> np.ndarray:
  """The first rows of the DCT-II, float32 [kept, size], of mean square one."""
  k, i = np.arange(kept)[:, np.newaxis], np.arange(size)
  rows = np.cos(np.pi * k * (2 * i + 1) / (2 * size))
  rows[1:] *= np.sqrt(2)
  return rows.astype(np.float32)


def cosine(values: tf.Tensor, shape: tuple[int, int]) -> tf.Tensor:
  """Values as coefficients of the lowest frequencies of a cosine transform."""
  rows, columns = (_cosines(size, values.shape[1]) for size in shape)
  return tf.einsum('nklc,ki,lj->nijc', values / values.shape[1], rows, columns)


def _resize(method: str):
  return functools.partial(tf.image.resize, method=method)


DECODERS: dict[str, Callable[[tf.Tensor, tuple[int, int]], tf.Tensor]] = {
  'bilinear': _resize('bilinear'),
  'bicubic': _resize('bicubic'),
  'nearest': _resize('nearest'),
  'cosine': cosine,
}
