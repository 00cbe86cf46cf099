"""Runs that are refused before they train."""

import subprocess
import sys

import pytest
import small_runs

from tff_fedsynth import BudgetTooSmallError
from tff_fedsynth import SyntheticSpecError
from tff_fedsynth.errors import OptionError
from tff_fedsynth.errors import UserError
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.server.config import PrivacyError
from tff_fedsynth.tasks.federated.task import TaskError


@pytest.mark.parametrize(
  'arguments, error, message',
  [
    (dict(method='zip'), OptionError, "Unknown method 'zip'. Choose one of"),
    (dict(method='driv'), OptionError, 'Did you mean drive?'),
    (dict(task='cifar'), OptionError, "Unknown task 'cifar'"),
    (dict(model='vit'), OptionError, "Unknown model 'vit'.*mnist_digits"),
    (dict(data_source='web'), OptionError, "Unknown data_source 'web'"),
    (dict(client_weighting='x'), OptionError, "Unknown client_weighting 'x'"),
    (dict(total_rounds=0), OptionError, 'total_rounds must be at least 1'),
    (
      dict(clients_per_round=41),
      SettingsError,
      '--clients_per_round=41 is more than the 40 clients of the task',
    ),
    (dict(compression_ratio=-1.0), OptionError, 'must be at least 0.001'),
    (
      dict(uplink_bytes=100),
      SettingsError,
      '--compression_ratio and --uplink_bytes are both budgets',
    ),
    (
      dict(method='random_mask', objective='data_loss'),
      SettingsError,
      '--objective goes only with --method=fedsynth, --method=fedsynth_drive, '
      '--method=fedsynth_cross_polytope, '
      'but --task is mnist_digits and --method is random_mask.',
    ),
    (
      dict(method='drive', random_mask_bits=8),
      SettingsError,
      '--random_mask_bits goes only with --method=random_mask, --method=random_',
    ),
    (
      dict(method='random_mask_8bit', random_mask_bits=32),
      SettingsError,
      '--random_mask_bits goes only with --method=random_mask, --method=random_',
    ),
    (
      dict(method='drive', drive_scale='big'),
      OptionError,
      "Unknown drive_scale 'big'",
    ),
    (
      dict(dirichlet_alpha=0.3),
      OptionError,
      'dirichlet_alpha goes only with partition=dirichlet',
    ),
    (dict(partition='dirichlet'), TaskError, 'needs a dirichlet_alpha'),
    (dict(partition='halves'), OptionError, 'Unknown partition'),
    (dict(objective='l3'), OptionError, 'Unknown objective'),
    (dict(synthesis_iterations=0), OptionError, 'must be at least 1'),
    (dict(objective='data_loss'), OptionError, 'one step a real batch'),
    (dict(synthetic_bits=5), OptionError, 'synthetic_bits must be one of'),
    (
      dict(synthetic_resolution=29),
      SyntheticSpecError,
      'synthetic_resolution must be between 1 and 28',
    ),
    (dict(compression_ratio=1e6), BudgetTooSmallError, 'take 22 bytes'),
    (
      dict(method='random_mask', compression_ratio=1e6),
      BudgetTooSmallError,
      'RandomMask uploads at least 8 bytes beside the weight',
    ),
    (
      dict(method='fedavg', compression_ratio=2.0),
      BudgetTooSmallError,
      'fedavg uploads 636044 bytes and cannot go lower',
    ),
    (
      dict(update_clip_norm='short'),
      OptionError,
      "update_clip_norm must be a number, or adaptive, found 'short'",
    ),
    (dict(update_clip_norm=-1.0), OptionError, 'clip_norm must be above 0'),
    (dict(aggregation='mode'), OptionError, "Unknown aggregation 'mode'"),
    (dict(client_time_ratio=1.0), OptionError, 'must be above 1'),
    (dict(client_time_ratio=2.0), OptionError, 'Give one'),
    (
      dict(
        client_time_ratio=2.0, synthesis_iterations=None, objective='data_loss'
      ),
      OptionError,
      'takes one step a real batch',
    ),
    (dict(dp_clip_norm=1.0), OptionError, 'Give both or none'),
    (dict(dp_delta=1e-6), OptionError, 'needs dp_clip_norm'),
    (
      dict(dp_clip_norm=1.0, dp_noise_multiplier=1.0),
      PrivacyError,
      'Choose uniform',
    ),
    (
      dict(
        dp_clip_norm=1.0,
        dp_noise_multiplier=1.0,
        client_weighting='uniform',
        aggregation='median',
      ),
      PrivacyError,
      'aggregation=median cannot be combined',
    ),
    (
      dict(dp_clip_norm=1.0, dp_noise_multiplier=1.0, residual='drive'),
      OptionError,
      'residual_fraction as a number',
    ),
    (
      dict(
        dp_clip_norm=1.0, dp_noise_multiplier=0.0, client_weighting='uniform'
      ),
      OptionError,
      'dp_noise_multiplier must be above 0',
    ),
    (dict(residual='top_k'), OptionError, "Unknown residual 'top_k'"),
    (dict(residual_fraction=0.5), OptionError, 'Give residual as well'),
    (
      dict(residual='drive', residual_fraction='most'),
      OptionError,
      "must be a number, or auto, found 'most'",
    ),
    (
      dict(residual='drive', residual_fraction=1.5),
      OptionError,
      'must be between 0 and 1',
    ),
    (dict(residual_scale=0.5), OptionError, 'Give residual as well'),
    (
      dict(residual='drive', residual_scale=0.0),
      OptionError,
      'must be above 0 and at most 1',
    ),
    (
      dict(residual='drive', compression_ratio=None),
      SettingsError,
      '--method=fedsynth needs a budget: give --compression_ratio or '
      '--uplink_bytes, or all of --synthetic_steps, --synthetic_batch_size and '
      '--synthetic_bits.',
    ),
    (
      dict(
        residual='drive',
        compression_ratio=None,
        synthetic_steps=1,
        synthetic_batch_size=1,
        synthetic_bits=8,
      ),
      OptionError,
      'residual shares a budget. Give compression_ratio or uplink_bytes',
    ),
    (
      dict(method='fedsynth_drive'),
      SettingsError,
      '--method=fedsynth_drive needs a budget: give --compression_ratio or '
      '--uplink_bytes.$',
    ),
    (
      dict(method='threesfc'),
      SettingsError,
      '--uplink_bytes, or --synthetic_batch_size.$',
    ),
    (
      dict(method='top_k'),
      SettingsError,
      '--method=top_k needs a budget: give --compression_ratio or '
      '--uplink_bytes.$',
    ),
    (
      dict(residual='drive', residual_fraction=0.99),
      BudgetTooSmallError,
      'smallest synthetic data',
    ),
    (dict(output_dir=''), SettingsError, '--output_dir is required'),
  ],
)
def test_refusals_come_before_training_and_write_nothing(
  arguments, error, message, tmp_path
):
  arguments = {'output_dir': tmp_path / 'new', **arguments}
  with pytest.raises(error, match=message):
    building.build(small_runs.settings(**arguments))
  assert not (tmp_path / 'new').exists()
  assert issubclass(error, UserError)


def test_the_binary_prints_errors_with_flags_and_without_a_traceback(tmp_path):
  result = subprocess.run(
    [
      sys.executable,
      '-m',
      'tff_fedsynth.experiments.train',
      '--method=fedavg',
      '--partition=dirichlet',
      f'--output_dir={tmp_path / "new"}',
    ],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert result.returncode == 2
  # The task, which raised it, has options and no flags.
  assert (
    'Error: --partition=dirichlet needs a --dirichlet_alpha, for example 0.3.\n'
  ) in result.stderr
  assert 'Traceback (most recent call last):\n  File "/' not in result.stderr
  assert not (tmp_path / 'new').exists()
