"""Every codec and its TFF aggregator, by the same contract."""

import conftest
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from baselines.aggregation import CodecSumFactory
from baselines.cross_polytope import CrossPolytope
from baselines.cross_polytope import mean_largest
from baselines.drive import Drive
from baselines.low_rank import LowRank
from baselines.qsgd import Qsgd
from baselines.random_mask import RandomMask
from baselines.sign import Sign
from baselines.top_k import TopK
from tff_fedsynth import communication
from tff_fedsynth.compression import rotation
from tff_fedsynth.compression.codec import BudgetTooSmallError
from tff_fedsynth.errors import OptionError

SHAPES = [(12, 9), (9,), (3, 2, 9, 4), ()]
SIZE = 12 * 9 + 9 + 3 * 2 * 9 * 4 + 1

CODECS = [
  RandomMask(30),
  RandomMask(30, unbiased=False),
  RandomMask(30, bits=8),
  TopK(30),
  TopK(30, bits=8),
  Drive(100),
  Drive(336),
  Drive(100, scale='mse'),
  CrossPolytope(20, 3),
  CrossPolytope(336, 0),
  LowRank((2, 0, 1, 0)),
  LowRank((9, 0, 4, 0), bits=8),
  Qsgd(),
  Qsgd(bits=2, bucket_size=7),
  Sign(),
]
UNBIASED = [
  RandomMask(60),
  RandomMask(60, bits=8),
  Drive(200),
  Drive(336),
  CrossPolytope(20, 4),
  Qsgd(bits=4, bucket_size=64),
]


def values(seed=0, shapes=tuple(SHAPES)):
  random = np.random.RandomState(seed)
  return [random.normal(size=s).astype(np.float32) for s in shapes]


def flat(tensors):
  return np.concatenate([np.ravel(t) for t in tensors])


def round_trip(codec, tensors, seed=0):
  message = codec.encode([tf.constant(t) for t in tensors], tf.constant(seed))
  return codec.decode(message, [t.shape for t in tensors])


def round_trips(codec, tensors, count):
  """float [count, n]: the decoded update with as many seeds."""

  @tf.function
  def once(seed):
    message = codec.encode([tf.constant(t) for t in tensors], seed)
    decoded = codec.decode(message, [t.shape for t in tensors])
    return tf.concat([tf.reshape(d, [-1]) for d in decoded], axis=0)

  return np.array([once(tf.constant(i)).numpy() for i in range(count)])


@pytest.mark.parametrize('codec', CODECS, ids=str)
def test_counted_bytes_are_those_of_the_message(codec):
  tensors = [tf.constant(v) for v in values()]
  message = codec.encode(tensors, tf.constant(3))
  sent = sum(len(v.numpy().tobytes()) for v in message.values())
  assert codec.message_bytes(SHAPES) == sent
  decoded = codec.decode(message, SHAPES)
  assert [d.shape for d in decoded] == SHAPES
  assert codec.describe(SHAPES)


@pytest.mark.parametrize('codec', CODECS, ids=str)
def test_zeros_stay_zeros(codec):
  zeros = [np.zeros(s, np.float32) for s in SHAPES]
  np.testing.assert_array_equal(flat(round_trip(codec, zeros)), 0)


@pytest.mark.parametrize(
  'codec', [c for c in CODECS if not isinstance(c, LowRank)], ids=str
)
def test_decoding_scales_with_the_update(codec):
  # TFF multiplies an update by its client's weight before it is encoded.
  once = flat(round_trip(codec, values()))
  twice = flat(round_trip(codec, [v + v for v in values()]))
  np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)


@pytest.mark.parametrize('codec', UNBIASED, ids=str)
def test_unbiased(codec):
  # With independent draws of mean x and squared error v (measured here), the
  # mean of n draws has an expected squared error of v / n. A sum of many such
  # coordinates stays within 1.5 of its expectation; a bias b would add |b|^2.
  tensors = values(1)
  x = flat(tensors)
  draws = round_trips(codec, tensors, 600)
  error = ((draws - x) ** 2).sum(axis=1).mean()
  bias = ((draws.mean(axis=0) - x) ** 2).sum()
  assert error > 0
  assert bias < 1.5 * error / 600


