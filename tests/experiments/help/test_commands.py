"""Commands answer at once what needs no TensorFlow, and their help is true."""

import re
import subprocess
import sys

import pytest

import tff_fedsynth
from tff_fedsynth.experiments.help import entrance
from tff_fedsynth.experiments.help import pages
from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.tasks import mnist_digits
from tff_fedsynth.tasks import TASKS


def _run(*arguments):
  return subprocess.run(
    [sys.executable, *arguments], capture_output=True, text=True, timeout=120
  )


def _answer(capsys, command, *arguments):
  """The exit status, and what was printed; None if nothing was answered."""
  try:
    entrance.answer(command, ['program', *arguments])
  except SystemExit as e:
    captured = capsys.readouterr()
    return e.code, captured.out, captured.err
  return None


def test_importing_the_commands_imports_no_tensorflow():
  imports = '; '.join(
    f'import {entrance.PACKAGE}.{name}' for name in pages.COMMANDS
  )
  script = f"{imports}; import sys; print('tensorflow' in sys.modules)"
  assert _run('-c', script).stdout == 'False\n'


def test_a_command_prints_its_page():
  result = _run('-m', f'{entrance.PACKAGE}.train', '--help')
  assert result.returncode == 0 and not result.stderr
  assert result.stdout == (entrance.PAGES / 'train.txt').read_text()


@pytest.mark.parametrize('command', pages.COMMANDS)
@pytest.mark.parametrize('flag', ['--help', '-help', '-h', '--helpshort'])
def test_every_command_has_help(command, flag, capsys):
  page = (entrance.PAGES / f'{command}.txt').read_text()
  # Even beside a typo.
  assert _answer(capsys, command, '--outputdir=x', flag) == (0, page, '')


@pytest.mark.parametrize('command', pages.COMMANDS)
def test_pages_are_what_make_help_writes(command):
  page = pages.page(command)
  assert (entrance.PAGES / f'{command}.txt').read_text() == page
  assert max(map(len, page.splitlines())) <= 80


def test_there_is_a_page_for_each_command_and_no_other():
  assert {p.stem for p in entrance.PAGES.glob('*.txt')} == set(pages.COMMANDS)


def _entry(page, flag):
  """What a page says of a flag, on one line."""
  found = re.search(rf'^  --{flag}\b.*?(?=\n\n)', page, re.M | re.S)
  return ' '.join(found[0].split())


def test_help_shows_choices_defaults_and_ranges():
  page = pages.page('train')
  assert _entry(page, 'total_rounds') == (
    '--total_rounds=N [default: 60] Sets how many rounds are trained. At least 1.'
  )
  assert '--output_dir=DIRECTORY [required]' in _entry(page, 'output_dir')
  for flag, registry in (('task', TASKS), ('method', METHODS)):
    listed = re.search(r'One of (.*?)\.', _entry(page, flag))[1]
    assert listed.split(', ') == list(registry)
  models = _entry(page, 'model')
  assert (
    'With chat_word, client_words, stackoverflow_word: word_lstm, ' in models
  )
  assert '1000 with chat_word, 10000 with' in _entry(page, 'vocabulary_size')
  assert 'Only with --method=drive.' in _entry(page, 'drive_scale')


def test_each_help_text_is_a_sentence():
  for command in pages.COMMANDS:
    page = pages.page(command)
    entries = re.findall(r'^  --\S+=.*?(?=\n\n)', page, re.M | re.S)
    for entry in entries:
      text = entry.partition('\n')[2].strip()
      # A verb comes first: Sets, Chooses, Makes.
      assert re.match(r'[A-Z][a-z]*s\b', text) and text.endswith('.'), entry


def test_the_names_of_models_are_those_of_the_task():
  task = mnist_digits.build(seed=0)
  assert set(TASKS['mnist_digits'].models) == set(task.models)


@pytest.mark.parametrize(
  'command, argument, error',
  [
    (
      'train',
      '--total_round=5',
      'flag --total_round. Did you mean --total_rou',
    ),
    ('train', '-total_round=5', 'flag --total_round. Did you mean --total_rou'),
    ('compare', '--compression_ratio=5', 'Did you mean --compression_ratios?'),
    # It has --seeds; --seed would do nothing.
    ('ablate', '--seed=3', 'Did you mean --seeds?'),
    ('attack', '--seed=3', 'Did you mean --seeds?'),
    ('train', 'foo', "Unexpected argument 'foo': all arguments are flags"),
    ('train', '--output_dir', 'Missing value for flag --output_dir'),
    ('train', '--nouse_xla=3', '--nouse_xla=3 does not take an argument'),
    ('train', '--flagfile=/nowhere', '--flagfile cannot be read: [Errno 2]'),
    ('train', '--flagfile=/tmp', '--flagfile cannot be read: [Errno 21]'),
    ('train', f'--flagfile={sys.executable}', 'read: it is no text'),
  ],
)
def test_what_is_no_flag_is_refused_at_once(command, argument, error, capsys):
  status, printed, refused = _answer(capsys, command, argument)
  assert (status, printed) == (2, '')
  assert refused.startswith('Error: ') and error in refused


@pytest.mark.parametrize(
  'arguments',
  [
    (),
    ('--seed=3', '--nodiagnostics', '--use_xla', '--verbosity', '1'),
    ('--seed', '3'),
    # Flags of absl and of the libraries are none of ours.
    ('--helpfull',),
    ('--hbm_oom_exit',),
  ],
)
def test_what_may_be_a_flag_goes_on(arguments, capsys):
  assert _answer(capsys, 'train', *arguments) is None


def test_flags_in_a_file_are_looked_at_too(tmp_path, capsys):
  (tmp_path / 'a.flags').write_text('# A comment.\n--sed=3\n')
  _, _, refused = _answer(capsys, 'train', f'--flagfile={tmp_path}/a.flags')
  assert 'Unknown flag --sed. Did you mean --seed?' in refused


def test_public_names_are_there_when_they_are_used():
  for name in tff_fedsynth.__all__:
    assert getattr(tff_fedsynth, name).__name__ == name
    assert name in dir(tff_fedsynth)
  with pytest.raises(AttributeError, match="no attribute 'nothing'"):
    _ = tff_fedsynth.nothing
