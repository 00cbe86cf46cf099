"""A comparison as one HTML file, which fetches nothing from anywhere."""

import base64
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import html
import pathlib
import re

from tff_fedsynth.experiments.pictures.styles import style_of
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.reporting.tables import Table

_STYLE = """
body { color: #1a1a1a; background: #fff; margin: 0 auto; max-width: 1200px;
  padding: 0 16px 48px; font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6em; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin-top: 2em; border-bottom: 1px solid #ccc; }
p, li { max-width: 46em; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: 1em 0; }
table { border-collapse: collapse; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px; border-bottom: 1px solid #ddd; text-align: right;
  white-space: nowrap; }
th { border-bottom: 2px solid #888; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: #fff; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 5px;
  margin-right: 6px; }
figure { margin: 1.5em 0; }
figcaption { font-size: 14px; color: #444; }
img { display: block; max-width: max(100%, 620px); }
pre { overflow-x: auto; background: #f4f4f4; padding: 8px; font-size: 13px; }
pre.wrapped { white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; margin: .5em 0; }
"""
_BOLD = re.compile(r'\*\*(.+?)\*\*')


@dataclasses.dataclass(frozen=True)
class Upload:
  """What one client uploaded: its name, and the picture or text that shows it."""

  name: str
  path: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Page:
  """What the page shows.

  Attributes:
    title: Of the page.
    parts: Tables, the first one of accuracies, and sentences about them.
    pictures: PNG files of accuracy; those that are not there are left out.
    uploads: What clients uploaded.
    command: That made the comparison.
    commands: A line a run, that makes it alone.
    code: `provenance.COLUMNS` of what makes the page.
  """

  title: str
  parts: Sequence[str | Table]
  pictures: Sequence[pathlib.Path]
  uploads: Sequence[Upload]
  command: str
  commands: Sequence[str]
  code: Mapping[str, str]

  def html(self) -> str:
    """The whole file."""
    title = html.escape(self.title)
    return '\n'.join(
      [
        '<!DOCTYPE html>',
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<title>{title}</title><style>{_STYLE}</style></head><body>',
        f'<h1>{title}</h1>',
        *self._sections(),
        '</body></html>\n',
      ]
    )

  def _sections(self) -> Iterator[str]:
    first = next(i for i, p in enumerate(self.parts) if isinstance(p, Table))
    methods = {'fedavg', *(str(row[0]) for row in self.parts[first].rows)}
    methods = {_method_of(cell) for cell in methods}
    shown = [_part(part, methods) for part in self.parts]
    # The sentences behind it say what its marks mean.
    end = first + 2
    while end < len(shown) and str(self.parts[end]).startswith('['):
      end += 1
    yield '<h2>Accuracy</h2>'
    yield from shown[:end]
    yield '<h2>Curves</h2>'
    for path in self.pictures:
      if path.exists():
        yield _figure(path, path.stem.replace('_', ' ').capitalize())
    yield '<h2>Costs</h2>'
    yield from shown[end:]
    if self.uploads:
      yield '<h2>What one client uploads</h2>'
      yield from map(_upload, self.uploads)
    yield '<h2>How it was made</h2>'
    yield _pre(self.command, 'wrapped')
    yield f'<p>By {html.escape(provenance.in_words(self.code))}.</p>'
    items = [html.escape(f'{k}: {v}') for k, v in self.code.items()]
    yield f'<ul><li>{"</li><li>".join(items)}</li></ul>'
    yield f'<details><summary>{len(self.commands)} runs, one by one</summary>'
    yield f'{_pre(chr(10).join(self.commands))}</details>'


def _method_of(cell: str) -> str:
  """A name without marks such as " [1]"."""
  return cell.partition(' [')[0]


def _text(markdown: str) -> str:
  text = html.escape(markdown).replace('+-', '±')
  return _BOLD.sub(r'<b>\1</b>', text)


def _cells(tag: str, cells: Iterable, methods: Iterable[str]) -> str:
  found = []
  for cell in map(str, cells):
    dot = ''
    if _method_of(cell) in methods:
      color = style_of(_method_of(cell))['color']
      dot = f'<span class="dot" style="background:{color}"></span>'
    found.append(f'<{tag}>{dot}{_text(cell)}</{tag}>')
  return f'<tr>{"".join(found)}</tr>'


def _part(part: str | Table, methods: Iterable[str]) -> str:
  if isinstance(part, str):
    return f'<p>{_text(part)}</p>'
  rows = [_cells('td', row, methods) for row in part.rows]
  head = f'<thead>{_cells("th", part.header, ())}</thead>'
  body = f'<tbody>{"".join(rows)}</tbody>'
  return f'<div class="wide"><table>{head}{body}</table></div>'


def _pre(text: str, kind: str = '') -> str:
  return f'<pre class="{kind}">{html.escape(text)}</pre>'


def _figure(path: pathlib.Path, caption: str) -> str:
  data = base64.b64encode(path.read_bytes()).decode()
  text = html.escape(caption)
  image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
  return (
    f'<figure><div class="wide">{image}</div>'
    f'<figcaption>{text}</figcaption></figure>'
  )


def _upload(upload: Upload) -> str:
  if upload.path.suffix == '.png':
    return _figure(upload.path, upload.name)
  name = html.escape(upload.name)
  text = _pre(upload.path.read_text(encoding='utf-8'))
  return f'<details><summary>{name}</summary>{text}</details>'
