"""Ways to split labeled examples over clients: lists of rows, by name."""

import numpy as np

from tff_fedsynth import options
from tff_fedsynth.tasks.federated.task import TaskError


def iid(labels, num_clients, random, alpha=None) -> list[np.ndarray]:
  """Equal parts of a random order."""
  del alpha
  return np.array_split(random.permutation(len(labels)), num_clients)


def shards(labels, num_clients, random, alpha=None) -> list[np.ndarray]:
  """Two of the 2 * num_clients shards of the examples sorted by label each.

  McMahan et al. 2017, section 3: most clients have two labels.
  """
  del alpha
  if 2 * num_clients > len(labels):
    raise TaskError(
      f'{len(labels)} examples cannot make two shards for each of {num_clients} '
      f'clients. Set num_clients to at most {len(labels) // 2}.',
      'num_clients',
    )
  order = random.permutation(len(labels))
  by_label = order[np.argsort(labels[order], kind='stable')]
  pieces = np.array_split(by_label, 2 * num_clients)
  dealt = random.permutation(2 * num_clients)
  return [
    np.concatenate([pieces[a], pieces[b]])
    for a, b in dealt.reshape(num_clients, 2)
  ]


def dirichlet(labels, num_clients, random, alpha=None) -> list[np.ndarray]:
  """Equal sizes, label shares drawn from a Dirichlet distribution a client.

  Hsu et al. 2019 (arXiv 1909.06335), section 3, without replacement: a label
  that has run out is drawn no more. A small alpha gives few labels a client.
  """
  classes = np.unique(labels)
  left = {
    c: list(random.permutation(np.flatnonzero(labels == c))) for c in classes
  }
  sizes = [len(p) for p in np.array_split(labels, num_clients)]
  prior = np.array([len(left[c]) for c in classes]) / len(labels)
  parts = []
  for size in sizes:
    shares = random.dirichlet(alpha * len(classes) * prior)
    rows = []
    for _ in range(size):
      available = np.array([bool(left[c]) for c in classes])
      # The tiny floor decides once all that a client prefers has run out.
      odds = np.where(available, shares + 1e-12, 0.0)
      drawn = random.choice(classes, p=odds / odds.sum())
      rows.append(left[drawn].pop())
    parts.append(np.array(rows))
  return parts


# NumPy's Dirichlet distribution gives NaN now and then below that.
ALPHA_LIMITS = {'minimum': 0.01, 'maximum': 1_000_000}

PARTITIONS = {'dirichlet': dirichlet, 'iid': iid, 'shards': shards}


def split(
  labels: np.ndarray,
  num_clients: int,
  partition: str,
  *,
  seed: int,
  alpha: float | None = None,
) -> list[np.ndarray]:
  """Rows of each client; every row belongs to exactly one.

  Args:
    labels: int [examples].
    num_clients: Number of parts.
    partition: A name in `PARTITIONS`.
    seed: Of the split.
    alpha: Concentration, for `dirichlet` alone.

  Raises:
    OptionError: If alpha is out of its range.
    TaskError: If there is no such partition, or too few examples for it, or
      alpha is missing.
  """
  split_labels = options.pick(PARTITIONS, partition, 'partition', TaskError)
  if not 1 <= num_clients <= len(labels):
    raise TaskError(
      f'num_clients must be between 1 and {len(labels)}, the number of '
      f'training examples, found {num_clients}.',
      'num_clients',
    )
  if partition == 'dirichlet':
    if alpha is None:
      raise TaskError(
        'partition=dirichlet needs a dirichlet_alpha, for example 0.3.',
        'partition',
        'dirichlet_alpha',
      )
    options.check_number('dirichlet_alpha', alpha, **ALPHA_LIMITS)
  random = np.random.RandomState(seed)
  return split_labels(labels, num_clients, random, alpha)
