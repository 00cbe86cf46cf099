"""Times rounds of FedSynth beside those of TFF's FedAvg, on the same clients."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import pathlib
import statistics
import time

import psutil
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth import budget as budget_lib
from tff_fedsynth import learning_process
from tff_fedsynth import tff_worker
from tff_fedsynth.client import local_training
from tff_fedsynth.client import synthesis
from tff_fedsynth.client.config import SynthesisConfig
from tff_fedsynth.experiments import tff_contexts
from tff_fedsynth.models import from_keras
from tff_fedsynth.models import weights as weights_lib
from tff_fedsynth.tasks import TASKS
from tff_fedsynth.tasks.federated import task as task_lib

_MAX_EXAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Workload:
  """What clients train on, and how.

  Attributes:
    build_task: Makes the data.
    epochs: Passes of a client over its data.
    batch_size: Examples in a real batch.
    optimizer: Of the clients.
  """

  build_task: Callable[[], task_lib.Task]
  epochs: int
  batch_size: int
  optimizer: tff.learning.optimizers.Optimizer


_SGD = tff.learning.optimizers.build_sgdm
# 40 digits a client: 10 epochs in batches of 20 are 20 real batches.
_DIGITS = Workload(
  lambda: TASKS['mnist_digits'].build(
    num_clients=100, partition='shards', seed=0
  ),
  10,
  20,
  _SGD(0.1),
)
# Four digits a client: one real batch.
CROWD = Workload(
  lambda: TASKS['mnist_digits'].build(
    num_clients=1000, partition='iid', seed=0
  ),
  1,
  4,
  _SGD(0.1),
)


def _text(task: str) -> Workload:
  """Trained as in the flagfiles paper_plays and paper_chat, on more data."""
  optimizer = local_training.ClippedOptimizer(_SGD(2.0), 5.0)
  return Workload(lambda: TASKS[task].build(seed=0), 1, 4, optimizer)


WORKLOADS = {
  'mlp': _DIGITS,
  'cnn': _DIGITS,
  'small_character_lstm': _text('plays_character'),
  'small_word_lstm': _text('chat_word'),
}
_ANSWER_SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class Case:
  """One setting of FedSynth, or FedAvg where the objective is empty.

  With a ratio, the rule decides on the synthetic data; without one they are `steps`
  batches of 4-bit images at half their side.
  """

  objective: str = ''
  ratio: int = 0
  steps: int = 1
  batch_size: int = 10
  clients: int = 10
  use_xla: bool = False

  def __str__(self):
    if not self.objective:
      return f'FedAvg, {self.clients} clients'
    xla = ', XLA' if self.use_xla else ''
    data = f'{self.steps} x {self.batch_size}'
    if self.ratio:
      data = f'1/{self.ratio}'
    return f'{self.objective}, {data}{xla}, {self.clients} clients'


UPDATE_L2 = Case('update_l2')


class Bench:
  """Builds and times cases for one model."""

  def __init__(
    self, model_name: str, rounds: int, load: Workload | None = None
  ):
    self._rounds = rounds
    self._load = load or WORKLOADS[model_name]
    self._task = self._load.build_task()
    self.model = from_keras.from_keras(
      self._task.models[model_name](0), ignored_labels=self._task.ignored_labels
    )
    self._optimizer = self._load.optimizer

  def config(self, case: Case) -> SynthesisConfig:
    """How a case learns."""
    if case.ratio:
      budget = weights_lib.model_bytes(self.model) // case.ratio
      spec = budget_lib.spec_for_budget(self.model, budget)
    else:
      spec = budget_lib.build_spec(
        self.model,
        steps=case.steps,
        batch_size=case.batch_size,
        bits=4,
        resolution=14,
      )
    return SynthesisConfig(spec, objective=case.objective, use_xla=case.use_xla)

  def process(self, case: Case) -> tff.learning.templates.LearningProcess:
    """TFF's FedAvg, or FedSynth with an objective."""
    if not case.objective:
      return tff.learning.algorithms.build_weighted_fed_avg(
        self.model, self._optimizer
      )
    return learning_process.build_fedsynth(
      self.model, self._optimizer, config=self.config(case)
    )

  def _data(self, clients: int) -> list[tf.data.Dataset]:
    return [
      task_lib.client_batches(
        self._task,
        c,
        epochs=self._load.epochs,
        batch_size=self._load.batch_size,
        seed=0,
      )
      for c in self._task.train_data.client_ids[:clients]
    ]

  def time(self, cases: list[Case]) -> list[tuple[float, float, float]]:
    """Median seconds a round, those of the first one, and peak memory in MiB.

    Cases take turns, so that a slow minute of the machine hits all of them;
    memory is read in a worker of its own.
    """
    processes = [self.process(case) for case in cases]
    states, first, memory = [], [], []
    for case, process in zip(cases, processes, strict=True):
      tff_worker.end_workers()
      # The first round also traces and compiles.
      data, state = self._data(case.clients), process.initialize()
      start = time.perf_counter()
      output = process.next(state, data)
      first.append(time.perf_counter() - start)
      states.append(output.state)
      memory.append(peak_memory())
    seconds = [[] for _ in cases]
    # A new worker compiles again.
    for measured in [False] + [True] * self._rounds:
      for i, (case, process) in enumerate(zip(cases, processes, strict=True)):
        data = self._data(case.clients)
        start = time.perf_counter()
        process.next(states[i], data)
        if measured:
          seconds[i].append(time.perf_counter() - start)
    medians = map(statistics.median, seconds)
    return list(zip(medians, first, memory, strict=True))

  def time_workers(self, case: Case, counts: Sequence[int]) -> list[float]:
    """Median seconds a round with so many workers, each with one core."""
    process = self.process(case)
    stack = tff.framework.get_context_stack()
    previous, medians = stack.current, []
    for count in counts:
      with _pinned_workers(count) as addresses:
        try:
          tff.framework.set_default_context(
            tff_contexts.RemoteWorkers(addresses, _ANSWER_SECONDS)
          )
          state, seconds = process.initialize(), []
          for _ in range(self._rounds + 1):
            data = self._data(case.clients)
            start = time.perf_counter()
            process.next(state, data)
            seconds.append(time.perf_counter() - start)
        finally:
          tff.framework.set_default_context(previous)
      medians.append(statistics.median(seconds[1:]))
    return medians

  def tff_overhead(self, case: Case) -> float:
    """Seconds of a round of one client over the same loop in one tf.function."""
    alone = dataclasses.replace(case, clients=1)
    process = self.process(alone)
    state = process.initialize()
    (data,) = self._data(1)
    x, y = next(iter(data.unbatch().batch(_MAX_EXAMPLES)))
    x, y = x.numpy(), y.numpy()
    # Keras models inside a FunctionalModel work in graphs only.
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(
        self._load.batch_size
      )
      weights = tf.nest.map_structure(tf.constant, self.model.initial_weights)

      @tf.function
      def synthesize(weights):
        result = synthesis.synthesize(
          self.model,
          weights,
          batches,
          config=self.config(alone),
          client_optimizer=self._optimizer,
          client_hparams=None,
          synthesis_hparams=None,
          seed=tf.constant([0, 0]),
        )
        return list(result.payload.values())

      fetched = synthesize(weights)
      ratios = []
      for _ in range(self._rounds + 1):
        start = time.perf_counter()
        process.next(state, [data])
        middle = time.perf_counter()
        session.run(fetched)
        end = time.perf_counter()
        ratios.append((middle - start) / (end - middle))
    return statistics.median(ratios[1:])


@contextlib.contextmanager
def _pinned_workers(count: int) -> Iterator[list[str]]:
  """Starts workers, each on a core of its own, and yields their addresses."""
  cores = psutil.Process().cpu_affinity()
  ports, processes = [], []
  try:
    for i in range(count):
      ports.append(tff_worker.unused_port())
      processes.append(tff_worker.start(ports[-1]))
      psutil.Process(processes[-1].pid).cpu_affinity([cores[i % len(cores)]])
    yield [f'localhost:{port}' for port in ports]
  finally:
    for process in processes:
      process.kill()
      process.wait()


def peak_memory() -> float:
  """Peak resident memory of the only worker, in MiB (Linux)."""
  (process,) = tff_worker.worker_processes()
  for line in pathlib.Path(f'/proc/{process.pid}/status').open(
    encoding='utf-8'
  ):
    if line.startswith('VmHWM'):
      return int(line.split()[1]) / 1024
  raise RuntimeError('/proc does not say the peak memory.')
