"""Checks the texts of this project: lines, spelling, links, files they name.

make lint   # All that needs no network.
make links  # Asks each external address whether it is there.
"""

from collections.abc import Iterator
import pathlib
import re
import sys
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [
  path
  for pattern in ('*.md', 'docs/*.md', 'examples/*.md', 'results/**/*.md')
  for path in sorted(ROOT.glob(pattern))
]
_OTHERS = ('CITATION.cff', 'mkdocs.yml', 'docs/notebooks/*.ipynb')
_SOURCES = ('tff_fedsynth/**/*.py', 'baselines/*.py')
_LONGEST_LINE = 100
# This project writes American English.
_BRITISH = re.compile(
  r'\w*(?:(?:anonym|final|general|initial|maxim|minim|normal|organ|optim|random'
  r'|recogn|regular|summar|synthes)is(?:e|ing|ation)|analyse|behaviour|centre\b'
  r'|colour|favour|labell|licence|modell|neighbour)\w*'
)
_BLOCK = re.compile(r'^( *)```.*?^\1```', re.M | re.S)
_CODE = re.compile(r'`[^`\n]*`')
_LINK = re.compile(r'\[[^\]]*\](?:\(|: )<?([^)>\s]+)')
_ADDRESS = re.compile(r'https?://[^\s<>"\'`)\]}\\]+')
_HEADING = re.compile(r'^#+ +(.*)$', re.M)
_API_NAME = re.compile(r'^::: (\S+)$', re.M)
_FILE = re.compile(r'`((?:tff_fedsynth|baselines|examples)/[\w/.]+)`')
_SECONDS = 20
# Some places answer nobody who does not say what they are.
_HEADERS = {'User-Agent': 'Mozilla/5.0 (tff_fedsynth, make links)'}


def _slug(heading: str) -> str:
  text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading).lower()
  return re.sub(r'\s', '-', re.sub(r'[^\w\s-]', '', text).strip())


def _anchors(page: pathlib.Path) -> set[str]:
  """Returns the anchors of a page: of its headings, and of the API."""
  text = _BLOCK.sub('', page.read_text(encoding='utf-8'))
  return {*map(_slug, _HEADING.findall(text)), *_API_NAME.findall(text)}


def _broken_links(page: pathlib.Path, text: str) -> Iterator[str]:
  """Yields links that lead to no file of ours, or to no heading in it."""
  for target in _LINK.findall(_CODE.sub('', _BLOCK.sub('', text))):
    if target.startswith(('http:', 'https:', 'mailto:')):
      continue
    name, _, anchor = target.partition('#')
    path = page.parent / name if name else page
    if not path.exists():
      yield target
    elif anchor and (path.suffix != '.md' or anchor not in _anchors(path)):
      yield target


def _problems(page: pathlib.Path) -> Iterator[str]:
  """Yields what is wrong with a page, but for its spelling."""
  text = page.read_text(encoding='utf-8')
  for number, line in enumerate(text.splitlines(), 1):
    # A row of a table cannot be broken.
    if len(line) > _LONGEST_LINE and not line.startswith('|'):
      yield f'line {number} has more than {_LONGEST_LINE} characters'
  for target in _broken_links(page, text):
    yield f'no such link: {target}'
  if page.name != 'CHANGELOG.md':  # It names what was.
    for name in _FILE.findall(text):
      if not (ROOT / name).exists():
        yield f'no such file: {name}'


def _lint() -> Iterator[str]:
  """Yields what is wrong with pages and docstrings."""
  for page in PAGES:
    for problem in _problems(page):
      yield f'{page.relative_to(ROOT)}: {problem}'
  sources = [path for pattern in _SOURCES for path in ROOT.glob(pattern)]
  for path in (*PAGES, *sources):
    for word in _BRITISH.findall(path.read_text(encoding='utf-8')):
      yield f'{path.relative_to(ROOT)}: British spelling: {word}'


def _unanswered() -> Iterator[str]:
  """Yields external addresses that do not answer, with a place each."""
  others = [path for pattern in _OTHERS for path in ROOT.glob(pattern)]
  places = {
    address.rstrip('.,;:'): path.relative_to(ROOT)
    for path in (*PAGES, *others)
    for address in _ADDRESS.findall(path.read_text(encoding='utf-8'))
  }
  for address, place in sorted(places.items()):
    request = urllib.request.Request(address, headers=_HEADERS)
    try:
      with urllib.request.urlopen(request, timeout=_SECONDS):
        print(f'ok  {address}')
    except (OSError, ValueError) as e:  # Errors of urllib are among them.
      yield f'{place}: {address}: {type(e).__name__}: {e}'


def main() -> int:
  """Prints what is wrong; 1 if something is."""
  found = list(_unanswered() if '--links' in sys.argv else _lint())
  print(*found, sep='\n', end='\n' if found else '')
  return bool(found)


if __name__ == '__main__':
  sys.exit(main())
