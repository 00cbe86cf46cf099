"""What is measured before a run of FedSynth, and what its budget is split into.

A share of 1 for the sketch leaves no synthetic data: that is the codec's own
method.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import statistics
from typing import Any

from absl import logging

from tff_fedsynth import options
from tff_fedsynth.errors import BudgetTooSmallError
from tff_fedsynth.errors import OptionError
from tff_fedsynth.experiments.methods import fed_avg
from tff_fedsynth.experiments.methods import fedsynth
from tff_fedsynth.experiments.methods import probe
from tff_fedsynth.experiments.methods import server
from tff_fedsynth.experiments.settings.setup import Built
from tff_fedsynth.experiments.settings.setup import Setup
from tff_fedsynth.models.weights import model_shapes
from tff_fedsynth.payload import sketch as sketch_lib

# Shares that are measured, beside 1, the sketch alone.
_FRACTIONS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9)
# Cosines fall in the first rounds where there are many classes, and grow on text: a
# run has most of its rounds after them.
_ROUNDS = (10, 20)
# Iterations that are timed.
_FEW, _MANY = 5, 45


@dataclasses.dataclass(frozen=True)
class TimeOptions:
  """What a client's time decides.

  Attributes:
    client_time_ratio: Time of a client over that of local training.
  """

  client_time_ratio: float | None = options.option(
    None,
    'Chooses how many steps synthetic data are learned in, by a measurement '
    'before the run: the work of a client takes so many times as long as local '
    'training alone.',
    group='FedSynth',
    default_text='not used',
    above=1,
  )


GROUPS = (*fedsynth.GROUPS, options.Group(TimeOptions))


def check(values: Mapping[str, Any]) -> None:
  """Raises `OptionError` for flags that do not go together."""
  server.check(values)
  has_sketch = values.get('residual', fedsynth.NONE) != fedsynth.NONE
  has_time = 'client_time_ratio' in values
  fraction = fedsynth.number(values.get('residual_fraction'))
  if 'dp_clip_norm' in values and (
    (has_sketch and fraction is None) or has_time
  ):
    raise OptionError(
      'What is measured on clients before the run is not covered by '
      'differential privacy. Give residual_fraction as a number and '
      'synthesis_iterations in place of client_time_ratio.',
      'residual_fraction',
      'synthesis_iterations',
      'client_time_ratio',
    )
  if has_time and 'synthesis_iterations' in values:
    raise OptionError(
      'client_time_ratio chooses synthesis_iterations. Give one.',
      'client_time_ratio',
      'synthesis_iterations',
    )
  of_sketch = 'residual_fraction', 'residual_scale', 'residual_alone'
  if not has_sketch and not values.keys().isdisjoint(of_sketch):
    raise OptionError(
      f'{", ".join(of_sketch)} are of a sketch, but there is none. Give residual '
      f'as well: one of {sorted(fedsynth.RESIDUALS)}.',
      *of_sketch,
      'residual',
    )


def build(setup: Setup, **values) -> Built:
  """Builds FedSynth, with what is measured for it.

  Args:
    setup: What every method gets.
    **values: Of flags in `GROUPS`; `None` is as good as not given.

  Raises:
    BudgetTooSmallError, OptionError: If the flags do not go together, or not with
      the budget or the model.
  """
  values = {k: v for k, v in values.items() if v is not None}
  check(values)
  chosen, fraction = {}, 0.0
  if 'client_time_ratio' in values:
    ratio = values.pop('client_time_ratio')
    chosen['synthesis_iterations'] = _measure_iterations(setup, values, ratio)
    chosen['client_time_ratio'] = None  # No longer a question.
    values['synthesis_iterations'] = chosen['synthesis_iterations']
  residual = values.get('residual', fedsynth.NONE)
  if residual != fedsynth.NONE:
    if setup.budget is None:
      raise OptionError(
        'residual shares a budget. Give compression_ratio or uplink_bytes.',
        'residual',
        'compression_ratio',
        'uplink_bytes',
      )
    fraction = fedsynth.number(values.get('residual_fraction'))
    if fraction is None:
      fraction = _measure_fraction(setup, values)
      chosen['residual_fraction'] = fraction
  if fraction == 1:
    codec = fedsynth.RESIDUALS[residual]
    built = fed_avg.build_with_codec(setup, codec, {}, values)
  else:
    built = fedsynth.build(setup, values, fraction)
  return dataclasses.replace(built, chosen=chosen)


def _measure_iterations(
  setup: Setup, values: Mapping[str, Any], ratio: float
) -> int:
  """How many iterations take the time asked for, by two measurements.

  Time is a + b iterations; a is local training and what comes once.
  """
  configs = [
    fedsynth.config(setup, {**values, 'synthesis_iterations': n}, 0.0)
    for n in (_FEW, _MANY)
  ]
  few, many = (
    p.seconds for p in probe.measure(setup, configs, rounds=(1,), clients=8)
  )
  each = (many - few) / (_MANY - _FEW)
  once = few - _FEW * each
  if each <= 0 or once <= 0:
    raise OptionError(
      f'Timings are too noisy for client_time_ratio: {few:.3f} and {many:.3f} s '
      f'with {_FEW} and {_MANY} iterations. Give synthesis_iterations.',
      'client_time_ratio',
      'synthesis_iterations',
    )
  return max(1, int((ratio - 1) * once / each))


def _plain_fed_avg(setup: Setup) -> Setup:
  """The setup with FedAvg's own server.

  A lower rate, as the first of those that are tuned, would show a younger model, whose
  updates are easier to learn than those of most rounds.
  """
  plain = dict(server_optimizer='sgd', server_learning_rate=1.0)
  settings = dataclasses.replace(setup.settings, **plain)
  return dataclasses.replace(setup, settings=settings)


def _measure_fraction(setup: Setup, values: Mapping[str, Any]) -> float:
  """The share of the budget that leaves the least error; see `sketch_lib`."""
  shapes = model_shapes(setup.model)
  configs = {}
  for fraction in _FRACTIONS:
    with contextlib.suppress(BudgetTooSmallError):
      configs[fraction] = fedsynth.config(setup, values, fraction)
  alone = fedsynth.sketch(setup, values, setup.codec_budget)
  measured = [(1.0, [0.0], alone)]
  last = setup.settings.total_rounds
  rounds = sorted({min(round_num, last) for round_num in _ROUNDS})
  probes = probe.measure(_plain_fed_avg(setup), list(configs.values()), rounds)
  for (fraction, config), probed in zip(configs.items(), probes):
    measured.append((fraction, probed.squared_cosines, config.residual))
  averaged = fedsynth.averaged(setup)
  splits = [
    sketch_lib.Split(
      fraction,
      statistics.mean(squares),
      statistics.mean(
        sketch_lib.relative_error(square, sketch, shapes, averaged)
        for square in squares
      ),
    )
    for fraction, squares, sketch in measured
  ]
  for found in splits:
    logging.info('%s', found)
  return sketch_lib.best_split(splits).fraction
