"""What FedSynth measures before a run."""

import dataclasses

import numpy as np
import pytest
import small_runs

from tff_fedsynth import Payload
from tff_fedsynth.errors import OptionError
from tff_fedsynth.experiments.methods import measured
from tff_fedsynth.experiments.methods import probe
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import runner


@pytest.fixture(scope='module')
def setup(tmp_path_factory):
  """What methods get that have 1/500 of the model."""
  settings = small_runs.settings(
    tmp_path_factory.mktemp('runs'), method='drive', compression_ratio=500
  )
  return building.build(settings).setup


def test_the_share_of_the_residual_is_measured_once(tmp_path, monkeypatch):
  monkeypatch.setattr(measured, '_FRACTIONS', (0.4,))
  settings = dict(
    method='fedsynth_drive',
    compression_ratio=500,
    synthesis_iterations=5,
    total_rounds=1,
  )
  run = building.build(small_runs.settings(tmp_path, **settings))
  config = run.built.config
  fraction = run.built.chosen['residual_fraction']
  assert 0 < fraction < 1
  shapes = [w.shape for w in run.model.initial_weights[0]]
  sketch = config.residual.codec.message_bytes(shapes)
  # A byte says whether the sketch is alone, and then it fills the message.
  of_message = Payload(config.spec).data_bytes + sketch
  assert run.communication.uplink_bytes == 1 + of_message + 4
  alone = config.residual.alone.message_bytes(shapes)
  assert 0.99 * of_message < alone <= of_message
  # The rest of the share goes to the sketch.
  assert 0.99 * 1272 < run.communication.uplink_bytes <= 1272
  assert sketch >= fraction * 1272 - 5
  runner.execute(run)

  # The run goes on with what was measured.
  def fail(*_):
    raise AssertionError('measured again')

  monkeypatch.setattr(probe, 'measure', fail)
  again = building.build(small_runs.settings(tmp_path, **settings))
  assert again.built.description == run.built.description


def test_the_least_error_decides_the_share(setup, monkeypatch):
  def build(squares, **options):
    probes = [probe.Probe([[np.sqrt(s)]], 1.0) for s in squares]
    monkeypatch.setattr(probe, 'measure', lambda *_: probes)
    return measured.build(setup, residual='drive', **options)

  # Nearly 24 / share sketches are needed to halve an error, and there are 1000:
  # (1 - cos^2) / (1 + share / .024) is 1, .11, .006, .019, .015,
  # .013 and .023 for all.
  squares = [0.0, 0.0, 0.9, 0.5, 0.5, 0.5]
  best = build(squares)
  assert best.chosen == {'residual_fraction': 0.4}
  sketch = best.config.residual
  assert sketch.codec.kept_signs > 0.4 * 8 * 1272 - 100
  error = np.pi / 2 * 159_010 / sketch.codec.kept_signs - 1
  assert sketch.scale == pytest.approx(1 / (1 + error / 1000), rel=0.01)
  unbiased = build(squares, residual_scale=1.0)
  assert unbiased.chosen == {'residual_fraction': 0.4}
  assert unbiased.config.residual.scale == 1
  # Without the choice there is no byte for it.
  fixed = build(squares, residual_alone=False).config.residual
  assert fixed.alone is None
  assert sketch.codec.kept_signs < fixed.codec.kept_signs
  # Synthetic data that are worth nothing leave the sketch alone.
  alone = build([0.0] * 6)
  assert alone.chosen == {'residual_fraction': 1.0}
  assert alone.config is None and 'rotated coordinates' in alone.description
  # Those that miss nothing need none.
  none = build([0.999, 0.5, 0.5, 0.5, 0.5, 0.5])
  assert none.chosen == {'residual_fraction': 0.0}
  assert none.config.residual is None


@pytest.mark.parametrize(
  'total, rounds', [(60, [10, 20]), (15, [10, 15]), (3, [3])]
)
def test_the_share_is_measured_in_later_rounds(
  setup, monkeypatch, total, rounds
):
  asked = []

  def measure(setup, configs, rounds):
    s = setup.settings
    asked.append((rounds, s.server_optimizer, s.server_learning_rate))
    return [probe.Probe([[0.5]], 1.0)] * len(configs)

  monkeypatch.setattr(probe, 'measure', measure)
  settings = dataclasses.replace(
    setup.settings,
    total_rounds=total,
    server_optimizer='momentum',
    server_learning_rate=0.1,
  )
  longer = dataclasses.replace(setup, settings=settings)
  measured.build(longer, residual='drive')
  # The run's own server learns too slowly to show what updates become.
  assert asked == [(rounds, 'sgd', 1.0)]


def test_iterations_fill_the_time_asked_for(setup, monkeypatch):
  def build(seconds):
    asked = []

    def measure(setup, configs, **_):
      asked.extend(config.iterations for config in configs)
      return [probe.Probe([[1.0]], seconds(c.iterations)) for c in configs]

    monkeypatch.setattr(probe, 'measure', measure)
    return measured.build(setup, client_time_ratio=3.0), asked

  # Local training takes .5 s, an iteration .04 s: 1 s more is 25 of them.
  built, asked = build(lambda n: 0.5 + 0.04 * n)
  assert built.config.iterations == 25 and len(asked) == 2
  assert built.chosen['synthesis_iterations'] == 25
  assert 'in 25 iterations' in built.description
  with pytest.raises(OptionError, match='too noisy'):
    build(lambda n: 0.5)


def test_a_sketch_alone_may_be_defended(setup):
  built = measured.build(
    setup, residual='drive', residual_fraction=1.0, aggregation='median'
  )
  assert built.config is None and 'rotated coordinates' in built.description
