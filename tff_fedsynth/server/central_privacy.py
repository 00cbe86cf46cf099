"""Central differential privacy of the decoded updates; pure TensorFlow.

The server clips every decoded update to a norm C, adds them, adds Gaussian
noise of standard deviation z C, and divides by a fixed number of clients
(McMahan et al. 2018, arXiv 1710.06963, algorithm 1, with a fixed denominator). A
client changes the sum by no more than C, whatever it sends, as long as nothing
else depends on its data: its weight, the denominator, or what others are
clipped to. The guarantee is about the models, seen by others than the server;
the server itself sees each payload, and metrics of training are not covered.
"""

import dataclasses
import functools

import dp_accounting
from dp_accounting import rdp
import tensorflow as tf

from tff_fedsynth import errors
from tff_fedsynth import options
from tff_fedsynth.updates import Update

_option = functools.partial(options.option, group='Trust')


class PrivacyError(errors.OptionError):
  """Options that would break the guarantee; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class CentralPrivacy:
  """How noisy the mean of the updates is.

  Attributes:
    clip_norm: C, the largest norm of an update.
    noise_multiplier: z, the noise of the sum over C.
    clients_per_round: What the sum is divided by, even if some are rejected.
    delta: Of (epsilon, delta); below 1 over all clients to mean something.

  Raises:
    PrivacyError: If a number is out of its range.
  """

  clip_norm: float = _option(
    dataclasses.MISSING,
    'Makes models differentially private: clips decoded updates to this norm.',
    default_text='no clipping',
    above=0,
  )
  noise_multiplier: float = _option(
    dataclasses.MISSING,
    'Makes models differentially private: sets the noise of the sum of updates '
    'over the norm that they are clipped to.',
    default_text='no noise',
    above=0,
  )
  clients_per_round: int = options.limited(minimum=1)
  delta: float = _option(
    1e-5,
    'Sets the delta of differential privacy, for which epsilon is told.',
    above=0,
    below=1,
  )

  def __post_init__(self):
    options.check(self, PrivacyError)

  def noisy_mean(self, sums: Update) -> Update:
    """The sums of clipped updates plus noise, over the fixed denominator.

    The noise has no seed: who could draw it again could take it away.
    """
    stddev = self.clip_norm * self.noise_multiplier
    return tuple(
      (s + tf.random.normal(s.shape, stddev=stddev, dtype=s.dtype))
      / self.clients_per_round
      for s in sums
    )

  def epsilon(self, num_clients: int, rounds: int) -> float:
    """Epsilon after some rounds, by Renyi accounting (Wang et al. 2019).

    Neighbours differ in the data of one client, which changes the sum by up to
    2 C. Each round draws its clients without replacement.

    Args:
      num_clients: The clients that a round draws from.
      rounds: The rounds that were run.

    Raises:
      PrivacyError: If a round draws more clients than there are, or an argument is
        no number from 1.
    """
    for name, value in (('num_clients', num_clients), ('rounds', rounds)):
      if not (options.is_integer(value) and value > 0):
        raise PrivacyError(
          f'{name} must be a whole number from 1, found {value}.', name
        )
    if num_clients < self.clients_per_round:
      raise PrivacyError(
        f'A round draws {self.clients_per_round} clients, but num_clients is '
        f'{num_clients}. Give all clients that rounds draw from, or lower '
        'clients_per_round.',
        'clients_per_round',
        'num_clients',
      )
    gaussian = dp_accounting.GaussianDpEvent(self.noise_multiplier / 2)
    accountant = rdp.RdpAccountant(
      neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE
    )
    event = dp_accounting.SampledWithoutReplacementDpEvent(
      num_clients, self.clients_per_round, gaussian
    )
    accountant.compose(dp_accounting.SelfComposedDpEvent(event, rounds))
    return float(accountant.get_epsilon(self.delta))
