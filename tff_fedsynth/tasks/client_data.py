"""Classification of anybody's data: an SQLite file of clients, and its columns."""

import dataclasses

from tff_fedsynth import options
from tff_fedsynth.options import option
from tff_fedsynth.tasks import labeled
from tff_fedsynth.tasks.federated import own_clients
from tff_fedsynth.tasks.federated import task as task_lib


@dataclasses.dataclass(frozen=True)
class Options(own_clients.Options, task_lib.EvaluationOptions):
  """Flags of the task."""

  label: str | None = option(
    None,
    'Names the column of labels in a file of clients: class numbers from 0. It '
    'must be given.',
    group='Data',
  )
  feature_shape: str | None = option(
    None,
    'Sets the shape of an example, as 32x32x3 or 784.',
    group='Data',
    default_text='a square image of 1 or 3 channels if there are so many numbers, '
    'else a vector',
  )
  feature_divisor: float = option(
    1.0,
    'Divides the inputs by a number: 255 for pixels in integers.',
    group='Data',
    above=0,
  )

  @property
  def shape(self) -> tuple[int, ...] | None:
    """What `feature_shape` says.

    Raises:
      OptionError: If it says none.
    """
    if self.feature_shape is None:
      return None
    sizes = self.feature_shape.split('x')
    if not all(s.isdecimal() and 0 < int(s) for s in sizes):
      raise options.OptionError(
        'feature_shape must be sizes with an x between them, as 28x28x1, found '
        f'{self.feature_shape!r}.',
        'feature_shape',
      )
    return tuple(map(int, sizes))

  def __post_init__(self):
    super().__post_init__()
    _ = self.shape


def build(*, seed: int, **fields) -> task_lib.Task:
  """Builds the task.

  Args:
    seed: Not used: the split is that of the file.
    **fields: Of `Options`.

  Raises:
    OptionError, TaskError: If files or their columns are not as they must be.
  """
  del seed
  o = Options(**fields)
  files = o.open()
  columns = labeled.columns_of(
    files[0], o.features, o.label, o.shape, o.feature_divisor
  )
  parts = own_clients.split(
    o, files, lambda file, split: labeled.read(file, columns, split)
  )
  return labeled.build(
    'client_data',
    columns,
    **parts,
    test_examples=o.test_examples,
    # The divisor says on which scale all numbers are, of any type.
    to_raw=task_lib.as_in_column
    if columns.dtype.is_integer or o.feature_divisor == 1
    else lambda x, dtype: x,
  )
