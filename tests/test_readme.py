"""The README's code runs, and its tables are true."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()


def test_the_snippet_runs():
  (snippet,) = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
  names = {}
  exec(compile(snippet, 'README.md', 'exec'), names)
  measured = names['communication'].measure(names['process'])
  assert measured.uplink_bytes == 1229
  assert names['output'].metrics['finalizer']['rejected_clients'] == 0


def test_pictures_exist():
  for path in re.findall(r'!\[.*?\]\((.*?)\)', README):
    assert (ROOT / path).exists(), path
