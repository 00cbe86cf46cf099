"""Measures what uploads tell about a client's data, on a trained model.

Trains FedSynth (or goes on, or reads a finished run) for each seed, then lets
some clients upload to the final model, synthetic data and the plain update.
"""

import collections
import dataclasses
import itertools
import pathlib

from absl import flags
import numpy as np
import pandas as pd
import tensorflow_federated as tff
import tqdm

from tff_fedsynth.client import client_work
from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments import tff_contexts
from tff_fedsynth.experiments.methods import registry
from tff_fedsynth.experiments.pictures import showing
from tff_fedsynth.experiments.pictures import uploads
from tff_fedsynth.experiments.records import directory as directory_lib
from tff_fedsynth.experiments.records import grid as grid_lib
from tff_fedsynth.experiments.records import ledger as ledger_lib
from tff_fedsynth.experiments.records import provenance
from tff_fedsynth.experiments.records import recovery
from tff_fedsynth.experiments.records import run_lock
from tff_fedsynth.experiments.reporting import tables
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import run_directory
from tff_fedsynth.experiments.settings import command_flags
from tff_fedsynth.experiments.settings import settings as settings_lib
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.experiments.trust import inference
from tff_fedsynth.models.weights import model_weights_type
from tff_fedsynth.options import option
from tff_fedsynth.payload import encoding


@dataclasses.dataclass(frozen=True)
class Options(settings_lib.Seeds):
  """Flags of the command beside those of its runs."""

  probe_clients: int = option(
    8,
    'Sets how many clients of a round upload, and are compared.',
    group='Privacy',
    minimum=2,
  )


# The round whose clients upload; it was never trained.
_ROUNDS_LATER = 1


def _examples(batches) -> tuple[np.ndarray, np.ndarray]:
  """All examples of a client, each once."""
  inputs, labels = (
    np.concatenate(p) for p in zip(*batches.as_numpy_iterator())
  )
  _, first = np.unique(
    np.reshape(inputs, [len(inputs), -1]), axis=0, return_index=True
  )
  return inputs[first], labels[first]


def _predictor(run: building.Run):
  """Logits of inputs, a computation of weights and inputs."""
  spec = run.model.input_spec[0]

  @tff.tensorflow.computation(
    model_weights_type(run.model),
    tff.TensorType(spec.dtype.as_numpy_dtype, [None, *spec.shape[1:]]),
  )
  def predict(weights, inputs):
    return run.model.predict_on_batch(
      (weights.trainable, weights.non_trainable), inputs, training=False
    )

  return predict


class _Client:
  """One client's data and uploads."""

  def __init__(self, run: building.Run, state, synthesize, batches):
    weights = state.global_model_weights
    self.inputs, self.labels = _examples(batches)
    result = synthesize(state.client_work, weights, batches)
    self.data = encoding.decode(
      run.built.config.spec,
      collections.OrderedDict(result.payload),
      run.model,
      (weights.trainable, weights.non_trainable),
    )
    setup = run.setup
    # What one client does to the model, as the server would see it.
    plain = tff.learning.algorithms.build_weighted_fed_avg(
      run.model, setup.client_optimizer
    )
    self.local_weights = {}
    for name, process in (('update', plain), ('synthetic', run.built.process)):
      start = process.set_model_weights(process.initialize(), weights)
      after = process.next(start, [batches]).state
      self.local_weights[name] = process.get_model_weights(after)
    self.updates = {
      name: [b - a for b, a in zip(weights.trainable, after.trainable)]
      for name, after in self.local_weights.items()
    }


def _rows(run: building.Run, clients, seed: int) -> list[dict]:
  """A row for each client and kind of upload."""
  predict = _predictor(run)
  random = np.random.RandomState(seed)
  test = [
    np.concatenate(p) for p in zip(*run.task.test_data.as_numpy_iterator())
  ]
  num_classes = run.built.config.spec.label_shape[-1]
  rows = []
  for i, client in enumerate(clients):
    others = [c for j, c in enumerate(clients) if j != i]
    images = np.reshape(client.data.inputs, [-1, *client.inputs.shape[1:]])
    scores = np.reshape(client.data.labels, [-1, num_classes]).sum(axis=0)
    if run.built.config.spec.label_form == 'signed':
      scores = (
        -scores
      )  # A gradient in the logits: what is below zero is to grow.
    chosen = inference.matched(client.labels, test[1], random)
    for name, weights in client.local_weights.items():
      loss = lambda x, y, w=weights: inference.cross_entropy(
        np.asarray(predict(w, x)), y
      )
      row = dict(
        seed=seed,
        client=i,
        upload=name,
        labels_from_bias=inference.guessed_labels(
          inference.label_scores_of_update(client.updates[name], num_classes),
          client.labels,
        ),
        labels_by_chance=len(np.unique(client.labels)) / num_classes,
        membership_auc=inference.membership_auc(
          loss(client.inputs, client.labels),
          loss(test[0][chosen], test[1][chosen]),
        ),
      )
      if name == 'synthetic':
        row.update(
          labels_from_synthetic_labels=inference.guessed_labels(
            scores, client.labels
          ),
          nearest_own=inference.nearest_correlation(images, client.inputs),
          nearest_of_others=np.mean(
            [inference.nearest_correlation(images, o.inputs) for o in others]
          ),
        )
      rows.append(row)
  return rows


