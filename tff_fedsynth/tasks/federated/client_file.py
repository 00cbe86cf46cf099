"""Files of federated data, as TFF's `save_to_sql_client_data` writes them.

An SQLite file whose table `examples` holds a `tf.train.Example` a row, with the
client and the split that it belongs to. Shapes are not in it: the numbers of a
column are one list.
"""

import collections
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import functools
import pathlib
import sqlite3
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.tasks.federated.task import TaskError

_ROWS_AT_ONCE = 1000
_FORMAT = (
  'It must be an SQLite file as tff.simulation.datasets.save_to_sql_client_data '
  'writes it.'
)
_KINDS = {
  'bytes_list': tf.string,
  'float_list': tf.float32,
  'int64_list': tf.int64,
}


@dataclasses.dataclass(frozen=True)
class Column:
  """What one example has in a column.

  Attributes:
    dtype: tf.string, tf.float32 or tf.int64.
    size: How many values.
  """

  dtype: tf.DType
  size: int

  def __str__(self) -> str:
    name = {tf.string: 'text', tf.int64: 'integers'}.get(self.dtype, 'floats')
    return f'{self.size} {name}'


def _columns_of(serialized: bytes) -> dict[str, Column]:
  """The columns of one example.

  Raises:
    google.protobuf.message.DecodeError: If it is none.
  """
  example = tf.train.Example.FromString(serialized)
  found = {}
  for name, feature in sorted(example.features.feature.items()):
    kind = feature.WhichOneof('kind')
    if kind is not None:
      size = len(getattr(feature, kind).value)
      found[name] = Column(_KINDS[kind], size)
  return found


