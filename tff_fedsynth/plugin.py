"""What is chosen by its name in a registry, and has options of its own."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from tff_fedsynth import options


@dataclasses.dataclass(frozen=True)
class Plugin:
  """Something chosen by its name in a registry, with options of its own.

  Attributes:
    build: A function that takes options as keyword arguments, those given.
    options_type: A dataclass whose fields, made by `option`, are its options.
    prefix: Stands before each field's name where all plugins' options are one.
    fixed: Options that this name fixes, and that nobody else can choose.
  """

  build: Any
  options_type: type | None = None
  prefix: str = ''
  fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def flags(self) -> dict[str, dataclasses.Field]:
    """Its options, by their names among all plugins' options."""
    if self.options_type is None:
      return {}
    return {
      self.prefix + name: field
      for name, field in options.fields(self.options_type).items()
      if name not in self.fixed
    }

  def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for `build` out of all options that were given."""
    own = {f: given[f] for f in self.flags if f in given}
    return {
      **self.fixed,
      **{name.removeprefix(self.prefix): v for name, v in own.items()},
    }

  def check(self, given: Mapping[str, Any]) -> None:
    """Raises `OptionError` for what can be known before anything is built."""
    for name, field in self.flags.items():
      if name in given:
        options.check_value(name, field, given[name])
    is_whole = self.options_type and all(
      f.default is not dataclasses.MISSING
      for f in dataclasses.fields(self.options_type)
    )
    if is_whole:
      self._renaming(self.options_type, **self.arguments(given))

  def make(self, given: Mapping[str, Any], *args, **more) -> Any:
    """What `build` makes of some arguments and the options that were given.

    Raises:
      The errors of `build`, with the names of options as in `flags`.
    """
    return self._renaming(
      self.build, *args, **{**self.arguments(given), **more}
    )

  def _renaming(self, function, *args, **kwargs):
    try:
      return function(*args, **kwargs)
    except options.OptionError as e:
      raise e.renamed(
        lambda n: self.prefix + n if self.prefix + n in self.flags else n
      ) from e
