"""Files are UTF-8, whatever the locale of a machine says."""

import os
import subprocess
import sys

_SCRIPT = """
import pathlib, sys, warnings

found = []

def show(message, category, filename, lineno, *_):
  if category is EncodingWarning and '/tff_fedsynth/' in filename:
    found.append(f'{filename}:{lineno}')

warnings.simplefilter('always', EncodingWarning)
warnings.showwarning = show
from tff_fedsynth.experiments.comparing import cells, comparison
from tff_fedsynth.experiments.records import recovery
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.tasks.text import chat, plays

directory = pathlib.Path(sys.argv[1])
assert open(directory / 'x', 'w').encoding.lower() != 'utf-8'
chat._chat()
plays._plays()
recovery.write_text(directory / 'note', 'Grüße')
base = Settings(
  output_dir=str(directory / 'out'),
  total_rounds=1,
  clients_per_round=2,
  local_epochs=1,
  batch_size=40,
  options={'num_clients': 40},
)
for _ in range(2):  # The second one reads what the first one wrote.
  comparison.compare(cells.Comparison(base, ('fedavg',), (500.0,), (0,)))
print(found)
"""


def test_another_locale_changes_nothing(tmp_path):
  script = tmp_path / 'script.py'
  script.write_text(_SCRIPT, encoding='utf-8')
  result = subprocess.run(
    [
      *(sys.executable, '-X', 'utf8=0', '-X', 'warn_default_encoding'),
      *(script, tmp_path),
    ],
    env={**os.environ, 'LC_ALL': 'C', 'PYTHONCOERCECLOCALE': '0'},
    capture_output=True,
    encoding='utf-8',
    timeout=300,
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout == '[]\n'
  assert (tmp_path / 'note').read_bytes() == 'Grüße'.encode()
  assert (tmp_path / 'out' / 'table.md').exists()