@pytest.mark.parametrize('codec', [*CODECS, *UNBIASED], ids=str)
def test_the_aggregator_sums_what_is_decoded(codec):
  value_type = tff.to_type([tff.TensorType(np.float32, s) for s in SHAPES])
  process = CodecSumFactory(codec, seed=5).create(value_type)
  signature = process.next.type_signature
  assert signature.parameter[1] == tff.FederatedType(value_type, tff.CLIENTS)
  assert signature.result.result == tff.FederatedType(value_type, tff.SERVER)
  assert not process.is_weighted
  clients = [values(1), values(2)]
  state = process.initialize()
  alone = [process.next(state, [c]) for c in clients]
  both = process.next(state, clients)
  np.testing.assert_allclose(
    flat(both.result), sum(flat(a.result) for a in alone), rtol=1e-4, atol=1e-5
  )
  measured = both.measurements
  assert measured['bits_per_parameter'] == pytest.approx(
    8 * codec.message_bytes(SHAPES) / SIZE
  )
  distortions = [
    ((flat(a.result) - flat(c)) ** 2).sum() / (flat(c) ** 2).sum()
    for a, c in zip(alone, clients)
  ]
  assert measured['distortion'] == pytest.approx(
    np.mean(distortions), rel=1e-3, abs=1e-6
  )


@pytest.mark.parametrize(
  'codec',
  [RandomMask(30), Drive(100), CrossPolytope(9, 5), Qsgd(bits=2)],
  ids=str,
)
def test_draws_differ_between_rounds_and_clients_and_repeat(codec):
  value_type = tff.to_type([tff.TensorType(np.float32, s) for s in SHAPES])
  process = CodecSumFactory(codec).create(value_type)
  state = process.initialize()
  first = process.next(state, [values()])
  second = process.next(first.state, [values()])
  again = process.next(state, [values()])
  assert (flat(first.result) != flat(second.result)).any()
  np.testing.assert_array_equal(flat(first.result), flat(again.result))
  other = CodecSumFactory(codec, seed=1).create(value_type)
  different = other.next(other.initialize(), [values()])
  assert (flat(first.result) != flat(different.result)).any()


def test_metered_bytes_inside_fed_avg_are_the_counted_ones():
  model = conftest.make_classifier()
  shapes = [w.shape for w in model.initial_weights[0]]
  for codec in (
    TopK(5, bits=8),
    Drive(17),
    CrossPolytope(9, 2),
    LowRank((1, 0, 2, 0)),
    Sign(),
  ):
    process = tff.learning.algorithms.build_weighted_fed_avg(
      model,
      tff.learning.optimizers.build_sgdm(0.1),
      model_aggregator=tff.aggregators.MeanFactory(CodecSumFactory(codec)),
    )
    # The client's weight is one float32.
    assert communication.uplink_bytes(process) == (
      codec.message_bytes(shapes) + 4
    )
    output = process.next(process.initialize(), [conftest.make_dataset(model)])
    measured = output.metrics['aggregator']['mean_value']
    assert 0 <= measured['distortion']


MLP = [(784, 200), (200,), (200, 10), (10,)]


@pytest.mark.parametrize('ratio', [20, 100, 500])
@pytest.mark.parametrize(
  'cls, fields',
  [
    (RandomMask, {}),
    (RandomMask, {'bits': 8}),
    (TopK, {}),
    (TopK, {'bits': 8}),
    (Drive, {}),
    (CrossPolytope, {}),
    (LowRank, {'bits': 4}),
    (LowRank, {'bits': 8}),
  ],
  ids=str,
)
def test_budgets_are_filled_and_never_exceeded(cls, fields, ratio):
  budget = 636_040 // ratio - 4
  if (cls, fields, ratio) == (LowRank, {'bits': 8}, 500):
    # Two columns of 984 and 210 bytes, 210 bytes of biases and their ranges.
    with pytest.raises(BudgetTooSmallError, match='at least 1452 bytes'):
      cls.for_budget(budget, MLP, **fields)
    return
  codec = cls.for_budget(budget, MLP, **fields)
  used = codec.message_bytes(MLP)
  assert used <= budget
  # Nothing to add to a bit for every coordinate.
  is_whole = codec in (Drive(39 * 4096), CrossPolytope(39 * 4096, 0))
  assert used >= 0.9 * budget or is_whole
  assert is_whole == (cls in (Drive, CrossPolytope) and ratio == 20)


