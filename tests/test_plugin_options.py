"""Options of plugins: one name from field to flag, and one default for a name."""

import dataclasses

import pytest

from tff_fedsynth import OptionError
from tff_fedsynth import options
from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.options import Group
from tff_fedsynth.plugin import all_flags
from tff_fedsynth.plugin import Plugin
from tff_fedsynth.tasks import TASKS


@dataclasses.dataclass(frozen=True)
class Few:
  size: int = options.option(3, 'Sets a size.', minimum=1)
  kind: str = options.option('a', 'Sets a kind.', ('a', 'b'), is_plain=True)
  hidden: int = options.limited(1, minimum=1)

  def __post_init__(self):
    options.check(self)


@dataclasses.dataclass(frozen=True)
class Other:
  size: int = options.option(4, 'Sets a size.')


def test_a_flag_is_the_prefix_and_the_field():
  group = Group(Few, 'few_')
  assert list(group.flags) == ['few_size', 'kind']
  given = {'few_size': 2, 'kind': 'b', 'size': 9}
  assert group.arguments(given) == {'size': 2, 'kind': 'b'}


def test_a_plugin_gets_what_was_given_and_what_is_fixed():
  plugin = Plugin(dict, (Group(Few, 'few_'),), {'kind': 'b'})
  assert list(plugin.flags) == ['few_size']
  assert plugin.make({'few_size': 2, 'other': 1}) == {
    'few_size': 2,
    'kind': 'b',
  }


def test_errors_name_flags():
  plugin = Plugin(lambda few_size: Few(few_size), (Group(Few, 'few_'),))
  with pytest.raises(OptionError, match='few_size must be at least 1, found 0'):
    plugin.make({'few_size': 0})
  with pytest.raises(OptionError, match='few_size must be at least 1, found 0'):
    plugin.check({'few_size': 0})


def test_one_name_has_one_default():
  few, other = (Plugin(dict, (Group(cls),)) for cls in (Few, Other))
  with pytest.raises(
    OptionError, match='Two options are called size.* 3 and 4'
  ):
    all_flags({'few': few, 'other': other})
  apart = Plugin(dict, (Group(Other, 'other_'),))
  assert len(all_flags({'few': few, 'other': apart})) == 3


def test_ours_have_one_default_each():
  assert all_flags(TASKS, METHODS).keys() == (
    all_flags(TASKS).keys() | all_flags(METHODS).keys()
  )


def test_each_option_is_declared_once():
  # A field object is one declaration; subclasses hand it on.
  declared = {}
  for plugin in (*TASKS.values(), *METHODS.values()):
    for name, field in plugin.flags.items():
      declared.setdefault(name, set()).add(field.metadata['help'])
  assert all(len(texts) == 1 for texts in declared.values())
