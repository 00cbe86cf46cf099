"""What clients upload, by name. A new codec is its file and one line here."""

import functools

from baselines.cross_polytope import CrossPolytope
from baselines.drive import Drive
from baselines.low_rank import LowRank
from baselines.qsgd import Qsgd
from baselines.random_mask import RandomMask
from baselines.sign import Sign
from baselines.top_k import TopK
from tff_fedsynth.experiments import fedsynth
from tff_fedsynth.experiments import fedsynth_options
from tff_fedsynth.experiments import method
from tff_fedsynth.experiments.method import Method


def _fedsynth(**fixed):
  # A sketch shares a budget, which only a budget tells.
  size = () if 'residual' in fixed else fedsynth_options.SIZE_OPTIONS
  return Method(
    fedsynth.build,
    fedsynth_options.FedSynthOptions,
    fixed=fixed,
    needs_budget=True,
    size_options=tuple(name for name in size if name not in fixed),
  )


def _codec(codec_type, *, needs_budget=False, **fixed):
  # The flags of a codec begin with the name of its file.
  name = codec_type.__module__.rpartition('.')[2]
  build = functools.partial(method.build_with_codec, codec_type.for_budget)
  return Method(build, codec_type, f'{name}_', fixed, needs_budget=needs_budget)


# What can keep everything needs a budget to save anything. Without one, DRIVE
# sends a bit a coordinate, and QSGD its bits.
_sized = functools.partial(_codec, needs_budget=True)

METHODS = {
  'fedavg': Method(method.build_fed_avg),
  'fedsynth': _fedsynth(),
  'fedsynth_drive': _fedsynth(residual='drive'),
  'fedsynth_cross_polytope': _fedsynth(residual='cross_polytope'),
  # The objective of Hu et al. 2022; these settings are the best of five pairs.
  'fedsynth_data_loss': _fedsynth(
    objective='data_loss',
    synthesis_learning_rate=0.03,
    synthesis_initial_step_size=0.3,
  ),
  # Goetz & Tewari 2020 (arXiv 2008.04489).
  'goetz_tewari': _fedsynth(
    objective='update_l2',
    synthetic_labels='distributions',
    synthetic_bits=32,
    synthetic_resolution=0,
  ),
  # 3SFC: Zhou et al. 2023 (arXiv 2302.13562).
  'threesfc': _fedsynth(
    objective='update_cosine',
    synthetic_labels='distributions',
    synthetic_steps=1,
    synthetic_bits=32,
    synthetic_resolution=0,
  ),
  'random_mask': _sized(RandomMask),
  'random_mask_8bit': _sized(RandomMask, bits=8),
  'random_mask_unscaled': _sized(RandomMask, unbiased=False),
  'top_k': _sized(TopK),
  'top_k_8bit': _sized(TopK, bits=8),
  'drive': _codec(Drive),
  'drive_mse': _codec(Drive, scale='mse'),
  'cross_polytope': _sized(CrossPolytope),
  'low_rank': _sized(LowRank),
  'low_rank_8bit': _sized(LowRank, bits=8),
  'qsgd': _codec(Qsgd),
  'sign': _codec(Sign),
  'tff_compression': Method(method.build_tff_compression),
}
