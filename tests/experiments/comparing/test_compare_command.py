"""Flags and flagfiles of comparisons."""

import pathlib

from absl import flags
import pytest

from tff_fedsynth.experiments.comparing import compare_command
from tff_fedsynth.experiments.comparing import comparison as comparison_lib
from tff_fedsynth.experiments.settings.settings import SettingsError

FLAGS = pathlib.Path(comparison_lib.__file__).parents[1].glob('configs/*.flags')


@pytest.mark.parametrize(
  'text',
  ['drive', 'drive:residual_fraction=0', 'zip:drive_scale=mse', 'drive:x='],
)
def test_what_is_no_option_to_tune_is_refused(text):
  with pytest.raises(SettingsError, match='such as fedsynth_drive:'):
    compare_command._tuning_option(text, flags.FlagValues())


@pytest.mark.parametrize('path', FLAGS, ids=lambda p: p.name)
def test_flagfiles_are_valid(path):
  values = flags.FlagValues()
  flags.DEFINE_string('flagfile', '', '', flag_values=values)
  compare_command.define_flags(values)
  values(['program', f'--flagfile={path}', '--output_dir=x'])
  assert values['methods'].value and values['task'].present
