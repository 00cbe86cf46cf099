"""Every number of every flag and library dataclass is held to its range."""

import dataclasses
import math
import pathlib
import re

from absl import flags
import numpy as np
import pytest

from baselines.cross_polytope import CrossPolytope
from baselines.drive import Drive
from baselines.low_rank import LowRank
from baselines.qsgd import Qsgd
from baselines.random_mask import RandomMask
from baselines.top_k import TopK
from tff_fedsynth import options
from tff_fedsynth import spec_for_budget
from tff_fedsynth import SynthesisConfig
from tff_fedsynth import SyntheticSpec
from tff_fedsynth.client.local_training import ClippedOptimizer
from tff_fedsynth.errors import OptionError
from tff_fedsynth.experiments.help import pages
from tff_fedsynth.experiments.records import directory as directory_lib
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.server.config import CentralPrivacy
from tff_fedsynth.server.config import Defense
from tff_fedsynth.tasks import client_data
from tff_fedsynth.tasks import mnist_digits
from tff_fedsynth.tasks.text import next_token
from tff_fedsynth.tasks.text import shakespeare
from tff_fedsynth.tasks.text import stackoverflow

ROOT = pathlib.Path(__file__).parent.parent

# Where 0 means something.
_ZERO_FLAGS = {
  'residual_fraction',  # No sketch.
  'seed',
  'seeds',
  'synthesis_beta_1',
  'synthesis_beta_2',
  'synthesis_initial_stddev',
  'synthesis_label_steps',
  'synthesis_minimum_gain',
  'synthesis_proximal',
  'synthetic_resolution',  # The images' own.
  'tuning_seeds',
}
_NO_NUMBERS = ('nan', 'NaN', 'inf', '-inf', '1e999', 'abc', '', '1,', '0x')


def _parsed(define_flags, *arguments):
  values = flags.FlagValues()
  define_flags(values)
  command_flags.parse(['program', *arguments], values)
  return values


def _is_number(field):
  return options.kind(field) in (int, float) or str(field.metadata['limits'])


def _refused(module, name, text, capsys):
  """Whether a value is refused in the way that a user meets it."""
  try:
    _parsed(module.define_flags, f'--{name}={text}')
  except SystemExit as e:
    error = capsys.readouterr().err
    assert e.code == 2 and error.count('\n') == 1
    assert re.match(rf'Error: (Unknown )?--{name} ', error), error
    return True
  return False


@pytest.mark.parametrize('command', pages.COMMANDS)
def test_numbers_of_flags_are_finite_and_within_their_range(command, capsys):
  module = pages.COMMANDS[command]
  values = _parsed(module.define_flags)
  numbers = {
    name: values[name].parser.field
    for name in values
    if _is_number(values[name].parser.field)
  }
  assert numbers
  for name, field in numbers.items():
    refused = lambda text, name=name: _refused(module, name, text, capsys)
    for text in (*_NO_NUMBERS, '-1', '-1e-9'):
      empty_is_default = text == '' and field.default == ()
      assert refused(text) != empty_is_default, (name, text)
    assert refused('0') == (name not in _ZERO_FLAGS), name
    if options.kind(field) is int:
      for text in ('2.5', '1e3', str(2**31), '9' * 30):
        assert refused(text), (name, text)
    else:
      # float32 would take them for 0 and infinite.
      assert refused('1e-60') and refused('1e60'), name


@pytest.mark.parametrize('command', pages.COMMANDS)
def test_names_of_flags_are_those_that_there_are(command, capsys):
  module = pages.COMMANDS[command]
  values = _parsed(module.define_flags)
  for name in values:
    field = values[name].parser.field
    choices = [str(c) for c in field.metadata['limits'].choices]
    for choice in choices:
      assert not _refused(module, name, choice, capsys), (name, choice)
    if choices:
      for text in ('abc', '-1', '', f'{choices[0]},x', f'{choices[0]}x'):
        assert _refused(module, name, text, capsys), (name, text)


@pytest.mark.parametrize('command', pages.COMMANDS)
def test_defaults_are_within_their_range(command):
  values = _parsed(pages.COMMANDS[command].define_flags)
  for name in values:
    field = values[name].parser.field
    if field.default is not dataclasses.MISSING:  # Else it must be given.
      options.check_value(name, field, field.default)


def test_lists_name_each_value_once(capsys):
  module = pages.COMMANDS['compare']
  for name, text in (
    ('seeds', '0,1,0'),
    ('compression_ratios', '100,1e2'),
    ('methods', 'drive,drive'),
  ):
    assert _refused(module, name, text, capsys)
  values = _parsed(module.define_flags, '--seeds=3, 4', '--tuning_seeds=5')
  assert (values.seeds, values.tuning_seeds) == ((3, 4), (5,))


def test_a_wrong_value_names_the_nearest_right_one(capsys):
  with pytest.raises(SystemExit):
    _parsed(pages.COMMANDS['train'].define_flags, '--objective=update_l1')
  assert capsys.readouterr().err == (
    "Error: Unknown --objective 'update_l1'. Did you mean update_l2? Choose one "
    'of data_loss, update_l2, update_cosine.\n'
  )