@tff_contexts.in_any_thread()
def measure(base: Settings, seeds, num_clients: int) -> pd.DataFrame:
  """Measures, and writes cells.csv, table.md and nearest.png.

  Rows of other seeds that stand there are kept.

  Returns:
    A row for each seed, client and upload ('synthetic', or the plain 'update'),
    with shares, correlations and areas under curves, 0 to 1, the columns of
    `provenance`, `command` and `flags`.

  Raises:
    SettingsError: If the task or the method has no images or synthetic data, or
      rows of other flags stand there, or another process writes there.
    FailedCellsError: At the end, if a seed failed.
  """
  directory = directory_lib.check(base.output_dir)
  with run_lock.held(directory):
    return _measure(base, seeds, num_clients, directory)


def _measure(
  base: Settings, seeds, num_clients: int, directory: pathlib.Path
) -> pd.DataFrame:
  if not 2 <= num_clients <= base.clients_per_round:
    raise SettingsError(
      '--probe_clients must be at least 2, own and others, and at most '
      f'--clients_per_round={base.clients_per_round}, found {num_clients}.'
    )
  one_at_a_time = dataclasses.replace(
    base, server_learning_rate=1.0, server_optimizer='sgd'
  )
  if one_at_a_time != base:
    raise SettingsError(
      'What one client does to the model is seen with --server_optimizer=sgd and '
      '--server_learning_rate=1. Leave both at that.'
    )
  ledger = _ledger(base, num_clients)
  ledger.check(
    list(itertools.product(seeds, range(num_clients), ('synthetic', 'update')))
  )
  runs = {
    seed: building.build(
      dataclasses.replace(
        base, seed=seed, output_dir=str(directory / 'runs' / f'seed_{seed}')
      )
    )
    for seed in seeds
  }
  for run in runs.values():
    if run.built.config is None or run.task.token_names is not None:
      raise SettingsError(
        'This measures synthetic images: choose a task with images and a method '
        'with synthetic data.'
      )
    if run.built.config.residual is not None or run.built.privacy is not None:
      raise SettingsError(
        'Residuals and noise would be measured with the synthetic data. Leave '
        'them out.'
      )

  def write(rows):
    frame = ledger.write(rows)
    recovery.write_text(directory / 'table.md', table(frame))
    return frame

  with grid_lib.Grid(write) as grid:
    for seed, run in tqdm.tqdm(runs.items(), unit='seed'):
      with grid.cell(f'seed {seed}'):
        rows, shown = _measure_seed(run, num_clients)
        if grid.table is None:
          uploads.plot_pairs(*shown, directory / 'nearest.png')
        grid.add(*rows)
  return grid.table


def _measure_seed(run: building.Run, num_clients: int):
  """Trains a run, and lets clients upload.

  Returns:
    Rows, and for the first client its synthetic images and the nearest real ones.
  """
  state = showing.train(run)
  synthesize = client_work.build_synthesis_computation(
    run.model,
    config=run.built.config,
    client_optimizer=run.setup.client_optimizer,
    state_type=run.built.process.next.type_signature.parameter[
      0
    ].member.client_work,
  )
  s = run.settings
  batches = run.setup.round_data(s.total_rounds + _ROUNDS_LATER)
  clients = [_Client(run, state, synthesize, b) for b in batches[:num_clients]]
  program = provenance.Program(
    'fedsynth-leakage', dict(seeds=s.seed, probe_clients=num_clients)
  )
  made = provenance.merged(
    provenance.made_by(pathlib.Path(s.output_dir)), provenance.of_process()
  )
  made.update(run_directory.made_again(s, program))
  real = clients[0].inputs
  images = np.reshape(clients[0].data.inputs, [-1, *real.shape[1:]])
  correlations = inference.unit_rows(images) @ inference.unit_rows(real).T
  rows = [{**row, **made} for row in _rows(run, clients, s.seed)]
  return rows, (images, real[correlations.argmax(axis=1)])


def _ledger(base: Settings, num_clients: int) -> ledger_lib.Ledger:
  """The table, which other seeds may stand in already."""
  flags = base.as_flags()
  del flags['seed']
  return ledger_lib.Ledger(
    pathlib.Path(base.output_dir) / 'cells.csv',
    ('seed', 'client', 'upload'),
    {**flags, 'probe_clients': str(num_clients)},
    base,
  )


_MEASURES = {
  'labels_from_synthetic_labels': 'own labels guessed from synthetic labels',
  'labels_from_bias': 'own labels guessed from the bias of the update',
  'labels_by_chance': 'own labels guessed by chance',
  'nearest_own': 'correlation with the nearest own example',
  'nearest_of_others': "correlation with another client's nearest example",
  'membership_auc': 'membership by loss, area under the curve',
}


def table(frame: pd.DataFrame) -> str:
  """Mean +- standard deviation over clients and seeds, as Markdown."""
  rows = []
  for column, meaning in _MEASURES.items():
    cells = []
    for upload in ('synthetic', 'update'):
      values = frame[frame.upload == upload][column].dropna()
      cells.append(tables.spread(values, 3) if len(values) else '')
    rows.append([meaning, *cells])
  marks, notes = tables.code_notes(frame, provenance.of_process())
  made = (
    f'{len(frame)} rows{tables.joined(marks)}, of {frame.seed.nunique()} seeds'
  )
  header = ['', 'synthetic data', 'plain update']
  parts = [
    tables.markdown(header, rows),
    *([made + '.'] if notes else []),
    *notes,
  ]
  return '\n\n'.join(parts) + '\n'


def _main(argv) -> None:
  del argv
  o = command_flags.read(Options)
  base = settings_lib.from_flags(registry.own_options())
  with grid_lib.shown(base.output_dir):
    measure(base, o.seeds, o.probe_clients)


def define_flags(flag_values: flags.FlagValues) -> None:
  """Defines the flags of the command."""
  building.define_flags(flag_values, Options, ('seed',))


def main() -> None:
  """Entry point of `fedsynth-leakage`."""
  cli.start(_main, define_flags)
