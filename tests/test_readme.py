"""The README's code runs, and its tables are true."""

import pathlib
import re

from tff_fedsynth.experiments.help import pages
from tff_fedsynth.fitting import budget

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()


def test_the_snippet_runs():
  (snippet,) = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
  names = {}
  exec(compile(snippet, 'README.md', 'exec'), names)
  measured = names['communication'].measure(names['process'])
  assert measured.uplink_bytes == 1229
  assert names['output'].metrics['finalizer']['rejected_clients'] == 0


def test_the_table_of_flags_is_what_make_help_writes():
  assert '| `--qsgd_bucket_size` | 512 |' in README
  assert pages.with_table(README) == README


def test_the_rule_is_the_one_in_the_code():
  readme = ' '.join(README.split())
  assert budget.BUDGET_RULE in readme
  assert budget.TEXT_BUDGET_RULE in readme


def test_pictures_exist():
  for path in re.findall(r'!\[.*?\]\((.*?)\)', README):
    assert (ROOT / path).exists(), path