_SPEC = SyntheticSpec((28, 28, 1), (10,))
_LIBRARY = (
  _SPEC,
  SynthesisConfig(_SPEC),
  Defense(),
  CentralPrivacy(1.0, 1.0, 2),
  CrossPolytope(1, 0),
  Drive(1),
  LowRank((1,)),
  Qsgd(),
  RandomMask(1),
  TopK(1),
  stackoverflow.Options(),
  next_token.WordOptions(),
  mnist_digits.Options(),
  client_data.Options(client_data='own.sqlite'),
)
# 0 is the full resolution, and the default of seeds.
_ZERO_FIELDS = {
  'beta_1',
  'beta_2',
  'initial_stddev',
  'label_steps',
  'minimum_gain',
  'place_bits',
  'proximal',
  'resolution',
  'seed',
  'trim',
}


@pytest.mark.parametrize('instance', _LIBRARY, ids=lambda i: type(i).__name__)
def test_fields_of_the_library_are_held_to_their_range(instance):
  checked = {
    f.name: f for f in dataclasses.fields(instance) if 'limits' in f.metadata
  }
  # It may be one's own, too; see test_objectives.py.
  checked.pop('objective', None)
  assert checked
  for name, field in checked.items():
    limits = field.metadata['limits']
    wrong = [math.nan, -math.inf, 'abc', [1]]
    if name != 'seed':
      wrong += [-1]
    if options.kind(field) is int:
      wrong += [2.5, 1.0, True, math.inf, 2**31]
    elif options.kind(field) is float:
      wrong += [True] if limits.is_infinite else [True, math.inf, 1e60]
    if options.kind(field) is not bool and name not in _ZERO_FIELDS:
      wrong += [0]
    for value in wrong:
      if options.kind(field) is str and not limits.choices:
        continue  # A path.
      with pytest.raises(OptionError) as caught:
        dataclasses.replace(instance, **{name: value})
      assert name in str(caught.value) and '--' not in str(caught.value)
    dataclasses.replace(instance, **{name: getattr(instance, name)})
  for name in _ZERO_FIELDS & checked.keys():
    dataclasses.replace(instance, **{name: 0})


def test_numbers_of_numpy_are_numbers():
  assert RandomMask(np.int64(3), bits=np.int32(8)).kept_values == 3
  assert Defense(max_value=np.float32(2.0)).max_value == 2


def test_arguments_of_the_library_are_checked(classifier):
  for norm in (0.0, -1.0, math.nan, math.inf):
    with pytest.raises(OptionError, match='norm must be'):
      ClippedOptimizer(None, norm)
  for name in ('steps', 'batch_size', 'kept_labels'):
    with pytest.raises(OptionError, match=f'{name} must be at least 1, found'):
      spec_for_budget(classifier, 200, **{name: 0})
  with pytest.raises(OptionError, match='bits must be one of 32, .*found 0'):
    spec_for_budget(classifier, 200, bits=0)
  # 0 is that of the images.
  with pytest.raises(OptionError, match='resolution must be at least 0'):
    spec_for_budget(classifier, 200, resolution=-1)


def test_the_library_names_no_flags():
  for directory in ('baselines', 'tff_fedsynth'):
    for path in (ROOT / directory).rglob('*.py'):
      if 'experiments' not in path.parts:
        # Those of pip, setpriv and TFF's worker are none of ours.
        named = set(re.findall(r'--([a-z][a-z-]*)', path.read_text()))
        assert named <= {'no-deps', 'pdeathsig', 'port'}, path


def test_errors_take_other_names():
  error = OptionError('bits=5: bits_more and bits must be even.', 'bits')
  renamed = error.renamed('top_k_{}'.format).renamed(command_flags.as_flag)
  assert str(renamed) == (
    '--top_k_bits=5: bits_more and --top_k_bits must be even.'
  )


def test_names_of_a_user_stay_as_they_are():
  error = OptionError("label must be in /data/label, found 'label'.", 'label')
  assert str(error.renamed(command_flags.as_flag)) == (
    "--label must be in /data/label, found 'label'."
  )


def test_results_go_to_a_directory_that_can_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  for path, message in (
    ('', '--output_dir is required'),
    (f'{tmp_path}/file', f'{tmp_path}/file is a file'),
    (f'{tmp_path}/file/below/it', f'{tmp_path}/file is a file'),
    ('/proc/results', 'Nothing can be written to --output_dir=/proc/results'),
    (f'{tmp_path}/{"x" * 300}', 'File name too long'),
  ):
    with pytest.raises(SettingsError, match=message):
      directory_lib.check(path)
  assert directory_lib.check(f'{tmp_path}/a/b') == tmp_path / 'a/b'
  assert [p.name for p in tmp_path.iterdir()] == ['file']


def test_home_is_where_a_tilde_is(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert Settings(output_dir='~/runs').output_dir == f'{tmp_path}/runs'
  o = shakespeare.Options(cache_dir='~/data')
  assert o.cache_dir == f'{tmp_path}/data'