@dataclasses.dataclass(frozen=True)
class ClientFile:
  """A file of federated data.

  Attributes:
    path: Where it is.
    option: What the user named it with, for errors.
    advice: What to do about a file that cannot be read.

  `splits` are, by their names, the names of their clients, sorted. `stamp` tells a
  file from another one that was put in its place.

  Raises:
    TaskError: If it is no file of that format, or has no examples.
  """

  path: pathlib.Path
  option: str
  advice: str = _FORMAT
  stamp: int = dataclasses.field(init=False, repr=False)

  def __post_init__(self):
    if not self.path.is_file():
      raise self.error('there is no such file.')
    # Frozen.
    object.__setattr__(self, 'stamp', self.path.stat().st_mtime_ns)
    clients = self.query('SELECT split_name, client_id FROM client_metadata')
    splits = {}
    for split, client in sorted(set(clients)):
      splits.setdefault(split, []).append(client)
    object.__setattr__(self, 'splits', splits)
    if not self.query('SELECT split_name, client_id FROM examples LIMIT 1'):
      raise self.error('there is no example in it.')

  def error(self, message: str) -> TaskError:
    """An error that names the file."""
    return TaskError(f'{self.option}={self.path}: {message}', self.option)

  def query(self, query: str, values: Sequence = ()) -> list[tuple]:
    """The rows that a query gives."""
    return [row for rows in self._rows(query, values) for row in rows]

  def _rows(self, query: str, values: Sequence = ()) -> Iterator[list[tuple]]:
    """The rows that a query gives, many at once."""
    place = f'{self.path.absolute().as_uri()}?mode=ro'
    try:
      with contextlib.closing(sqlite3.connect(place, uri=True)) as connection:
        cursor = connection.execute(query, values)
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
          yield rows
    except sqlite3.Error as e:
      raise self.error(f'it cannot be read ({e}). {self.advice}') from e

  def columns(self) -> dict[str, Column]:
    """What the first example has; others must have the same."""
    ((serialized,),) = self.query(
      'SELECT serialized_example_proto FROM examples LIMIT 1'
    )
    try:
      return _columns_of(serialized)
    except Exception as e:  # Of protobuf, or of a text in place of bytes.
      raise self.error(f'the first row holds no example. {self.advice}') from e

  def column(self, name: str | None, option: str) -> Column:
    """One of the columns.

    Args:
      name: Of the column.
      option: What the user named it with, for errors.

    Raises:
      TaskError: If there is none of that name, or none was named.
    """
    columns = self.columns()
    if name not in columns:
      listed = ', '.join(f'{k!r} ({v})' for k, v in columns.items()) or 'none'
      raise TaskError(
        f'{option} must name a column of {self.path}, found '
        f'{name!r}. Its columns are: {listed}.',
        option,
      )
    return columns[name]

  def text_specs(self, name: str | None, option: str):
    """The specs of a column of texts.

    Raises:
      TaskError: If it is none.
    """
    column = self.column(name, option)
    if column.dtype != tf.string or column.size != 1:
      raise self.error(f'the column {name!r} holds {column}, but not one text.')
    return {name: tf.TensorSpec([], tf.string)}

  def parts(
    self, specs: Mapping[str, tf.TensorSpec], split: str | None
  ) -> Iterator[tuple[list[tuple[str, int]], Mapping[str, tf.Tensor]]]:
    """All examples, many at once.

    Args:
      specs: Of the columns that are wanted, for one example.
      split: Whose examples; `None` for all.

    Yields:
      The client and the number of each of some rows, and their columns.

    Raises:
      TaskError: If an example is not like `specs`.
    """
    # Not in an order: SQLite would copy all examples to sort them.
    for rows in self._rows(
      'SELECT client_id, rowid, serialized_example_proto FROM examples '
      'WHERE ?1 IS NULL OR split_name = ?1',
      [split],
    ):
      clients, numbers, serialized = zip(*rows)
      yield [*zip(clients, numbers)], self._parse(specs, clients, serialized)

  def clients(
    self, specs: Mapping[str, tf.TensorSpec], split: str | None
  ) -> 'FileClients':
    """The clients of a split, whose examples are looked for when they are wanted.

    Args:
      specs: Of the columns that are wanted, for one example.
      split: Whose examples; `None` for all.

    Raises:
      TaskError: If there is no such split.
    """
    if split is not None and split not in self.splits:
      listed = ', '.join(self.splits)
      raise self.error(
        f'there is no split {split!r}. Its splits are: {listed}.'
      )
    parts = self.splits.values() if split is None else [self.splits[split]]
    ids = sorted({client for part in parts for client in part})

    part = 'WHERE (?1 IS NULL OR split_name = ?1)'

    def look_up(client):
      found = self.query(
        f'SELECT rowid FROM examples {part} AND client_id = ?2', [split, client]
      )
      return [number for (number,) in found]

    @functools.cache
    def in_one_pass():
      found = collections.defaultdict(list)
      rows = self.query(
        f'SELECT client_id, rowid FROM examples {part}', [split]
      )
      for client, number in rows:
        found[client].append(number)
      return found

    # Without an index, SQLite would go through the whole file for each client.
    has_index = self.query(
      "SELECT 1 FROM sqlite_master WHERE type = 'index' AND tbl_name = 'examples'"
    )
    find = (
      look_up if has_index else lambda client: in_one_pass().get(client, [])
    )
    return FileClients(self, specs, ids, find)

  def read_clients(
    self,
    specs: Mapping[str, tf.TensorSpec],
    split: str | None,
    look: Callable[[Mapping[str, tf.Tensor]], None],
  ) -> 'FileClients':
    """The clients of a split, after a look at each of their examples.

    Args:
      specs: As for `clients`.
      split: As for `clients`.
      look: Gets the columns of many examples at once.

    Raises:
      TaskError: If there is no such split, or an example is not like `specs`.
    """
    ids = self.clients(specs, split).client_ids
    found = {client: [] for client in ids}
    for places, columns in self.parts(specs, split):
      look(columns)
      for client, number in places:
        found.setdefault(client, []).append(number)
    return FileClients(self, specs, sorted(found), found.get)

  def rows(
    self, specs: Mapping[str, tf.TensorSpec], numbers: Sequence[int]
  ) -> Mapping[str, tf.Tensor]:
    """The columns of some rows, in the order of the file."""
    numbers = sorted(map(int, numbers))
    rows = []
    for i in range(0, len(numbers), _ROWS_AT_ONCE):
      some = numbers[i : i + _ROWS_AT_ONCE]
      rows += self.query(
        'SELECT client_id, serialized_example_proto FROM examples WHERE rowid IN '
        f'({",".join("?" * len(some))}) ORDER BY rowid',
        some,
      )
    clients, serialized = zip(*rows) if rows else ((), ())
    return self._parse(specs, clients, serialized)

  def _parse(self, specs, clients, serialized):
    features = {
      name: tf.io.FixedLenFeature(spec.shape, spec.dtype)
      for name, spec in specs.items()
    }
    try:
      tensor = tf.constant(serialized, tf.string, [len(serialized)])
      return tf.io.parse_example(tensor, features)
    # TensorFlow's own message may be no text.
    except (tf.errors.InvalidArgumentError, TypeError, UnicodeError) as e:
      raise self._first_error(specs, clients, serialized) from e

  def _first_error(self, specs, clients, serialized) -> TaskError:
    """Which example is not as it should be."""
    for client, one in zip(clients, serialized):
      try:
        found = _columns_of(bytes(one))
      except Exception:
        return self.error(
          f'an example of client {client} is broken. {self.advice}'
        )
      for name, spec in specs.items():
        wanted = Column(spec.dtype, spec.shape.num_elements())
        if found.get(name) != wanted:
          return self.error(
            f'the column {name!r} must hold {wanted} as in the first example, but '
            f'one of client {client} has {found.get(name, "none")}.'
          )
    return self.error(f'its examples cannot be read. {self.advice}')


class FileClients(tff.simulation.datasets.ClientData):
  """Clients of a file, read one by one.

  `find(client)` gives the numbers of a client's rows.
  """

  def __init__(
    self,
    file: ClientFile,
    specs: Mapping[str, tf.TensorSpec],
    client_ids: Sequence[str],
    find: Callable[[str], Sequence[int]],
  ):
    super().__init__()
    self._file = file
    self._specs = collections.OrderedDict(specs)
    self._client_ids = list(client_ids)
    self.find = find

  @property
  def client_ids(self) -> list[str]:
    return self._client_ids

  @property
  def element_type_structure(self) -> Any:
    return self._specs

  @property
  def serializable_dataset_fn(self) -> Any:
    raise NotImplementedError('Clients are read outside of TensorFlow.')

  def create_tf_dataset_for_client(self, client_id: str) -> tf.data.Dataset:
    columns = self.read(self.find(client_id))
    return tf.data.Dataset.from_tensor_slices(columns)

  def read(self, numbers: Sequence[int]) -> Mapping[str, tf.Tensor]:
    """The columns of some rows."""
    return self._file.rows(self._specs, numbers)

  def only(self, client_ids: Sequence[str]) -> 'FileClients':
    """Some of them."""
    return FileClients(self._file, self._specs, client_ids, self.find)
