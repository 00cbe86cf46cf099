"""Executes the notebooks here in fresh kernels, and stores what they show.

`make notebooks` runs it. It fails where a cell fails, where a notebook takes
longer than three minutes, or where a worker of TFF is left behind.
"""

import contextlib
import os
import pathlib
import sys
import time

import nbclient
import nbformat
import psutil

_FOLDER = pathlib.Path(__file__).parent
_ROOT = _FOLDER.parents[1]
_MOST_SECONDS = 180
_WORKER = 'worker_binary'
_MARK = 'TFF_FEDSYNTH_NOTEBOOKS'
_SECONDS_TO_END = 10


def _workers() -> list[int]:
  """The ids of the workers of TFF that kernels of this program started."""
  found = []
  for process in psutil.process_iter(['name']):
    with contextlib.suppress(psutil.Error):
      is_ours = process.environ().get(_MARK) == str(os.getpid())
      if process.info['name'] == _WORKER and is_ours:
        found.append(process.pid)
  return found


def _execute(path: pathlib.Path) -> float:
  """Executes a notebook, writes it, and returns the seconds that it took."""
  notebook = nbformat.read(path, as_version=4)
  client = nbclient.NotebookClient(
    notebook,
    timeout=_MOST_SECONDS,
    kernel_name='python3',
    # Times of cells would change the file at every run.
    record_timing=False,
    resources={'metadata': {'path': str(_ROOT)}},
  )
  start = time.monotonic()
  client.execute()
  nbformat.write(notebook, path)
  return time.monotonic() - start


def main() -> None:
  """Executes the notebooks that are named, or all."""
  os.environ[_MARK] = str(os.getpid())  # What a kernel starts inherits it.
  paths = sys.argv[1:] or sorted(_FOLDER.glob('*.ipynb'))
  for path in map(pathlib.Path, paths):
    seconds = _execute(path)
    print(f'{path.name}: {seconds:.0f} s', flush=True)
    if seconds > _MOST_SECONDS:
      sys.exit(f'{path.name} takes more than {_MOST_SECONDS} s.')
    end = time.monotonic() + _SECONDS_TO_END
    while _workers() and time.monotonic() < end:
      time.sleep(0.2)
    if left := _workers():
      sys.exit(f'{path.name} left workers behind: {left}')


if __name__ == '__main__':
  main()
