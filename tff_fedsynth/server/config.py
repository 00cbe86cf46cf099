"""What a server does with decoded updates: defense, averaging and privacy."""

from collections.abc import Callable
import dataclasses
import functools

import dp_accounting
from dp_accounting import rdp
import tensorflow_federated as tff

from tff_fedsynth import errors
from tff_fedsynth import options
from tff_fedsynth.server import collection

_option = functools.partial(options.option, group='Trust')


class PrivacyError(errors.OptionError):
  """Options that would break the guarantee; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Defense:
  """What the server refuses, and how it averages what is left.

  A server sees what each client's data do, so every defense that needs single
  updates can be had: bounds, clipping, and means that a few malicious clients
  cannot move.

  Attributes:
    max_value: Largest magnitude of a decoded input or label.
    max_step_size: Largest magnitude of a step size.
    max_scale: Largest magnitude of a final scale.
    max_client_weight: Weight that larger ones count as; `None` for no limit.
    update_clip_norm: Norm that longer updates are clipped to; 'adaptive' for
      twice the median norm of the round; `None` for no clipping.
    aggregation: 'mean', weighted by clients; or 'median' or 'trimmed_mean' of
      each coordinate, which take memory for all updates of a round, and no
      weights.
    trim: Share of clients that 'trimmed_mean' leaves out at each end.

  Raises:
    OptionError: If a field is out of its range.
  """

  max_value: float = options.limited(1e4, above=0, is_infinite=True)
  max_step_size: float = options.limited(1e4, above=0, is_infinite=True)
  max_scale: float = options.limited(1e6, above=0, is_infinite=True)
  max_client_weight: float | None = _option(
    None,
    'Lets no client weigh more than this.',
    default_text='no limit',
    above=0,
  )
  update_clip_norm: float | str | None = _option(
    None,
    'Clips decoded updates to this norm; adaptive is twice the median norm of '
    'the round.',
    default_text='no clipping',
    above=0,
    words=('adaptive',),
  )
  aggregation: str = _option(
    'mean',
    'Chooses the mean of decoded updates: weighted, or robust against malicious '
    'clients.',
    ('mean', 'median', 'trimmed_mean'),
  )
  trim: float = options.limited(0.2, minimum=0, below=0.5)

  def __post_init__(self):
    options.check(self)


@dataclasses.dataclass(frozen=True)
class CentralPrivacy:
  """Central differential privacy of the decoded updates.

  The server clips every decoded update to a norm C, adds them, adds Gaussian
  noise of standard deviation z C, and divides by a fixed number of clients
  (McMahan et al. 2018, arXiv 1710.06963, algorithm 1, with a fixed
  denominator). A client changes the sum by no more than C, whatever it sends,
  as long as nothing else depends on its data: its weight, the denominator, or
  what others are clipped to. The guarantee is about the models, seen by others
  than the server; the server itself sees each payload, and metrics of training
  are not covered.

  Attributes:
    clip_norm: C, the largest norm of an update.
    noise_multiplier: z, the noise of the sum over C.
    clients_per_round: Number that the sum is divided by, even if some clients
      are rejected.
    delta: Delta of (epsilon, delta); below 1 over all clients to mean something.

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

  def epsilon(self, num_clients: int, rounds: int) -> float:
    """Computes epsilon after some rounds, by Renyi accounting (Wang et al. 2019).

    Neighbours differ in the data of one client, which changes the sum by up to
    2 C. Each round draws its clients without replacement.

    Args:
      num_clients: Number of clients that a round draws from.
      rounds: Number of rounds that were run.

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


@dataclasses.dataclass(frozen=True)
class ServerConfig:
  """How messages are collected, defended against and averaged.

  Attributes:
    defense: What the server refuses, and how it averages the rest.
    privacy: Central differential privacy of the models; `None` for none.
    collection_fn: Function from the type of a message to the process that
      carries messages to the server; another one simulates malicious clients.

  Raises:
    PrivacyError: If `privacy` and `defense` do not go together.
  """

  defense: Defense = Defense()
  privacy: CentralPrivacy | None = None
  collection_fn: Callable[
    [tff.types.StructType], tff.templates.AggregationProcess
  ] = collection.build_collection

  def __post_init__(self):
    if self.privacy is None:
      return
    for name, only in (
      ('aggregation', 'mean'),
      ('update_clip_norm', None),
      ('max_client_weight', None),
    ):
      value = getattr(self.defense, name)
      if value != only:
        raise PrivacyError(
          f'{name}={value} cannot be combined with differential privacy, which '
          'clips and averages in its own way, every client alike. Leave it out.',
          name,
        )

  @property
  def clip_norm(self) -> float | str | None:
    """Norm that updates are clipped to, of the privacy or the defense."""
    if self.privacy is not None:
      return self.privacy.clip_norm
    return self.defense.update_clip_norm

  def check_weighting(
    self, client_weighting: tff.learning.ClientWeighting
  ) -> None:
    """Raises `PrivacyError` where weights would tell of clients."""
    uniform = client_weighting is tff.learning.ClientWeighting.UNIFORM
    if self.privacy is not None and not uniform:
      raise PrivacyError(
        'Differential privacy weighs all clients alike: how many examples one '
        'has is private too. Choose uniform client_weighting.'
      )


DEFAULT = ServerConfig()
