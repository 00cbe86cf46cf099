"""The three tasks of the paper train on small files in TFF's format."""

import csv

import fault_injection
import federated_files
import pytest
import small_runs

from tff_fedsynth.experiments.running import rounds


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  """A directory with all that TFF would download; nothing else is read."""
  directory = tmp_path_factory.mktemp('cache')
  federated_files.write_emnist(directory, sizes=(20, 33, 1))
  federated_files.write_shakespeare(directory)
  federated_files.write_stackoverflow(directory)
  words = directory / 'stackoverflow.word_count'
  words.write_text('a 9\nsort 8\nlist 7\nthe 6\n! 5\n? 4\n. 3\n')
  return directory


def _train(directory, cache, task, **kwargs):
  asked = dict(
    local_epochs=4, batch_size=4, rounds_per_evaluation=2, total_rounds=4
  )
  return small_runs.train(
    directory,
    task=task,
    cache_dir=str(cache),
    num_clients=None,
    **{**asked, **kwargs},
  )


def _losses(directory):
  with (directory / rounds.METRICS).open() as file:
    rows = list(csv.DictReader(file))
  return {
    int(row['round']): float(row[rounds.LOSS])
    for row in rows
    if row[rounds.LOSS]
  }, rows


@pytest.mark.parametrize(
  'task, model',
  [
    ('emnist_character', 'mlp'),
    ('shakespeare_character', 'small_character_lstm'),
    ('stackoverflow_word', 'small_word_lstm'),
  ],
)
def test_fed_avg_learns(task, model, cache, tmp_path):
  summary = _train(tmp_path, cache, task, method='fedavg', model=model)
  losses, rows = _losses(tmp_path)
  # Evaluated every other round, and before the first one.
  assert sorted(losses) == [0, 2, 4]
  assert losses[4] < losses[0]
  # Seconds of evaluation are not among those of training.
  evaluated = [float(r[rounds.EVALUATION_SECONDS] or 0) > 0 for r in rows]
  assert evaluated == [True, False, True, False, True]
  assert summary['seconds_per_evaluation'] > 0


def test_fedsynth_trains_on_62_classes(cache, tmp_path):
  summary = _train(
    tmp_path,
    cache,
    'emnist_character',
    model='mlp',
    compression_ratio=500,
    local_epochs=1,
    total_rounds=1,
    rounds_per_evaluation=1,
  )
  assert summary['uplink_bytes'] <= summary['model_bytes'] / 500
  *_, last = fault_injection.metrics(tmp_path)
  assert float(last['finalizer/rejected_clients']) == 0
