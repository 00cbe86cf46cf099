"""Settings as flags."""

from absl import flags

from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.settings.settings import Settings


def test_numbers_may_be_written_in_any_way():
  old = dict(compression_ratio='500', seed='0', task='a', gone='')
  new = dict(compression_ratio='500.0', seed='0', task='b', model='m')
  assert settings_lib.differences(old, new) == {
    'model': "--model: '' there, 'm' now",
    'task': "--task: 'a' there, 'b' now",
  }


def test_every_setting_is_a_flag_with_its_default():
  values = flags.FlagValues()
  own = registry.own_options()
  settings_lib.define_flags(own, values)
  values(['program', '--output_dir=x', '--seed=3', '--nodiagnostics'])
  settings = settings_lib.from_flags(own, values)
  assert settings == Settings(
    output_dir='x', seed=3, options={'diagnostics': False}
  )


def test_flags_of_a_run_are_those_with_a_value(tmp_path):
  path = tmp_path / 'flags.txt'
  # As older versions wrote them.
  path.write_text(
    '--plugin=\n--uplink_bytes=\n--method=drive\n--label=a=b\n',
    encoding='utf-8',
  )
  assert settings_lib.read_flags(path) == {'method': 'drive', 'label': 'a=b'}
