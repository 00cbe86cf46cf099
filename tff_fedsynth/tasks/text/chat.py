"""A chat, one client a user, out of a wheel: there without a network.

It stands in for Stack Overflow, with a smaller vocabulary.
"""

import collections
import functools
import json
import logging
import re

from tff_fedsynth.tasks.federated import task as task_lib
from tff_fedsynth.tasks.text import next_token

_LOGGER = logging.getLogger(__name__)
_MIN_UTTERANCES = 50
_VOCABULARY_SIZE = 1000


@functools.cache
def _chat() -> dict[str, list[str]]:
  """From a user to utterances in order, lower case, punctuation apart."""
  file = next_token.wheel_directory('chitchat_dataset') / 'dataset.json'
  users = collections.defaultdict(list)
  for conversation in json.loads(file.read_text(encoding='utf-8')).values():
    for turn in conversation['messages']:
      for message in turn:
        words = re.findall(r"[a-z0-9']+|[^\sa-z0-9']", message['text'].lower())
        if words:
          users[message['sender']].append(
            (message['timestamp'], ' '.join(words))
          )
  kept = {
    user: [said for _, said in sorted(messages, key=lambda m: m[0])]
    for user, messages in sorted(users.items())
    if len(messages) >= _MIN_UTTERANCES
  }
  _LOGGER.info(
    'chat_word: %d of %d users have at least %d utterances, the others are '
    'dropped.',
    len(kept),
    len(users),
    _MIN_UTTERANCES,
  )
  return kept


def build(*, seed: int, **fields) -> task_lib.Task:
  """A chat, one client a user; the split is always the same."""
  del seed
  o = next_token.WordOptions(**fields)
  train, test = next_token.split_clients(_chat())
  words = next_token.most_frequent(
    (line for said in train.values() for line in said),
    o.vocabulary_size or _VOCABULARY_SIZE,
  )
  train = next_token.client_data(train, next_token.WORDS)
  return next_token.build('chat_word', next_token.WORDS, words, train, test, o)
