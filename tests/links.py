"""Links of the Markdown files of this project, and of what else names addresses.

  make links

asks each external address once; the tests look at the others, without a network.
"""

from collections.abc import Iterator
import pathlib
import re
import sys
import urllib.error
import urllib.request

from rooms import ROOT

PAGES = sorted(
  path
  for pattern in ('*.md', 'docs/*.md', 'examples/**/*.md', 'results/**/*.md')
  for path in ROOT.glob(pattern)
)
_OTHERS = ('CITATION.cff', 'mkdocs.yml', 'docs/notebooks/*.ipynb')
_SECONDS = 20
# Some places answer nobody who does not say what they are.
_HEADERS = {'User-Agent': 'Mozilla/5.0 (tff_fedsynth, make links)'}
_CODE = re.compile(r'^( *)```.*?^\1```|`[^`\n]*`', re.M | re.S)
_LINK = re.compile(r'\[[^\]]*\](?:\(|: )<?([^)>\s]+)')
_ADDRESS = re.compile(r'https?://[^\s<>"\'`)\]}\\]+')
_HEADING = re.compile(r'^#+ +(.*)$', re.M)
_API_NAME = re.compile(r'^::: (\S+)$', re.M)


def targets(page: pathlib.Path) -> list[str]:
  """Where the links of a page lead; what stands in code is no link."""
  return _LINK.findall(_CODE.sub('', page.read_text()))


def is_external(target: str) -> bool:
  """Whether a link leads out of the project."""
  return target.startswith(('http:', 'https:', 'mailto:'))


def _slug(heading: str) -> str:
  text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading).lower()
  return re.sub(r'\s', '-', re.sub(r'[^\w\s-]', '', text).strip())


def anchors(page: pathlib.Path) -> set[str]:
  """The anchors of a page: of its headings, and of the API."""
  text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.M | re.S)
  return {*map(_slug, _HEADING.findall(text)), *_API_NAME.findall(text)}


def broken(page: pathlib.Path) -> Iterator[str]:
  """Links of a page that lead to no file of ours, or to no place in it."""
  for target in targets(page):
    if is_external(target):
      continue
    name, _, anchor = target.partition('#')
    path = page.parent / name if name else page
    if not path.exists():
      yield target
    elif anchor and (path.suffix != '.md' or anchor not in anchors(path)):
      yield target


def addresses() -> dict[str, pathlib.Path]:
  """Each external address that is written somewhere, with a place it stands at."""
  others = [path for pattern in _OTHERS for path in ROOT.glob(pattern)]
  found = {}
  for path in (*PAGES, *others):
    for address in _ADDRESS.findall(path.read_text()):
      found.setdefault(address.rstrip('.,;:'), path.relative_to(ROOT))
  return found


def failure(address: str) -> str | None:
  """What is wrong with an address, or nothing."""
  request = urllib.request.Request(address, headers=_HEADERS)
  try:
    with urllib.request.urlopen(request, timeout=_SECONDS):
      return None
  except (OSError, ValueError) as e:  # Errors of urllib are among them.
    return f'{type(e).__name__}: {e}'


def main() -> int:
  """Asks all addresses; 1 if one does not answer."""
  failures = 0
  for address, path in sorted(addresses().items()):
    error = failure(address)
    failures += error is not None
    print(f'{"FAILED" if error else "ok":6}  {address}')
    if error:
      print(f'        in {path}: {error}')
  print(f'{failures} addresses failed.')
  return 1 if failures else 0


if __name__ == '__main__':
  sys.exit(main())
