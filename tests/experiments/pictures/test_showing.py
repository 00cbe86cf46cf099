"""What clients upload, in TensorBoard."""

import types

import fault_injection
import numpy as np
import small_runs
from tensorboard.backend.event_processing import event_accumulator
import tensorflow as tf
import tensorflow_federated as tff

from tff_fedsynth.experiments.pictures import showing
from tff_fedsynth.experiments.running import rounds
from tff_fedsynth.experiments.settings.settings import Settings
from tff_fedsynth.payload.spec import SyntheticData


def _events(directory):
  events = event_accumulator.EventAccumulator(str(directory / 'tensorboard'))
  return events.Reload()


def test_tensorboard_gets_bytes_and_pictures(whole):
  events = _events(small_runs.directory(whole))
  a_round = 2 * whole.communication.uplink_bytes
  bytes_up = [
    (e.step, tf.make_ndarray(e.tensor_proto).item())
    for e in events.Tensors(rounds.UPLINK)
  ]
  assert bytes_up == [(i, i * a_round) for i in range(6)]
  column = [
    row[rounds.UPLINK]
    for row in fault_injection.metrics(small_runs.directory(whole))
  ]
  assert column == [str(i * a_round) for i in range(6)]
  pictures = events.Tensors('synthetic')
  assert [p.step for p in pictures] == [0, 2, 4, 5]
  # Width, height, and a PNG that differs from round to round.
  pngs = [p.tensor_proto.string_val[2] for p in pictures]
  assert all(p.startswith(b'\x89PNG') for p in pngs) and len(set(pngs)) == 4


def test_tensorboard_gets_synthetic_text(tmp_path, monkeypatch):
  names = ['<pad>', 'to', 'be', '<eos>']
  inputs = np.array([[[[0.0, 0.9, 0.1, 0.0]]]], np.float32)
  labels = np.array([[[[0.0, 0.0, 1.0, 0.0]]]], np.float32)
  data = SyntheticData(inputs, labels, np.ones([1], np.float32), 1.0)
  monkeypatch.setattr(
    showing.Uploads, '_upload', lambda self, state, round_num: (data, 0.5)
  )
  run = types.SimpleNamespace(
    settings=Settings(output_dir=str(tmp_path)),
    built=types.SimpleNamespace(config='there are synthetic data'),
    task=types.SimpleNamespace(token_names=names),
  )
  weights = tff.learning.models.ModelWeights([np.eye(4)], [])
  state = types.SimpleNamespace(global_model_weights=weights)
  uploads = showing.Uploads(run)
  uploads.write(state)
  uploads.release(state, 7)
  (event,) = _events(tmp_path).Tensors('synthetic')
  text = event.tensor_proto.string_val[0].decode()
  assert event.step == 7 and "'to' 0.90" in text
  assert text == f'```\n{(tmp_path / "synthetic.txt").read_text()}```'
