"""Clients of a user's own files: which of them train, and which are the test."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import logging
import pathlib
from typing import Any

from tff_fedsynth import options
from tff_fedsynth.options import option
from tff_fedsynth.tasks.federated import task as task_lib
from tff_fedsynth.tasks.federated.client_file import ClientFile
from tff_fedsynth.tasks.federated.client_file import FileClients

_LOGGER = logging.getLogger(__name__)
_TRAIN, _TEST = 'train', 'test'


@dataclasses.dataclass(frozen=True)
class Options:
  """Flags of tasks on a user's own files."""

  client_data: str | None = option(
    None,
    "Names an SQLite file of clients, as TFF's save_to_sql_client_data writes "
    'them. Clients of its splits train and test are used as such, if it has both. '
    'It must be given.',
    group='Data',
    is_file=True,
  )
  test_client_data: str | None = option(
    None,
    'Names another such file, all of it for the test; then all clients of the '
    'first one train.',
    group='Data',
    is_file=True,
  )
  test_client_share: float = option(
    0.1,
    'Holds out this share of the clients for the test, at even distances in the '
    'order of their names, where neither a split nor a file is for it.',
    group='Data',
    above=0,
    below=1,
  )
  features: str | None = option(
    None,
    'Names the column of inputs in a file of clients: numbers, or text. It must '
    'be given.',
    group='Data',
  )

  def __post_init__(self):
    options.check(self)
    if self.client_data is None:
      raise task_lib.TaskError(
        'client_data is required by this task: name an SQLite file as '
        'tff.simulation.datasets.save_to_sql_client_data writes it.',
        'client_data',
      )

  def open(self) -> tuple[ClientFile, ClientFile | None]:
    """The file of clients, and that of the test, if there is one.

    Raises:
      TaskError: If they are none.
    """
    test = self.test_client_data
    return (
      ClientFile(pathlib.Path(self.client_data), 'client_data'),
      test and ClientFile(pathlib.Path(test), 'test_client_data'),
    )


def split(
  o: Options,
  files: tuple[ClientFile, ClientFile | None],
  read: Callable[[ClientFile, str | None], tuple[FileClients, Any]],
) -> Mapping[str, tuple[FileClients, Any]]:
  """Clients that train and those of the test.

  Args:
    o: Where they are.
    files: Of `o.open`.
    read: From a file and a split, or `None` for all of it, to clients and what
      else was found.

  Returns:
    Clients, and what else was found, for `train` and `test`.

  Raises:
    TaskError: If there are too few clients to hold some out; and those of `read`.
  """
  file, test_file = files
  if test_file is not None:
    return {_TRAIN: read(file, None), _TEST: read(test_file, None)}
  if {_TRAIN, _TEST} <= file.splits.keys():
    return {name: read(file, name) for name in (_TRAIN, _TEST)}
  clients, found = read(file, None)
  ids = clients.client_ids
  if len(ids) < 2:
    raise file.error(
      'it has one client, and none can be held out for the test. Name a file '
      'for it as test_client_data.'
    )
  most = max(1, round(o.test_client_share * len(ids)))
  held_out = task_lib.spread(ids, min(most, len(ids) - 1))
  _LOGGER.info('%d of %d clients are held out.', len(held_out), len(ids))
  kept = sorted(set(ids) - set(held_out))
  return {
    _TRAIN: (clients.only(kept), found),
    _TEST: (clients.only(held_out), found),
  }
