"""Prioritized replay by examples and statistics."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from fastdqn.replay import PrioritizedSampler, Replay, Ring, RowStore
from helpers.oracle_priorities import draw, live, make_prioritized, with_leaves
from helpers.oracles import ReplayModel, assert_rows_equal

# -- how often


PRIORITIES = [0.0, 0.5, 1.0, 1.0, 2.0, 4.0, 0.01, 8.0, 3.0]


@pytest.mark.slow
@pytest.mark.parametrize("exponent", [0.0, 0.6])
def test_rows_are_drawn_in_proportion_to_their_priority_to_the_exponent(exponent):
    replay, _ = with_leaves(PRIORITIES, exponent)
    expected = (np.array(PRIORITIES) + 1e-6) ** exponent
    # One at a time, since rows of one batch come from different parts of the sum.
    counts = np.bincount(
        np.concatenate([draw(replay, 1).index for _ in range(20_000)]), minlength=len(PRIORITIES)
    )
    rare = expected / expected.sum() * 20_000 < 5  # chi-square is no good where few are expected
    assert counts[rare].sum() <= 5
    kept = expected[~rare] / expected[~rare].sum() * counts[~rare].sum()
    assert stats.chisquare(counts[~rare], kept).pvalue > 1e-3


def test_a_batch_takes_one_row_out_of_each_equal_part_of_the_sum():
    """A row is drawn for all parts inside it, and for each part at its edges at most once."""
    replay, _ = with_leaves(PRIORITIES, 0.6)
    leaves = (np.array(PRIORITIES) + 1e-6) ** 0.6
    for size in (1, 2, 50, 1000):
        counts = np.bincount(draw(replay, size).index, minlength=len(PRIORITIES))
        assert (np.abs(counts - size * leaves / leaves.sum()) < 2).all()


def test_unequally_filled_lanes_are_drawn_by_rows():
    replay, sampler = make_prioritized(num_lanes=4, rows=40, n_steps=2)
    for lane, episodes in enumerate([13, 1, 4]):  # one lane full and wrapped, one empty
        for _ in range(episodes):
            replay.start([lane], [0.0])
            for t in range(4):
                replay.add([lane], [0], [0.0], [0.0], truncated=[t == 3])
    valid = np.count_nonzero(sampler.tree.leaves)
    _, counts = np.unique(draw(replay, 10 * valid).index, return_counts=True)
    assert len(counts) == valid
    assert (np.abs(counts - 10) < 2).all()


def test_equal_seeds_draw_equal_rows_and_others_differ():
    drawn = [draw(with_leaves(PRIORITIES, seed=seed)[0], 64).index.tolist() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_successive_samples_differ():
    replay, _ = with_leaves(PRIORITIES)
    assert draw(replay, 64).index.tolist() != draw(replay, 64).index.tolist()


# -- importance


@pytest.mark.slow
@pytest.mark.parametrize("exponent", [0.3, 0.6, 1.0])
def test_importance_weights_undo_the_bias(exponent):
    """Weighted by 1 / (M P), the mean of a function over draws is that over all rows."""
    rng = np.random.default_rng(0)
    priority = rng.exponential(size=50) + 0.05
    replay, sampler = with_leaves(priority, exponent)
    value = priority + rng.normal(size=50)  # large where rows are drawn often
    leaf = sampler.tree.leaves[:50]
    weighted, plain = [], []
    for _ in range(3_000):
        batch = draw(replay, 16)
        # In the batch the largest weight is 1: that of the smallest leaf.
        largest = leaf.sum() / (50 * leaf[batch.index].min())
        weighted.append(np.mean(batch.weight * largest * value[batch.index]))
        plain.append(np.mean(value[batch.index]))
    error = np.std(weighted) / np.sqrt(len(weighted))
    assert abs(np.mean(weighted) - value.mean()) < 4 * error
    assert abs(np.mean(plain) - value.mean()) > 20 * error


def test_weights_follow_the_exponent_of_the_steps():
    replay, sampler = with_leaves([1.0, 2.0, 4.0], beta=lambda steps: min(1.0, steps / 100))
    for steps, exponent in ((0, 0.0), (50, 0.5), (100, 1.0), (900, 1.0)):
        batch = draw(replay, 32, steps)
        leaf = sampler.tree.leaves[batch.index]
        np.testing.assert_allclose(batch.weight, (leaf.min() / leaf) ** exponent, rtol=1e-6)
        assert batch.weight.dtype == np.float32


# -- leaves


def test_new_rows_get_the_largest_leaf_once_their_window_is_complete():
    replay, sampler = make_prioritized(n_steps=2, exponent=0.5)
    replay.start([0], [0.0])
    for t in range(3):
        replay.add([0], [0], [0.0], [t + 1.0])
    assert sampler.tree.leaves[:4].tolist() == [1, 1, 0, 0]
    replay.update_priorities([0], [16.0])
    assert sampler.tree.leaves[1:4].tolist() == [1, 0, 0]
    replay.update_priorities([0], [0.0])
    replay.add([0], [0], [0.0], [4.0], terminated=[True])
    assert sampler.tree.leaves[:5] == pytest.approx([1e-3, 1, 4, 4, 0])


def test_closing_a_lane_completes_its_windows():
    replay, sampler = make_prioritized(n_steps=5)
    replay.start([0], [0.0])
    for t in range(3):
        replay.add([0], [0], [0.0], [t + 1.0])
    assert not sampler.tree.leaves.any()
    replay.close([0])
    assert sampler.tree.leaves[:5].tolist() == [1, 1, 1, 0, 0]


def test_new_rows_do_not_inherit_the_leaves_of_their_slots():
    replay, sampler = make_prioritized(rows=5)
    replay.start([0], [0.0])
    for _ in range(4):
        replay.add([0], [0], [0.0], [0.0])
    replay.update_priorities([0, 1, 2, 3], [0.1, 8.0, 0.2, 0.3])
    for _ in range(6):  # a whole round and one more, unseen
        replay.ring.add_outcomes([0], [0], [0.0], [False], [False])
    sampler.follow(replay.ring, 1, [0])
    assert sampler.tree.leaves == pytest.approx([0, *[8**0.6] * 4], rel=1e-5)


def test_a_late_priority_of_an_overwritten_row_is_ignored():
    replay, sampler = make_prioritized(rows=4)
    replay.start([0], [0.0])
    for t in range(6):
        replay.add([0], [0], [0.0], [t + 1.0])
    before = sampler.tree.leaves.tolist()
    replay.update_priorities([0, 1, 2, 6, 7, -1, 1 << 40], [9.0] * 7)  # 3 to 5 are there
    assert sampler.tree.leaves.tolist() == before
    replay.update_priorities([1, 5], [9.0, 3.0])
    assert sampler.tree.leaves.tolist() == pytest.approx([1, 3**0.6, 0, 1], rel=1e-5)


def test_of_a_row_drawn_twice_the_last_priority_stays():
    replay, sampler = with_leaves([1.0, 1.0])
    replay.update_priorities([0, 1, 0], [5.0, 1.0, 2.0])
    assert sampler.tree.leaves[:2].tolist() == pytest.approx([2.0, 1.0])
    assert sampler.tree.total == pytest.approx(3.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_non_finite_priorities_are_ignored(dtype):
    replay, sampler = with_leaves([1.0, 2.0, 3.0, 4.0])
    replay.update_priorities(np.arange(4), np.array([np.nan, np.inf, -np.inf, 5.0], dtype))
    assert sampler.tree.leaves[:4] == pytest.approx([1, 2, 3, 5])
    assert sampler.tree.total == pytest.approx(11)
    replay.update_priorities([0], [-7.0])  # a TD error with its sign
    assert sampler.tree.leaves[0] == pytest.approx(7)
    assert (draw(replay, 64).weight > 0).all()


def test_changes_beyond_one_chunk_reach_the_root():
    rng = np.random.default_rng(0)
    replay, sampler = make_prioritized(num_lanes=3000, rows=4)
    live(replay, rng, 10)
    valid = np.flatnonzero(replay.ring.is_valid(np.arange(60_000), 1))
    replay.update_priorities(rng.permutation(valid), rng.exponential(size=len(valid)))
    assert len(valid) > 4 * 1024
    nodes = sampler.tree.nodes.copy()
    sampler.tree.rebuild(sampler.tree.leaves.copy())
    assert nodes.tobytes() == sampler.tree.nodes.tobytes()


def test_a_ring_with_rows_is_accepted():
    replay, sampler = make_prioritized(3, rows=9, n_steps=2)
    live(replay, np.random.default_rng(1), 40)
    other = PrioritizedSampler(27, 0.6, lambda steps: 1.0)
    Replay(replay.ring, replay.store, other, n_steps=2)
    assert sampler.tree.leaves.any()
    np.testing.assert_array_equal(other.tree.leaves, sampler.tree.leaves)


# -- together with windows


@pytest.mark.slow
@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("n_steps", [1, 3, 9])  # most episodes are shorter than 9
def test_drawn_windows_are_those_of_the_episodes(n_steps, stack):
    rng = np.random.default_rng(n_steps)
    replay, _ = make_prioritized(4, rows=17, n_steps=n_steps, stack=stack, obs_shape=(2,))
    model, drawn = ReplayModel(4, 17, n_steps, 0.5, stack), set()
    live(replay, rng, 20, model)
    for _ in range(40):
        live(replay, rng, 3, model)
        windows, batch = model.valid(), draw(replay, 64)
        assert_rows_equal(batch._replace(weight=np.ones(64)), windows)
        replay.update_priorities(batch.index, rng.exponential(size=64))
        drawn |= set(batch.index.tolist())
    assert len(drawn) > 3 * 4 * 17  # the lanes have been overwritten often


# -- limits


def test_drawing_without_valid_rows_is_an_error():
    replay, _ = make_prioritized(n_steps=3)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="none of 0 rows has a complete 3-step window"):
            draw(replay, 4)
    replay.start([0], [0.0])
    with pytest.raises(RuntimeError, match="none of 1 rows"):
        draw(replay, 4)


@pytest.mark.parametrize("exponent", [-0.1, 1.1, float("nan")])
def test_an_exponent_outside_its_range_is_rejected(exponent):
    with pytest.raises(ValueError, match="priority_exponent is"):
        PrioritizedSampler(8, exponent, lambda steps: 1.0)


def test_a_ring_of_another_size_is_rejected():
    sampler = PrioritizedSampler(8, 0.6, lambda steps: 1.0)
    with pytest.raises(ValueError, match="the sampler has 8 slots, but the ring has 1 x 9"):
        Replay(Ring(1, 9), RowStore(1, 9, (), np.float32), sampler)


def test_priorities_of_another_shape_are_rejected():
    replay, _ = with_leaves([1.0, 2.0])
    with pytest.raises(ValueError, match="must have the shape of index"):
        replay.update_priorities([0, 1], [1.0])


def test_memory_is_counted():
    replay, sampler = make_prioritized(num_lanes=3, rows=10, obs_shape=(4,))
    assert sampler.nbytes == 30 * PrioritizedSampler.BYTES_PER_ROW
    assert replay.nbytes == 30 * (16 + Ring.BYTES_PER_ROW) + 3 * 8 + sampler.nbytes


def test_sampling_and_updating_allocate_nothing():
    replay, _ = with_leaves(np.ones(300))
    batch, priority = replay.new_batch(2048), np.ones(2048)
    replay.sample(batch)
    tracemalloc.start()
    replay.sample(batch)
    replay.update_priorities(batch.index, priority)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < batch.index.nbytes