def test_codecs_of_fixed_size_say_what_they_need():
  size = 159_010
  assert Sign.for_budget(19_893, MLP).message_bytes(MLP) == -(-size // 8) + 16
  with pytest.raises(BudgetTooSmallError, match='at least 19893 bytes'):
    Sign.for_budget(19_892, MLP)
  # 2 bits a value and 311 norms.
  smallest = -(-size * 2 // 8) + 311 * 4
  assert Qsgd.for_budget(smallest, MLP).bits == 2
  assert Qsgd.for_budget(float('inf'), MLP).bits == 8
  assert Qsgd.for_budget(float('inf'), MLP, bits=3).bits == 3
  with pytest.raises(BudgetTooSmallError, match=f'at least {smallest} bytes'):
    Qsgd.for_budget(smallest - 1, MLP)
  with pytest.raises(
    BudgetTooSmallError, match='RandomMask uploads at least 8'
  ):
    RandomMask.for_budget(7, MLP)


def test_no_budget_keeps_everything():
  unlimited = float('inf')
  assert RandomMask.for_budget(unlimited, MLP).kept_values == 159_010
  # 39 rows of 4,096 columns: fewer, longer rows need padding of over 1/64.
  assert Drive.for_budget(unlimited, MLP).kept_signs == 39 * 4096
  assert LowRank.for_budget(unlimited, MLP).ranks == (200, 0, 10, 0)


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: RandomMask(0), 'kept_values must be at least 1'),
    (lambda: TopK(5, bits=4), 'bits must be one of 32, 8'),
    (lambda: Drive(1, scale='big'), "Unknown scale 'big'"),
    (lambda: LowRank((1,), bits=3), 'bits must be one of'),
    (lambda: Qsgd(bits=9), 'bits must be one of'),
  ],
)
def test_refusals(make, message):
  with pytest.raises(OptionError, match=message):
    make()


def test_only_float32_is_aggregated():
  with pytest.raises(TypeError, match='Sign is for float32 values'):
    CodecSumFactory(Sign()).create(tff.TensorType(np.int32, [3]))


def test_random_mask_by_hand():
  tensors = values()
  for unbiased, factor in ((True, SIZE / 30), (False, 1)):
    (draw,) = round_trips(RandomMask(30, unbiased=unbiased), tensors, 1)
    kept = np.flatnonzero(draw)
    assert len(kept) == 30
    np.testing.assert_allclose(
      draw[kept], factor * flat(tensors)[kept], rtol=1e-6
    )


def test_random_masks_are_uniform():
  # Hits of a coordinate are binomial(n, p) with p = 60 / 343: a standard
  # deviation of sqrt(n p (1 - p)); 5 of them fail once in a million.
  draws = round_trips(RandomMask(60), values(), 400)
  p = 60 / SIZE
  hits = (draws != 0).sum(axis=0)
  assert np.abs(hits - 400 * p).max() <= 5 * np.sqrt(400 * p * (1 - p))


def test_an_eight_bit_mask_is_off_by_at_most_a_level():
  tensors = values()
  (exact,) = round_trips(RandomMask(30), tensors, 1)
  (rounded,) = round_trips(RandomMask(30, bits=8), tensors, 1)
  kept = exact[exact != 0]
  level = (kept.max() - kept.min()) / 255
  assert 0 < np.abs(rounded - exact).max() <= 1.001 * level


def test_top_k_by_hand():
  message = TopK(2).encode(
    [tf.constant([1.0, -5.0]), tf.constant([[3.0], [0.5]])], tf.constant(0)
  )
  order = np.argsort(message['values'])
  np.testing.assert_array_equal(np.array(message['values'])[order], [-5, 3])
  # Indices 1 and 2, in two bits each, in either order.
  assert message['indices'].numpy() == ([0b1001] if order[0] == 0 else [0b0110])
  decoded = TopK(2).decode(message, [(2,), (2, 1)])
  np.testing.assert_array_equal(flat(decoded), [0, -5, 3, 0])


def test_top_k_is_the_best_of_its_size():
  # What is lost is exactly the smallest values.
  x = np.sort(np.abs(flat(values())))
  (decoded,) = round_trips(TopK(30), values(), 1)
  lost = ((decoded - flat(values())) ** 2).sum()
  assert lost == pytest.approx((x[:-30] ** 2).sum(), rel=1e-5)


def test_sign_by_hand():
  tensors = [tf.constant([1.0, -3.0, 0.0]), tf.constant([[-2.0]])]
  message = Sign().encode(tensors, tf.constant(0))
  np.testing.assert_array_equal(message['signs'], [0b0101])
  np.testing.assert_allclose(message['scales'], [4 / 3, 2])
  a, b = Sign().decode(message, [(3,), (1, 1)])
  np.testing.assert_allclose(a, [4 / 3, -4 / 3, 4 / 3])
  np.testing.assert_allclose(b, [[-2]])


