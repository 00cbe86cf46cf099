"""What a server does with decoded updates does not depend on who encoded them."""

import numpy as np
import pytest
import small_process
import tensorflow_federated as tff

from baselines.aggregation import CodecSumFactory
from baselines.drive import Drive
from baselines.low_rank import LowRank
from baselines.random_mask import RandomMask
from baselines.sign import Sign
from tff_fedsynth import build_codec_fed_avg
from tff_fedsynth import CentralPrivacy
from tff_fedsynth import communication
from tff_fedsynth import Defense
from tff_fedsynth import OptionError
from tff_fedsynth import ServerConfig
from tff_fedsynth.compression.codec import CodecError
from tff_fedsynth.server import collection
from tff_fedsynth.server.config import PrivacyError

SGD = tff.learning.optimizers.build_sgdm
UNIFORM = tff.learning.ClientWeighting.UNIFORM
MODEL = small_process.MODEL
EXACT = RandomMask(53)
CODECS = [Drive(40), LowRank((1, 0, 1, 0)), Sign()]


def _build(codec=EXACT, weighting=UNIFORM, **server):
  return build_codec_fed_avg(
    MODEL,
    SGD(0.1),
    codec=codec,
    client_weighting=weighting,
    server=ServerConfig(**server),
  )


@pytest.fixture(scope='module')
def alone():
  """The updates of three clients, each in a round of its own."""
  process = _build()
  return np.stack(
    [small_process.moved(process, [c])[0] for c in small_process.clients()]
  )


@pytest.mark.parametrize('codec', CODECS, ids=str)
def test_without_a_defense_it_is_the_sum_of_messages(codec):
  ours = _build(codec)
  theirs = tff.learning.algorithms.build_weighted_fed_avg(
    MODEL,
    SGD(0.1),
    client_weighting=UNIFORM,
    model_aggregator=tff.aggregators.MeanFactory(CodecSumFactory(codec)),
  )
  assert communication.uplink_bytes(ours) == communication.uplink_bytes(theirs)
  moved, metrics = small_process.moved(ours, small_process.clients())
  expected, _ = small_process.moved(theirs, small_process.clients())
  assert np.abs(moved).max() > 0
  np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-6)
  assert metrics['finalizer']['rejected_clients'] == 0


@pytest.mark.parametrize('aggregation', ['median', 'trimmed_mean'])
def test_robust_means(alone, aggregation):
  process = _build(defense=Defense(aggregation=aggregation, trim=0.34))
  moved, _ = small_process.moved(process, small_process.clients())
  # Of three, both leave the lowest and the highest value out.
  np.testing.assert_allclose(moved, np.median(alone, axis=0), atol=1e-6)


def test_updates_are_clipped():
  process = _build(defense=Defense(update_clip_norm=1e-3))
  moved, _ = small_process.moved(process, small_process.clients(1))
  assert np.linalg.norm(moved) == pytest.approx(1e-3, rel=1e-4)


@pytest.mark.parametrize('codec', CODECS, ids=str)
def test_a_malicious_client_moves_a_private_model_no_further_than_the_bound(
  codec,
):
  def lying(payload_type):
    honest = collection.build_collection(payload_type)

    @tff.federated_computation(*honest.next.type_signature.parameter)
    def next_fn(state, payloads, weights):
      output = honest.next(state, payloads, weights)

      @tff.tensorflow.computation(output.result.type_signature.member)
      def turn_round(collected):
        for name, values in collected['payloads'].items():
          if values.dtype.is_floating:
            collected['payloads'][name] = -1e3 * values
        return collected

      return tff.templates.MeasuredProcessOutput(
        output.state,
        tff.federated_map(turn_round, output.result),
        output.measurements,
      )

    return tff.templates.AggregationProcess(honest.initialize, next_fn)

  privacy = CentralPrivacy(0.5, 1e-6, clients_per_round=2)
  process = _build(codec, privacy=privacy, collection_fn=lying)
  moved, _ = small_process.moved(process, small_process.clients(1))
  assert np.linalg.norm(moved) == pytest.approx(0.25, rel=1e-3)


def test_what_cannot_be_built_is_refused():
  with pytest.raises(PrivacyError, match='uniform client_weighting'):
    _build(
      weighting=tff.learning.ClientWeighting.NUM_EXAMPLES,
      privacy=CentralPrivacy(1.0, 1.0, 2),
    )
  with pytest.raises(CodecError, match='does not fit'):
    _build(RandomMask(54))
  with pytest.raises(TypeError, match='must be a tff.learning.models'):
    build_codec_fed_avg(lambda: None, SGD(0.1), codec=EXACT)
  with pytest.raises(OptionError, match='seed'):
    build_codec_fed_avg(MODEL, SGD(0.1), codec=EXACT, seed=2**31)
