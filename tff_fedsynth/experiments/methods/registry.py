"""What clients upload, by name. A new codec is its file and one line here."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any

from baselines.cross_polytope import CrossPolytope
from baselines.drive import Drive
from baselines.low_rank import LowRank
from baselines.qsgd import Qsgd
from baselines.random_mask import RandomMask
from baselines.sign import Sign
from baselines.top_k import TopK
from tff_fedsynth.compression.codec import Codec
from tff_fedsynth.experiments.methods import fed_avg
from tff_fedsynth.experiments.methods import fedsynth as fedsynth_lib
from tff_fedsynth.experiments.methods import measured
from tff_fedsynth.experiments.methods import server
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.options import Group
from tff_fedsynth.plugin import all_flags
from tff_fedsynth.plugin import Plugin
from tff_fedsynth.tasks import TASKS


@dataclasses.dataclass(frozen=True)
class Method(Plugin):
  """What clients upload, as a plugin.

  Attributes:
    needs_budget: Whether it has no size of its own, or saves nothing with it.
    size_options: Options that give a size in place of a budget, all of them.
    check_together: Raises `OptionError` for flags that do not go together.
  """

  needs_budget: bool = False
  size_options: tuple[str, ...] = ()
  check_together: Callable[[Mapping[str, Any]], None] | None = None

  def check(self, given: Mapping[str, Any]) -> None:
    super().check(given)
    if self.check_together is not None:
      self.check_together(self.arguments(given))

  def check_budget(self, settings: Settings) -> None:
    """Raises `SettingsError` where a budget is needed and not given."""
    has_budget = settings.compression_ratio or settings.uplink_bytes
    has_size = self.size_options and all(
      name in settings.options for name in self.size_options
    )
    if has_budget or has_size or not self.needs_budget:
      return
    *first, last = (f'--{name}' for name in self.size_options or (None,))
    all_of = f'all of {", ".join(first)} and {last}' if first else last
    raise SettingsError(
      f'--method={settings.method} needs a budget: give --compression_ratio or '
      f'--uplink_bytes{f", or {all_of}" if self.size_options else ""}.'
    )


def own_options() -> dict[str, dataclasses.Field]:
  """The flags that only some tasks or methods have."""
  return all_flags(TASKS, METHODS)


def fedsynth(**fixed) -> Method:
  """FedSynth, with flags that its name fixes."""
  # A sketch shares a budget, which only a budget tells.
  size = () if 'residual' in fixed else fedsynth_lib.SIZE_OPTIONS
  return Method(
    measured.build,
    measured.GROUPS,
    fixed,
    needs_budget=True,
    size_options=tuple(name for name in size if name not in fixed),
    check_together=measured.check,
  )


def codec(
  codec_type: type[Codec], *, needs_budget: bool = True, **fixed
) -> Method:
  """FedAvg with a codec, with fields of it that its name fixes.

  What can keep everything needs a budget to save anything. Without one, DRIVE
  sends a bit a coordinate, and QSGD its bits.
  """
  # The flags of a codec begin with the name of its file.
  name = codec_type.__module__.rpartition('.')[2]
  group = Group(codec_type, f'{name}_')
  return Method(
    fed_avg.builder_of(codec_type, group),
    (group, *server.GROUPS),
    {group.flag(k): v for k, v in fixed.items()},
    needs_budget=needs_budget,
    check_together=server.check,
  )


METHODS: dict[str, Method] = {
  'fedavg': Method(fed_avg.build),
  'fedsynth': fedsynth(),
  'fedsynth_drive': fedsynth(residual='drive'),
  'fedsynth_cross_polytope': fedsynth(residual='cross_polytope'),
  # The objective of Hu et al. 2022, with signed labels that start at zero.
  'fedsynth_data_loss': fedsynth(
    objective='data_loss',
    synthesis_learning_rate=0.03,
    synthesis_beta_1=0.9,
    synthesis_beta_2=0.999,
  ),
  # Goetz & Tewari 2020 (arXiv 2008.04489).
  'goetz_tewari': fedsynth(
    objective='update_l2',
    synthetic_label_form='distributions',
    synthetic_bits=32,
    synthetic_resolution=0,
  ),
  # 3SFC: Zhou et al. 2023 (arXiv 2302.13562).
  'threesfc': fedsynth(
    objective='update_cosine',
    synthetic_label_form='distributions',
    synthetic_steps=1,
    synthetic_bits=32,
    synthetic_resolution=0,
  ),
  'random_mask': codec(RandomMask),
  'random_mask_8bit': codec(RandomMask, bits=8),
  'random_mask_unscaled': codec(RandomMask, unbiased=False),
  'top_k': codec(TopK),
  'top_k_8bit': codec(TopK, bits=8),
  'drive': codec(Drive, needs_budget=False),
  'drive_mse': codec(Drive, needs_budget=False, scale='mse'),
  'cross_polytope': codec(CrossPolytope),
  'low_rank': codec(LowRank),
  'low_rank_8bit': codec(LowRank, bits=8),
  'qsgd': codec(Qsgd, needs_budget=False),
  'sign': codec(Sign, needs_budget=False),
  'tff_compression': Method(fed_avg.build_tff_compression),
}
