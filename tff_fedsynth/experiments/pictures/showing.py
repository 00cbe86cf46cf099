"""Shows what a client uploads: in files, and over the rounds in TensorBoard."""

import collections
import dataclasses
import functools
import io
import pathlib
from typing import Any

import matplotlib.image
import tensorflow as tf
import tqdm

from tff_fedsynth.client import client_work
from tff_fedsynth.experiments.pictures import show_text
from tff_fedsynth.experiments.pictures import uploads
from tff_fedsynth.experiments.running import building
from tff_fedsynth.experiments.running import runner
from tff_fedsynth.payload import encoding

_NAME = 'synthetic'


class Uploads(runner.Watcher):
  """Lets clients of a run upload, and shows it; nothing without synthetic data."""

  def __init__(self, run):
    """Prepares what is shown.

    Args:
      run: A `building.Run`.
    """
    self._run = run
    self._directory = pathlib.Path(run.settings.output_dir)

  @functools.cached_property
  def _synthesize(self):
    run = self._run
    return client_work.build_synthesis_computation(
      run.model,
      # A client may send no synthetic data beside a sketch; these it has learned.
      config=dataclasses.replace(
        run.built.config, diagnostics=True, residual=None
      ),
      client_optimizer=run.setup.client_optimizer,
      state_type=run.built.process.next.type_signature.parameter[
        0
      ].member.client_work,
    )

  def _upload(self, state, round_num: int):
    """What the first client of a round learns for a model, and its cosine."""
    run, weights = self._run, state.global_model_weights
    batches, *_ = run.setup.round_data(round_num)
    result = self._synthesize(state.client_work, weights, batches)
    data = encoding.decode(
      run.built.config.spec,
      collections.OrderedDict(result.payload),
      run.model,
      (weights.trainable, weights.non_trainable),
    )
    return data, result.measurements['cosine']

  @functools.cached_property
  def _means(self):
    """The mean real example of each label, where anybody may see it."""
    task = self._run.task
    return uploads.mean_examples(task.test_data) if task.is_public else None

  def _draw(self, data, cosine, path) -> None:
    uploads.plot_synthetic_data(data, cosine, path, self._means)

  def _text(self, state, data, cosine) -> str:
    return show_text.synthetic_text(
      data,
      state.global_model_weights.trainable[0],
      self._run.task.token_names,
      cosine,
    )

  def write(self, state: Any) -> None:
    """Writes synthetic.png, or synthetic.txt, of a client of the last round."""
    if self._run.built.config is None:
      return
    data, cosine = self._upload(state, self._run.settings.total_rounds)
    if self._run.task.token_names is None:
      self._draw(data, cosine, self._directory / f'{_NAME}.png')
    else:
      text = self._text(state, data, cosine)
      (self._directory / f'{_NAME}.txt').write_text(text, encoding='utf-8')

  @functools.cached_property
  def _writer(self) -> tf.summary.SummaryWriter:
    return tf.summary.create_file_writer(str(self._directory / 'tensorboard'))

  def release(self, state: Any, round_num: int) -> None:
    """Adds what the first client of round 1 uploads now to TensorBoard."""
    if self._run.built.config is None:
      return
    data, cosine = self._upload(state, 1)
    with self._writer.as_default(step=round_num):
      if self._run.task.token_names is None:
        file = io.BytesIO()
        self._draw(data, cosine, file)
        file.seek(0)
        tf.summary.image(_NAME, matplotlib.image.imread(file)[None])
      else:
        text = self._text(state, data, cosine)
        tf.summary.text(_NAME, f'```\n{text}```')
      self._writer.flush()


def train(run: building.Run) -> Any:
  """`runner.train`, with what clients upload in TensorBoard."""
  return runner.train(run, watcher=Uploads(run))


def execute(run: building.Run, bar: tqdm.tqdm | None = None) -> dict[str, Any]:
  """`runner.execute`, with what clients upload in TensorBoard and in a file.

  For methods with synthetic data this writes synthetic.png, or synthetic.txt for
  text.
  """
  return runner.execute(run, bar, Uploads(run))
