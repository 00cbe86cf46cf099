# ruff: noqa: D101, D103
"""Other ways to learn synthetic data, at equal bytes: cosines on a few clients.

python measure_inner.py MODEL RATIO SEEDS DIR, on MNIST with Dirichlet shares (0.3):
4 clients in rounds 1 and 6 of FedAvg, in plain TensorFlow, without a TFF worker.
Writes table.md and cells.csv. Seconds are CPU time of learning alone.
"""

import collections
import dataclasses
import pathlib
import sys
import time

import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_federated as tff
import tensorflow_probability as tfp

from tff_fedsynth import objectives
from tff_fedsynth import replay
from tff_fedsynth import scaling
from tff_fedsynth import specs
from tff_fedsynth import synthesis
from tff_fedsynth import synthetic_data
from tff_fedsynth.experiments import runner
from tff_fedsynth.experiments.settings import Settings

ROUNDS, CLIENTS = (1, 6), 4


class Plain:
  """mlp or cnn as plain operations: TFF's models work in graphs only."""

  def __init__(self, model, name):
    self.initial_weights, self.name = model.initial_weights, name

  def predict_on_batch(self, weights, x, training=False):
    del training
    w = list(weights[0])
    if self.name == 'cnn':
      for _ in range(2):
        x = tf.nn.relu(tf.nn.conv2d(x, w[0], 1, 'SAME') + w[1])
        x, w = tf.nn.max_pool2d(x, 2, 2, 'VALID'), w[2:]
    return head(x, w)

  def loss(self, outputs, labels):
    return tf.reduce_mean(
      tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs)
    )

  def initialize_metrics_state(self):
    return {}

  def update_metrics_state(self, state, **kwargs):
    del kwargs
    return state


def head(x, w):
  x = tf.reshape(x, [tf.shape(x)[0], w[0].shape[0]])
  return tf.nn.relu(x @ w[0] + w[1]) @ w[2] + w[3]


def make_setup(model, ratio, seed):
  s = Settings(
    model=model,
    compression_ratio=ratio,
    seed=seed,
    clients_per_round=CLIENTS,
    output_dir='unused',
    options=dict(partition='dirichlet', dirichlet_alpha=0.3),
  )
  make = runner.TASKS[s.task]
  task = make.build(seed=s.seed, **make.arguments(s.options))
  keras_model = task.models[s.model](s.seed)
  tff_model = runner.conversion.from_keras(keras_model)
  budget = int(specs.model_bytes(tff_model) / ratio)
  return runner.Setup(s, tff_model, budget, runner._round_data(s, task))


# How an update is made of data: (gradient of examples, data) -> update.
def whole(gradient, data):
  return gradient(data.inputs[0], data.labels[0])


def by_layer(share):
  """The first examples for the convolutions, the others for the dense layers."""

  def make(gradient, data):
    x, y = data.inputs[0], data.labels[0]
    k = max(1, round(share * x.shape[0]))
    return gradient(x[:k], y[:k])[:-4] + gradient(x[k:], y[k:])[-4:]

  return make


# What is minimised.
def error(u, t, by_layer):
  u = scaling.apply(scaling.fit(u, t, by_layer), u)
  return objectives.relative_squared_error(u, t)


def balanced(power):
  def value(u, t, by_layer):
    u = scaling.apply(scaling.fit(u, t, by_layer), u)
    return tf.add_n(
      [
        tf.math.divide_no_nan(
          objectives.squared_norm((a - b,)),
          objectives.squared_norm((b,)) ** power,
        )
        for a, b in zip(u, t)
      ]
    )

  return value


# How: (value and gradients, without rounding, spec, seed) -> variables.
def start(spec, seed):
  return synthetic_data.initialize(spec, seed, 0.1, 1.0)


def adam(of, variables, iterations, state=None, rate=0.1):
  optimizer = tff.learning.optimizers.build_adam(rate)
  if state is None:
    state = synthesis.initial_optimizer_state(optimizer, None, variables)

  def step(i, state, variables, best, least):
    value, gradients = of(variables)
    keep = lambda new, old: tf.where(value < least, new, old)
    best = tf.nest.map_structure(keep, variables, best)
    least = keep(value, least)
    return i + 1, *optimizer.next(state, variables, gradients), best, least

  _, state, last, best, _ = tf.while_loop(
    lambda i, *_: i < iterations,
    step,
    (0, state, variables, variables, tf.constant(np.inf, tf.float32)),
  )
  return state, last, best


