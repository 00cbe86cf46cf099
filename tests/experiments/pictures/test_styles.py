from unittest import mock

from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.pictures.styles import style_of


def test_each_method_has_a_color_of_its_own():
  colors = {style_of(method)['color'] for method in METHODS}
  assert len(colors) == len(METHODS)
  assert style_of('fedavg')['color'] == 'black'


def test_a_style_depends_on_nothing_but_the_name():
  before = {method: style_of(method) for method in (*METHODS, 'of a plugin')}
  # This keeps the order, which help pages have.
  with mock.patch.dict(METHODS):
    del METHODS['fedsynth']
    METHODS['another'] = METHODS['drive']
    assert {method: style_of(method) for method in before} == before
  # A method that nobody knew has a style too, and none of those that are known.
  assert before.pop('of a plugin') not in before.values()
