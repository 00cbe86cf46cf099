"""From strings to rows of tokens, as TFF's baseline tasks prepare them.

Both functions make int64 [rows, length + 1]; a row without its last token is an
input, without its first one a label. Token 0 is padding.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses

import numpy as np

# tff.simulation.baselines.shakespeare: 86 characters.
CHARACTERS = (
  'dhlptx@DHLPTX'
  ' $(,048cgkoswCGKOSW[_#\'/37;?bfjnrvzBFJNRVZ"&*.26:\naeimquyAEIMQUY]!%)-159\r'
)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """Tokens and the four special ones: padding 0, then known tokens from 1.

  Attributes:
    tokens: The known tokens, each one once.
  """

  tokens: tuple[str, ...]

  def __post_init__(self):
    ids = {token: i for i, token in enumerate(self.tokens, start=1)}
    object.__setattr__(self, '_ids', ids)

  @property
  def out_of_vocabulary(self) -> int:
    """What stands for any other token."""
    return len(self.tokens) + 1

  @property
  def beginning(self) -> int:
    """What a text begins with."""
    return len(self.tokens) + 2

  @property
  def end(self) -> int:
    """What a text ends with."""
    return len(self.tokens) + 3

  @property
  def size(self) -> int:
    """The number of tokens, the special ones included."""
    return len(self.tokens) + 4

  @property
  def names(self) -> list[str]:
    """A word for each token, to show it."""
    return ['<pad>', *self.tokens, '<oov>', '<bos>', '<eos>']

  def look_up(self, tokens: Iterable[str]) -> list[int]:
    """The numbers of tokens."""
    return [self._ids.get(t, self.out_of_vocabulary) for t in tokens]


def bytes_of(text: str) -> str:
  """The bytes of a text in UTF-8, a character each."""
  # Latin-1 names each byte, one that is no character included.
  return text.encode().decode('latin-1')


def character_rows(
  texts: Iterable[str], vocabulary: Vocabulary, length: int
) -> np.ndarray:
  """Each text between its special tokens, cut into rows, the last one padded.

  As tff.simulation.baselines.shakespeare, which also looks at single bytes.
  """
  rows = [np.zeros([0, length + 1], np.int64)]
  for text in texts:
    known = vocabulary.look_up(bytes_of(text))
    ids = [vocabulary.beginning, *known, vocabulary.end]
    ids += [0] * (-len(ids) % (length + 1))
    rows.append(np.reshape(ids, [-1, length + 1]))
  return np.concatenate(rows)


def word_rows(
  texts: Iterable[str], vocabulary: Vocabulary, length: int
) -> np.ndarray:
  """One row a text: its first words, padded, or cut before its end token.

  As tff.simulation.baselines.stackoverflow with one token for unknown words.
  """
  rows = []
  for text in texts:
    ids = vocabulary.look_up(text.split(' ')[:length] if text else [])
    if len(ids) < length:
      ids.append(vocabulary.end)
    ids = [vocabulary.beginning, *ids]
    rows.append(ids + [0] * (length + 1 - len(ids)))
  return np.reshape(rows, [-1, length + 1]).astype(np.int64)


def to_columns(rows: np.ndarray) -> dict[str, np.ndarray]:
  """Inputs and labels: the next token."""
  return dict(x=rows[:, :-1], y=rows[:, 1:])


def split_in_time(items: Sequence, test_share: float = 0.2):
  """The first and the last part of what one client wrote."""
  first = max(1, round(len(items) * (1 - test_share)))
  return items[:first], items[first:]