def last_of_adam(iterations):
  return lambda of, _, spec, seed: adam(of, start(spec, seed), iterations)[1]


def best_of_adam(iterations):
  return lambda of, _, spec, seed: adam(of, start(spec, seed), iterations)[2]


def several_starts(count, iterations, rest):
  def learn(of, _, spec, seed):
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, count))
    runs = [adam(of, start(spec, s), iterations)[:2] for s in seeds]
    best = tf.argmin(tf.stack([of(v)[0] for _, v in runs]))
    state, variables = tf.nest.map_structure(
      lambda *values: tf.stack(values)[best], *runs
    )
    return adam(of, variables, rest, state)[1]

  return learn


def lbfgs(before, iterations, after):
  """Quasi-Newton steps without rounding, Adam around them with it."""

  def learn(of, smooth, spec, seed):
    variables = start(spec, seed)
    if before:
      variables = adam(of, variables, before)[1]
    shapes = {k: v.shape for k, v in variables.items()}
    join = lambda values: tf.concat([tf.reshape(v, [-1]) for v in values], 0)

    def split(joined):
      sizes = [s.num_elements() for s in shapes.values()]
      parts = zip(shapes.items(), tf.split(joined, sizes))
      return collections.OrderedDict(
        (name, tf.reshape(part, shape)) for (name, shape), part in parts
      )

    def value_and_gradient(joined):
      value, gradients = smooth(split(joined))
      return value, join(gradients.values())

    found = tfp.optimizer.lbfgs_minimize(
      value_and_gradient,
      join(variables.values()),
      max_iterations=iterations,
      max_line_search_iterations=10,
    )
    variables = split(found.position)
    return adam(of, variables, after, rate=0.02)[1] if after else variables

  return learn


def features_loss(model, weights, inputs, labels):
  del model
  outputs = head(inputs, weights[0][-4:])
  return tf.reduce_mean(tf.reduce_sum(labels * outputs, -1))


def hidden_loss(model, weights, inputs, labels):
  del model
  kernel, bias = weights[0][-2:]
  outputs = inputs @ kernel + bias
  return tf.reduce_mean(tf.reduce_sum(labels * outputs, -1))


@dataclasses.dataclass
class Variant:
  spec: synthetic_data.SyntheticSpec
  learn: object = dataclasses.field(default_factory=lambda: last_of_adam(60))
  objective: object = error
  make: object = whole
  loss: object = None


def fill(spec, size):
  count = max(1, spec.batch_size)
  with_count = lambda n: dataclasses.replace(spec, batch_size=n)
  while count > 1 and with_count(count).payload_bytes > size:
    count -= 1
  while with_count(count + 1).payload_bytes <= size:
    count += 1
  return with_count(count)


def variants(setup):
  spec = specs.spec_for_budget(setup.model, setup.budget)
  kernel = setup.model.initial_weights[0][-4 if _is_cnn(setup) else -2]
  scales = len(setup.model.initial_weights[0])
  scaled = fill(
    dataclasses.replace(spec, layer_scales=scales), setup.budget - 4
  )
  found = {
    'Adam, 60 iterations, the last': Variant(spec),
    'the best of them': Variant(spec, best_of_adam(60)),
    '30 iterations': Variant(spec, last_of_adam(30)),
    '120 iterations': Variant(spec, last_of_adam(120)),
    '4 starts of 5, then 40': Variant(spec, several_starts(4, 5, 40)),
    '3 starts of 10, then 30': Variant(spec, several_starts(3, 10, 30)),
    '20 of L-BFGS, then 15': Variant(spec, lbfgs(0, 20, 15)),
    '30, then 15 of L-BFGS': Variant(spec, lbfgs(30, 15, 0)),
    'a scale for each tensor': Variant(scaled),
    'and tensors count alike': Variant(scaled, objective=balanced(1.0)),
    'and by the root of their length': Variant(scaled, objective=balanced(0.5)),
  }
  if not _is_cnn(setup):
    hidden = dataclasses.replace(
      spec, input_shape=(kernel.shape[0],), resolution=None
    )
    hidden = fill(hidden, spec.payload_bytes)
    found[f'{hidden.batch_size} inputs at the hidden layer'] = Variant(
      hidden, loss=hidden_loss
    )
    return found
  for share in (0.25, 0.5):
    found[f'{share:.0%} of the examples for the convolutions'] = Variant(
      spec, make=by_layer(share)
    )
  for side in (3, 2):
    features = dataclasses.replace(
      spec, input_shape=(7, 7, 32), resolution=side
    )
    features = fill(features, spec.payload_bytes)
    name = f'{features.batch_size} inputs behind the convolutions, side {side}'
    found[name] = Variant(features, loss=features_loss)
  return found


