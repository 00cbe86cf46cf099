from tff_fedsynth.experiments.methods.registry import METHODS
from tff_fedsynth.experiments.pictures.styles import style_of


def test_each_method_has_a_color_of_its_own():
  colors = {style_of(method)['color'] for method in METHODS}
  assert len(colors) == len(METHODS)
  assert style_of('fedavg')['color'] == 'black'