def test_hadamard_is_that_of_sylvester():
  matrix = np.ones((1, 1))
  for _ in range(4):
    matrix = np.block([[matrix, matrix], [matrix, -matrix]])
  x = np.random.RandomState(0).normal(size=(3, 16)).astype(np.float32)
  np.testing.assert_allclose(
    rotation.hadamard(tf.constant(x)), x @ matrix / 4, rtol=1e-5, atol=1e-6
  )


def test_drive_sends_one_hot_updates_exactly():
  # All rotated coordinates have magnitude 1 / sqrt(n): one bit says it all.
  one_hot = [np.zeros(128, np.float32)]
  one_hot[0][2] = -3
  for scale in ('unbiased', 'mse'):
    decoded = round_trip(Drive(128, scale=scale), one_hot)
    np.testing.assert_allclose(decoded, one_hot, atol=1e-6)


@pytest.mark.parametrize('kept', [100, 336])
def test_drive_scales(kept):
  tensors = values()
  x = flat(tensors)
  norm = (x**2).sum()
  unbiased = round_trips(Drive(kept), tensors, 50)
  # Theorem 3: the part along the update is exact in every draw. The padding
  # takes no part in it.
  np.testing.assert_allclose(unbiased @ x, norm, rtol=1e-4)
  # The error is all across: pi n / 2 m - 1, of which the share of the update's
  # own coordinates in the padded ones is seen. Its mean over 50 draws is within
  # 15%: |y| summed over 100 coordinates has a relative deviation of
  # sqrt((pi / 2 - 1) / 100) = 7.6%, and the scale enters squared.
  error = ((unbiased - x) ** 2).sum(axis=1).mean() / norm
  expected = (np.pi * 336 / (2 * kept) - 1) * (SIZE - 1) / 335
  assert error == pytest.approx(expected, rel=0.15)
  # The same signs, with the scale that has the least error before the padding
  # is cut off: shorter by a factor that makes it the better one here too.
  mse = round_trips(Drive(kept, scale='mse'), tensors, 50)
  cosine = (unbiased @ mse.T).diagonal() / (
    np.linalg.norm(unbiased, axis=1) * np.linalg.norm(mse, axis=1)
  )
  np.testing.assert_allclose(cosine, 1, rtol=1e-5)
  assert ((mse - x) ** 2).sum() < ((unbiased - x) ** 2).sum()


def test_mean_largest_magnitude():
  # By hand: sqrt(2 / pi), and E max(|a|, |b|) = 2 / sqrt(pi).
  assert mean_largest(1) == pytest.approx(np.sqrt(2 / np.pi), abs=1e-5)
  assert mean_largest(2) == pytest.approx(2 / np.sqrt(np.pi), abs=1e-5)
  drawn = np.random.RandomState(0).normal(size=(20_000, 128))
  largest = np.abs(drawn).max(axis=1)
  error = largest.std() / np.sqrt(len(drawn))
  assert mean_largest(128) == pytest.approx(largest.mean(), abs=4 * error)


def test_cross_polytope_by_hand():
  shapes, (x,) = [(8,)], values(shapes=((8,),))
  one_block = CrossPolytope(1, 3)
  message = one_block.encode([tf.constant(x)], tf.constant(70_000))
  # What crosses: 4 bits, a scale and the seed modulo 2^16.
  assert message['vertices'].shape == (1,)
  assert message['seed'].numpy() == 70_000 - 65_536
  (decoded,) = one_block.decode(message, shapes)
  rotate = rotation.random_rotation(tf.constant(70_000 - 65_536), shapes)
  rotated = rotate.apply(tf.constant(x)).numpy()
  expected = np.zeros(8)
  place = np.abs(rotated).argmax()
  expected[place] = (x**2).sum() / rotated[place]
  np.testing.assert_allclose(
    rotate.apply(decoded), expected, rtol=1e-5, atol=1e-5
  )
  # A block of one coordinate has a sign only: DRIVE.
  np.testing.assert_allclose(
    flat(round_trip(CrossPolytope(100, 0), values())),
    flat(round_trip(Drive(100), values())),
    rtol=1e-6,
  )


