"""What is chosen by its name in a registry, and has options of its own."""

from collections.abc import Mapping
import dataclasses
import itertools
from typing import Any

from tff_fedsynth import options
from tff_fedsynth.errors import OptionError


@dataclasses.dataclass(frozen=True)
class Plugin:
  """Something chosen by its name in a registry, with options of its own.

  Attributes:
    build: A function that takes options as keyword arguments, those given, by
      the names of their flags.
    groups: Where its options are declared.
    fixed: Options that this name fixes, by flag, and that nobody else can choose.
  """

  build: Any
  groups: tuple[options.Group, ...] = ()
  fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def flags(self) -> dict[str, dataclasses.Field]:
    """Its options, by flag."""
    return {
      name: field
      for group in self.groups
      for name, field in group.flags.items()
      if name not in self.fixed
    }

  def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
    """What `build` gets, out of all options that were given."""
    own = {name: given[name] for name in self.flags if name in given}
    return {**self.fixed, **own}

  def check(self, given: Mapping[str, Any]) -> None:
    """Raises `OptionError` for what can be known before anything is built."""
    for name, field in self.flags.items():
      if name in given:
        options.check_value(name, field, given[name])
    for group in self.groups:
      fields = dataclasses.fields(group.cls)
      if all(f.default is not dataclasses.MISSING for f in fields):
        arguments = group.arguments(self.arguments(given))
        self._renaming(group.cls, **arguments)

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
    except OptionError as e:
      raise e.renamed(self._flag) from e

  def _flag(self, name: str) -> str:
    for group in self.groups:
      if (flag := group.flag(name)) != name:
        return flag
    return name


def all_flags(
  *registries: Mapping[str, Plugin],
) -> dict[str, dataclasses.Field]:
  """The options of all plugins of some registries, by flag.

  Raises:
    OptionError: If two options of one name have different defaults.
  """
  found = {}
  for plugin in itertools.chain(*(r.values() for r in registries)):
    for name, field in plugin.flags.items():
      known = found.setdefault(name, field)
      if known.default != field.default:
        raise OptionError(
          f'Two options are called {name}, with the defaults {known.default} '
          f'and {field.default}. Call one of them otherwise.',
          name,
        )
  return found