def _is_cnn(setup):
  return setup.settings.model == 'cnn'


def build(model, variant):
  spec, loss = variant.spec, variant.loss or variant.spec.loss_fn
  scaled = spec.layer_scales > 0

  def update_of(weights, data):
    gradient = lambda x, y: replay._loss_gradient(model, loss, *weights, x, y)
    return tuple(data.step_sizes[0] * g for g in variant.make(gradient, data))

  @tf.function
  def run(weights, target, seed):
    def value_and_gradients(rounded):
      read = spec if rounded else dataclasses.replace(spec, bits=32)

      def of(variables):
        with tf.GradientTape() as tape:
          tape.watch(variables)
          data = synthetic_data.relax(read, variables)
          value = variant.objective(update_of(weights, data), target, scaled)
        return value, tape.gradient(
          value, variables, unconnected_gradients='zero'
        )

      return of

    variables = variant.learn(
      value_and_gradients(True), value_and_gradients(False), spec, seed
    )
    payload = synthetic_data.encode(spec, variables, tf.ones(spec.scale_shape))
    update = update_of(weights, synthetic_data.decode(spec, payload))
    update = scaling.apply(scaling.fit(update, target, scaled), update)
    by_tensor = [objectives.cosine((a,), (b,)) for a, b in zip(update, target)]
    return objectives.cosine(update, target), tf.stack(by_tensor)

  return run


def measure(setup):
  model = Plain(setup.model, setup.settings.model)
  weights = tf.nest.map_structure(tf.constant, setup.model.initial_weights)
  weights = tuple(map(tuple, weights))

  @tf.function
  def train(weights, data):
    trained = synthesis.local_training(
      model, weights, data, setup.client_optimizer
    )
    return trained.update, trained.num_examples

  chosen = variants(setup)
  runs = {name: build(model, variant) for name, variant in chosen.items()}
  rows, energies = [], []
  for round_num in range(1, max(ROUNDS) + 1):
    updates, counts = [], []
    for i, data in enumerate(setup.round_data(round_num)):
      update, count = train(weights, data)
      updates.append(update)
      counts.append(float(count))
      if round_num not in ROUNDS:
        continue
      norm = objectives.squared_norm(update)
      energies.append([float(tf.norm(u) ** 2 / norm) for u in update])
      for name, run in runs.items():
        seed = tf.constant([round_num, 1000 * setup.settings.seed + i])
        began = time.process_time()
        cosine, by_tensor = run(weights, update, seed)
        rows.append(
          dict(
            variant=name,
            seed=setup.settings.seed,
            round=round_num,
            client=i,
            payload_bytes=chosen[name].spec.payload_bytes,
            cosine=float(cosine),
            seconds=time.process_time() - began,
            **{f'tensor_{j}': float(c) for j, c in enumerate(by_tensor)},
          )
        )
    shares = np.array(counts) / sum(counts)
    mean = [sum(s * u for s, u in zip(shares, us)) for us in zip(*updates)]
    weights = (tuple(w - u for w, u in zip(weights[0], mean)), weights[1])
  return rows, np.mean(energies, 0)


def main(model, ratio, seeds, directory):
  rows, energies = [], []
  for seed in seeds.split(','):
    found, energy = measure(make_setup(model, float(ratio), int(seed)))
    rows += found
    energies.append(energy)
  frame = pd.DataFrame(rows)
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  frame.to_csv(directory / 'cells.csv', index=False)
  tensors = [c for c in frame if c.startswith('tensor_')]
  lines = [
    '| variant | bytes | cosine | CPU seconds | by tensor |',
    '| --- | --- | --- | --- | --- |',
    '| energy of the real update | | | | '
    + ' '.join(f'{e:.2f}' for e in np.mean(energies, 0))
    + ' |',
  ]
  for name, group in frame.groupby('variant', sort=False):
    by_seed = group.groupby('seed').cosine.mean()
    lines.append(
      f'| {name} | {group.payload_bytes.max()} | {by_seed.mean():.3f} +- '
      f'{by_seed.std():.3f} | {group.seconds.median():.3f} | '
      + ' '.join(f'{group[t].mean():.2f}' for t in tensors)
      + ' |'
    )
  (directory / 'table.md').write_text('\n'.join(lines) + '\n')
  print('\n'.join(lines))


if __name__ == '__main__':
  main(*sys.argv[1:])