@pytest.mark.parametrize('blocks, place_bits', [(84, 2), (40, 3), (5, 5)])
def test_cross_polytope_error(blocks, place_bits):
  tensors = values()
  x = flat(tensors)
  norm = (x**2).sum()
  codec = CrossPolytope(blocks, place_bits)
  draws = round_trips(codec, tensors, 200)
  np.testing.assert_allclose(draws @ x, norm, rtol=1e-4)
  error = ((draws - x) ** 2).sum(axis=1).mean() / norm
  # As for DRIVE. The largest of 4 has a relative deviation of 40%, of 32 one of
  # 18%; over 5 or more blocks it enters squared, and only its square's mean is
  # off: by 3 * .18^2 / 5 = 2%.
  expected = codec.relative_error(SHAPES) * (SIZE - 1) / 335
  assert error == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
  'ratio, place_bits, factor', [(100, 4, 1.3), (500, 7, 1.5), (10_000, 12, 1.6)]
)
def test_cross_polytope_is_worth_more_bytes_of_drive(ratio, place_bits, factor):
  budget = 636_040 // ratio - 4
  codec = CrossPolytope.for_budget(budget, MLP)
  assert abs(codec.place_bits - place_bits) <= 1
  richer = Drive.for_budget(factor * budget, MLP)
  assert codec.relative_error(MLP) < richer.relative_error(MLP)


def test_qsgd_by_hand():
  # |v| = 7 and s = 7, so that every level is hit exactly; then |v| = 14.
  tensors = [np.array([2, -3, 6, -14, 0], np.float32)]
  codec = Qsgd(bits=4, bucket_size=3)
  message = codec.encode([tf.constant(tensors[0])], tf.constant(1))
  np.testing.assert_array_equal(
    message['levels'], [2 + ((8 + 3) << 4), 6 + ((8 + 7) << 4), 0]
  )
  np.testing.assert_array_equal(message['norms'], [7, 14])
  np.testing.assert_array_equal(codec.decode(message, [(5,)]), tensors)


@pytest.mark.parametrize('bits', [2, 4])
def test_qsgd_error_is_within_the_papers_bound(bits):
  # Lemma 3.1: E |Q(v) - v|^2 <= min(d / s^2, sqrt(d) / s) |v|^2, here with one
  # bucket. The mean of 100 draws of a sum over 343 coordinates is within 10%.
  x = flat(values())
  s = 2 ** (bits - 1) - 1
  draws = round_trips(Qsgd(bits=bits, bucket_size=SIZE), values(), 100)
  error = ((draws - x) ** 2).sum(axis=1).mean() / (x**2).sum()
  assert error <= 1.1 * min(SIZE / s**2, np.sqrt(SIZE) / s)


def test_low_rank_by_hand():
  # One column of equal numbers, exactly one level; the other has levels 0..15.
  matrix = np.outer(np.ones(5), np.arange(16)).astype(np.float32)
  vector = np.array([-1, 0.5, 14], np.float32)
  decoded = round_trip(LowRank((1, 0)), [matrix, vector])
  np.testing.assert_allclose(decoded[0], matrix, atol=1e-3)
  # 16 levels, one apart, from -1: 0.5 lies between two.
  np.testing.assert_allclose(decoded[1][::2], vector[::2])
  assert abs(float(decoded[1][1]) - 0.5) <= 0.5


def test_low_rank_is_near_the_best_of_its_rank():
  # Singular values 1, 1/2, 1/4, ...: the best approximation of rank 3 loses the
  # squares of the rest. Two power iterations leave mixtures of (1/2)^5 at most;
  # 8 bits add errors of 1/512 of the range.
  random = np.random.RandomState(0)
  left, _ = np.linalg.qr(random.normal(size=(30, 20)))
  right, _ = np.linalg.qr(random.normal(size=(20, 20)))
  singular = 0.5 ** np.arange(20)
  matrix = (left * singular @ right.T).astype(np.float32)
  (decoded,) = round_trips(LowRank((3,), bits=8), [matrix], 1)
  best = (singular[3:] ** 2).sum()
  error = ((decoded - matrix.ravel()) ** 2).sum()
  assert best <= error <= 1.05 * best


def test_low_rank_shares_a_budget_by_size():
  # Rank 1 takes 984 / 2 + 210 / 2 bytes of numbers, 105 of biases and 6 ranges;
  # of what is left the larger matrix gets its share first.
  codec = LowRank.for_budget(1268, MLP)
  assert codec.ranks == (2, 0, 1, 0)
