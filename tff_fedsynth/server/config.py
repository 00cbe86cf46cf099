"""What a server does with decoded updates, whoever encoded them."""

from collections.abc import Callable
import dataclasses

import tensorflow_federated as tff

from tff_fedsynth.server import collection
from tff_fedsynth.server.central_privacy import CentralPrivacy
from tff_fedsynth.server.central_privacy import PrivacyError
from tff_fedsynth.server.defense import Defense


@dataclasses.dataclass(frozen=True)
class ServerConfig:
  """How messages are collected, defended against and averaged.

  Attributes:
    defense: What the server refuses, and how it averages the rest.
    privacy: Central differential privacy of the models; the module
      `central_privacy` says of what.
    collection_fn: From the type of a message to the process that carries messages
      to the server; another one simulates clients that lie.

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
  def clips(self) -> bool:
    """Whether the norm of each update counts."""
    return self.privacy is not None or (
      self.defense.update_clip_norm is not None
    )

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
