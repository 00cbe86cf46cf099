"""Synthetic sequences as text: which tokens a position stands for."""

from collections.abc import Sequence

import numpy as np

_SHOWN = 3


def _top(weights: np.ndarray, names: Sequence[str]) -> str:
  order = np.argsort(-weights)[:_SHOWN]
  return '  '.join(f'{names[i]!r} {weights[i]:.2f}' for i in order)


def _similarities(vectors: np.ndarray, table: np.ndarray) -> np.ndarray:
  """Cosines of embedded vectors with every token."""
  unit = lambda v: (
    v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12)
  )
  return unit(vectors) @ unit(table).T


def synthetic_text(
  data, table: np.ndarray, names: Sequence[str], cosine: float
) -> str:
  """What each position of synthetic sequences is nearest to.

  Args:
    data: A `synthetic_data.SyntheticData` of text.
    table: The embedding table, [tokens, size].
    names: What to show for each token.
    cosine: Between the replayed and the real update.
  """
  inputs = np.asarray(data.inputs)
  what = 'share of a token'
  if inputs.shape[-1] != len(names):
    inputs, what = _similarities(inputs, table), 'cosine with its embedding'
  labels = np.asarray(data.labels)
  # Signed labels are a gradient in the logits: what is below zero is to grow.
  signed = labels.min() < 0
  lines = [
    'One upload, as the server decodes it. Cosine to the real update: '
    f'{cosine:.2f}.',
    f'Left: the {_SHOWN} nearest tokens of an input ({what}). Right: the '
    f'{_SHOWN} strongest of its label'
    + (', minus the gradient in their logits.' if signed else '.'),
  ]
  for step, (batch_x, batch_y) in enumerate(zip(inputs, labels)):
    for example, (x, y) in enumerate(zip(batch_x, batch_y)):
      lines.append(f'\nstep {step}, sequence {example}')
      for position in range(len(x)):
        left = _top(x[position], names)
        right = _top(-y[position] if signed else y[position], names)
        lines.append(f'{position:3}  {left:45} ->  {right}')
  return '\n'.join(lines) + '\n'
