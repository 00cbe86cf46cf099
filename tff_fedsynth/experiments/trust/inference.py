"""How much a synthetic payload, and a plain update, tell about a client's data.

Pure NumPy: three attacks by a server that sees one client's upload.
"""

import numpy as np


def unit_rows(images: np.ndarray) -> np.ndarray:
  """Images as centred rows of length 1, so that products are correlations.

  Args:
    images: float [n, ...]; a constant one becomes zeros.
  """
  rows = np.reshape(images, [len(images), -1]).astype(np.float64)
  rows -= rows.mean(axis=1, keepdims=True)
  norms = np.linalg.norm(rows, axis=1, keepdims=True)
  return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def nearest_correlation(synthetic: np.ndarray, real: np.ndarray) -> float:
  """Mean over synthetic images of the correlation with the nearest real one.

  Correlation, as synthetic images have a brightness and contrast of their own.
  """
  products = unit_rows(synthetic) @ unit_rows(real).T
  return float(products.max(axis=1).mean())


def guessed_labels(scores: np.ndarray, labels: np.ndarray) -> float:
  """Share of a client's labels among as many that have the highest scores.

  Args:
    scores: float [classes], high for labels that the client seems to have.
    labels: int [n], the client's.
  """
  own = set(np.unique(labels))
  top = np.argsort(-scores, kind='stable')[: len(own)]
  return len(own & set(top)) / len(own)


def label_scores_of_update(update, num_classes: int) -> np.ndarray:
  """How strongly a local model leans to each label, from its last bias.

  The gradient in a bias of a softmax is negative just for labels that occur
  (Zhao et al. 2020, arXiv 2001.02610), so that training raises them.

  Args:
    update: Weight tensors, before minus after.
    num_classes: Size of the last bias.

  Raises:
    ValueError: If the last tensor is no such bias.
  """
  bias = np.asarray(update[-1])
  if bias.shape != (num_classes,):
    raise ValueError(f'The last weight is no bias of {num_classes} classes.')
  return -bias


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Loss of each example, float [n]."""
  shifted = logits - logits.max(axis=1, keepdims=True)
  log_sums = np.log(np.exp(shifted).sum(axis=1))
  return log_sums - shifted[np.arange(len(labels)), labels]


def membership_auc(members: np.ndarray, others: np.ndarray) -> float:
  """Chance that a random member's loss is below a random other's, ties half.

  .5 tells nothing, 1 everything (Yeom et al. 2018, arXiv 1709.01604).

  Args:
    members: Losses of examples that were trained on.
    others: Losses of examples that were not.
  """
  difference = others[None, :] - members[:, None]
  return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def matched(labels: np.ndarray, pool: np.ndarray, random) -> np.ndarray:
  """Positions in a pool of labels, one for each of `labels` and of the same.

  Labels that the pool does not hold are left out. Drawn with replacement.

  Args:
    labels: int [n].
    pool: int [m].
    random: A `np.random.RandomState`.
  """
  chosen = [
    random.choice(np.flatnonzero(pool == label))
    for label in labels
    if (pool == label).any()
  ]
  return np.array(chosen, int)
