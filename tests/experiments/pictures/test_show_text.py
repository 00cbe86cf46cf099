import numpy as np

from tff_fedsynth.experiments.pictures import show_text
from tff_fedsynth.payload.spec import SyntheticData


def test_synthetic_text_names_the_nearest_tokens():
  table = np.eye(4, dtype=np.float32)[:, :3]
  names = ['<pad>', 'to', 'be', '<eos>']
  labels = np.array([[[[0.0, 0.1, -2.0, 0.3]]]], np.float32)
  ones = np.ones([1], np.float32)
  embedded = np.array([[[[0.0, 0.2, 0.0]]]], np.float32)
  data = SyntheticData(embedded, labels, ones, 1.0)
  text = show_text.synthetic_text(data, table, names, 0.5)
  last = text.splitlines()[-1]
  assert "0  'to' 1.00" in last and "->  'be' 2.00" in last
  soft = np.array([[[[0.1, 0.2, 0.3, 0.4]]]], np.float32)
  data = SyntheticData(soft, np.abs(labels), ones, 1.0)
  text = show_text.synthetic_text(data, table, names, 0.5)
  last = text.splitlines()[-1]
  assert "'<eos>' 0.40  'be' 0.30" in last and "->  'be' 2.00" in last
