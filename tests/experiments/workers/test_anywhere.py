"""Training in notebooks, whose loop runs, and in threads, without a context."""

import asyncio
import pathlib
import threading

import fault_injection
import pytest
import small_runs
import tensorflow_federated as tff

from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.workers import anywhere
from tff_fedsynth.experiments.workers import contexts


def _settings(directory):
  return Settings(
    output_dir=str(directory),
    method='fedavg',
    clients_per_round=2,
    local_epochs=1,
    batch_size=50,
    total_rounds=1,
    options={'num_clients': 40},
  )


@pytest.fixture(autouse=True)
def loops_are_as_at_the_start():
  yield
  asyncio.set_event_loop_policy(None)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run that was executed as ever."""
  run = building.build(_settings(tmp_path_factory.mktemp('runs') / 'plain'))
  runner.execute(run)
  return run


def _assert_same(run, directory):
  found = fault_injection.metrics(directory)
  assert found == fault_injection.metrics(pathlib.Path(run.settings.output_dir))


def _in_thread(function):
  """What a function returns in another thread, or its error."""
  results = []

  def target():
    try:
      results.append(function())
    except BaseException as e:
      results.append(e)

  thread = threading.Thread(target=target)
  thread.start()
  thread.join()
  return results[0]


def test_a_loop_that_runs_is_put_aside(run, tmp_path):
  async def notebook():
    loop = asyncio.get_running_loop()
    later = loop.create_task(asyncio.sleep(0, 'done'))
    summary = runner.execute(
      small_runs.changed(run, output_dir=str(tmp_path / 'run'))
    )
    assert asyncio.get_running_loop() is loop
    return summary, await later

  summary, done = asyncio.run(notebook())
  assert done == 'done'
  _assert_same(run, tmp_path / 'run')
  assert summary == runner.read_summary(_settings(tmp_path / 'run'))


def test_the_loop_of_a_thread_is_left_as_it_was():
  loop = asyncio.new_event_loop()
  asyncio.set_event_loop(loop)
  try:
    with pytest.raises(ZeroDivisionError), anywhere.event_loop() as other:
      assert asyncio.get_event_loop() is other
      _ = 1 / 0
    assert asyncio.get_event_loop() is loop and not loop.is_closed()
    assert other.is_closed()
  finally:
    loop.close()


def test_a_run_is_built_and_executed_in_a_thread(run, tmp_path):
  def thread():
    built = building.build(_settings(tmp_path / 'run'))
    return runner.execute(built)

  summary = _in_thread(thread)
  assert summary['rounds'] == 1, summary
  _assert_same(run, tmp_path / 'run')


def test_threads_share_a_context_and_lose_it_again():
  @tff.tensorflow.computation
  def one():
    return 1

  @anywhere.computing()
  def compute():
    return one(), tff.framework.get_context_stack().current

  (result, context), (again, other) = _in_thread(compute), _in_thread(compute)
  assert result == again == 1 and context is other
  error = _in_thread(one)
  assert isinstance(error, RuntimeError) and 'context' in str(error)


def test_a_local_worker_outlives_the_thread_that_used_it_first():
  @tff.tensorflow.computation
  def one():
    return 1

  context = contexts.LocalWorker(60.0)

  def compute():
    tff.framework.set_default_context(context)
    return one(), context._process.pid

  try:
    first, second = _in_thread(compute), _in_thread(compute)
    assert first == second and first[0] == 1
  finally:
    context.stop()
