"""Replay, ring, store and sampler by examples."""

import doctest
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from scipy import stats

import fastdqn.replay.replay_buffer
from fastdqn.replay import Replay, Ring, RowStore, UniformSampler, rows_per_lane
from fastdqn.replay.ring import DEAD, LIVE, OPEN, TRUNCATED
from helpers.oracles import Xoshiro, make_replay, read_rows, valid_rows


def play(replay, lane, length, end="terminated", first_obs=0.0):
    """One episode with observations first_obs, +1, .. and rewards 1, 2, ..; end '' stays open."""
    replay.start([lane], np.array([first_obs]))
    for t in range(length):
        over = t == length - 1
        replay.add(
            [lane], [t], [t + 1.0], np.array([first_obs + t + 1]),
            terminated=[over and end in ("terminated", "both")],
            truncated=[over and end in ("truncated", "both")],
        )  # fmt: skip


def windows_of(replay) -> list[tuple]:
    """(obs, n-step return, discount, next_obs) of every valid row, oldest first."""
    batch = read_rows(replay, valid_rows(replay))
    columns = (batch.obs, batch.reward, batch.discount, batch.next_obs)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def frequencies(replay, draws) -> np.ndarray:
    """How often each valid row is drawn; fails if another one is."""
    batch = replay.new_batch(draws)
    replay.sample(batch)
    drawn, counts = np.unique(batch.index, return_counts=True)
    assert np.isin(drawn, valid_rows(replay)).all()
    return np.concatenate([counts, np.zeros(len(valid_rows(replay)) - len(drawn))])


# -- windows


def test_an_open_episode_has_only_complete_windows():
    replay = make_replay(n_steps=2)
    play(replay, 0, 3, end="")
    assert windows_of(replay) == [(0, 1 + 0.5 * 2, 0.25, 2), (1, 2 + 0.5 * 3, 0.25, 3)]


def test_termination_cuts_windows_with_discount_zero():
    replay = make_replay(n_steps=2)
    play(replay, 0, 2, "terminated")
    assert windows_of(replay) == [(0, 2.0, 0.0, 2), (1, 2.0, 0.0, 2)]


def test_truncation_cuts_windows_and_keeps_their_shorter_discount():
    replay = make_replay(n_steps=3)
    play(replay, 0, 2, "truncated")
    assert windows_of(replay) == [(0, 2.0, 0.25, 2), (1, 2.0, 0.5, 2)]


def test_an_end_that_is_both_counts_as_termination():
    replay = make_replay(n_steps=3)
    play(replay, 0, 1, "both")
    assert windows_of(replay) == [(0, 1.0, 0.0, 1)]


@pytest.mark.parametrize("end", ["terminated", "truncated", "both"])
def test_no_window_reaches_into_the_next_episode(end):
    replay = make_replay(n_steps=5)
    play(replay, 0, 2, end, first_obs=0)
    play(replay, 0, 8, "", first_obs=100)
    assert [(obs, next_obs) for obs, _, _, next_obs in windows_of(replay)] == [
        (0, 2), (1, 2), (100, 105), (101, 106), (102, 107), (103, 108),
    ]  # fmt: skip


def test_one_step_reward_is_not_discounted():
    replay = make_replay(n_steps=1)
    play(replay, 0, 1, "truncated")
    assert windows_of(replay) == [(0, 1.0, 0.5, 1)]


def test_a_full_lane_overwrites_its_oldest_rows_first():
    replay = make_replay(rows=4)
    play(replay, 0, 6, "")
    assert [obs for obs, *_ in windows_of(replay)] == [3, 4, 5]
    assert len(replay) == 4


def test_open_and_dead_rows_keep_nothing_of_what_their_slots_held():
    replay = make_replay(rows=4)
    play(replay, 0, 5, "")
    assert (replay.ring.action[0, 1], replay.ring.reward[0, 1]) == (0, 0)  # row 5, open
    replay.add([0], [9], [9.0], np.array([6.0]), truncated=[True])
    assert (replay.ring.action[0, 2], replay.ring.reward[0, 2]) == (0, 0)  # row 6, dead
    assert replay.ring.status[0, 2] == DEAD


def test_lanes_fill_independently():
    replay = make_replay(num_lanes=2, rows=4)
    play(replay, 0, 6, "")
    play(replay, 1, 1, "", first_obs=50)
    assert sorted(obs for obs, *_ in windows_of(replay)) == [3, 4, 5, 50]


def test_a_row_counts_only_with_its_earlier_stacked_rows():
    replay = make_replay(rows=6, stack=3)
    play(replay, 0, 10, "")
    assert [obs for obs, *_ in windows_of(replay)] == [7, 8, 9]


# -- close


def test_close_truncates_the_last_outcome_and_adds_none():
    replay = make_replay(n_steps=3)
    play(replay, 0, 2, "")
    assert windows_of(replay) == []
    replay.close([0])
    assert windows_of(replay) == [(0, 2.0, 0.25, 2), (1, 2.0, 0.5, 2)]
    assert replay.ring.status[0, :3].tolist() == [LIVE, LIVE | TRUNCATED, DEAD]


def test_close_before_the_first_step_leaves_a_dead_row_alone():
    replay = make_replay()
    play(replay, 0, 1, "terminated")
    before = windows_of(replay)
    replay.start([0], np.array([9.0]))
    replay.close([0])
    assert windows_of(replay) == before
    assert replay.ring.status[0, 1:3].tolist() == [DEAD, DEAD]


def test_close_does_not_change_a_closed_lane():
    replay = make_replay(num_lanes=2)
    play(replay, 0, 2, "terminated")
    status = replay.ring.status.copy()
    replay.close([0, 1])
    np.testing.assert_array_equal(replay.ring.status, status)


def test_a_start_on_an_open_lane_closes_it_first():
    replay = make_replay(n_steps=3)
    play(replay, 0, 2, "")
    replay.start([0], np.array([50.0]))
    assert windows_of(replay) == [(0, 2.0, 0.25, 2), (1, 2.0, 0.5, 2)]
    assert replay.ring.status[0, 3] == OPEN


# -- refusals


@pytest.mark.parametrize("lane", [-1, 2, 99])
def test_a_lane_outside_the_ring_is_named(lane):
    replay = make_replay(num_lanes=2)
    for call in (
        lambda: replay.start([0, lane], np.zeros(2)),
        lambda: replay.add([0, lane], [0, 0], [0, 0], np.zeros(2)),
        lambda: replay.close([0, lane]),
    ):
        with pytest.raises(ValueError, match=f"env {lane} is outside 0 to 1"):
            call()
    assert len(replay) == 0


def test_a_step_without_an_open_episode_is_rejected_and_changes_nothing():
    replay = make_replay(num_lanes=3)
    play(replay, 0, 1, "")
    play(replay, 1, 1, "terminated")
    columns = replay.ring.added, replay.ring.status, replay.ring.reward, replay.ring.action
    before = [column.copy() for column in columns]
    for closed in (1, 2):
        with pytest.raises(ValueError, match=f"env {closed} has no open episode"):
            replay.add([0, closed], [3, 3], [7.0, 7.0], np.zeros(2))
    for column, old in zip(columns, before, strict=True):
        np.testing.assert_array_equal(column, old)


@pytest.mark.parametrize("shape", [(3,), (1, 2), (2, 3), (1, 3, 1)])
def test_observations_of_another_shape_are_rejected_and_change_nothing(shape):
    replay = make_replay(obs_shape=(3,))
    with pytest.raises(ValueError, match=r"observations have shape .*, must be \(1, 3\)"):
        replay.start([0], np.zeros(shape))
    assert len(replay) == 0
    replay.start([0], np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"observations have shape .*, must be \(1, 3\)"):
        replay.add([0], [0], [0.0], np.zeros(shape))
    assert len(replay) == 1
    assert replay.ring.status[0, 0] == OPEN


def test_arguments_need_one_value_for_each_lane():
    replay = make_replay(num_lanes=2)
    replay.start([0, 1], np.zeros(2))
    with pytest.raises(ValueError, match="one entry for each of 2 environments"):
        replay.add([0, 1], [0], [0.0, 0.0], np.zeros(2))
    with pytest.raises(ValueError, match="one entry for each of 2 environments"):
        replay.add([0, 1], [0, 0], [0.0, 0.0], np.zeros(2), terminated=[True])
    assert len(replay) == 2


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"n_steps": 0}, "n_steps is 0"),
        ({"gamma": 1.01}, "gamma is 1.01"),
        ({"gamma": -0.1}, "gamma is -0.1"),
        ({"gamma": float("nan")}, "gamma is nan"),
        ({"num_lanes": 0}, "num_lanes is 0"),
        ({"rows": 1}, "rows is 1"),
        ({"rows": 3, "stack": 3}, "rows is 3"),
        ({"rows": 8, "stack": 0}, "stack is 0"),
        ({"rows": 5, "n_steps": 5}, "5 rows for each environment cannot hold a 5-step window"),
        ({"rows": 6, "n_steps": 3, "stack": 4}, "at least n_steps \\+ stack = 7"),
        ({"obs_shape": (3, 0)}, "are empty"),
    ],
)
def test_an_invalid_size_is_named(sizes, says):
    with pytest.raises(ValueError, match=says):
        make_replay(**sizes)


def test_sampling_without_a_valid_row_is_an_error():
    replay = make_replay(n_steps=3)
    batch = replay.new_batch(2)
    with pytest.raises(RuntimeError, match="none of 0 rows has a complete 3-step window"):
        replay.sample(batch)
    play(replay, 0, 2, "")
    with pytest.raises(RuntimeError, match="none of 3 rows has a complete 3-step window"):
        replay.sample(batch)
    replay.close([0])
    replay.sample(batch)


# -- sampling


def test_unequally_filled_lanes_are_drawn_by_rows():
    replay = make_replay(num_lanes=4, rows=40, n_steps=2)
    for lane, episodes in enumerate([13, 1, 4]):  # one lane full and wrapped, one empty
        for _ in range(episodes):
            play(replay, lane, 4, "truncated")
    counts = frequencies(replay, 20_000)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_rare_valid_rows_are_drawn_uniformly():
    replay = make_replay(num_lanes=2, rows=1000)
    for _ in range(999):
        replay.start([0, 1], np.zeros(2))  # each closes the last: rows, but no transition
    play(replay, 1, 5, "terminated")
    assert isinstance(replay.sampler, UniformSampler)
    twin, draws = Xoshiro(replay.sampler.rng), 300
    assert len(valid_rows(replay)) == 5
    assert stats.chisquare(frequencies(replay, draws)).pvalue > 1e-3
    # 64 misses of two numbers each and one number for the fallback are the most a row may take;
    # rejection alone would need about 400 of them.
    numbers = 0
    while twin.s != replay.sampler.rng.tolist():
        twin.next()
        numbers += 1
        assert numbers <= draws * (2 * 64 + 1)


def test_equal_seeds_draw_equal_rows_and_others_differ():
    drawn = []
    for seed in (1, 1, 2):
        replay = make_replay(seed=seed)
        play(replay, 0, 20, "")
        batch = replay.new_batch(64)
        replay.sample(batch)
        drawn.append(batch.index.tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_successive_samples_differ():
    replay = make_replay()
    play(replay, 0, 20, "")
    batch, other = replay.new_batch(64), replay.new_batch(64)
    replay.sample(batch)
    replay.sample(other)
    assert batch.index.tolist() != other.index.tolist()


def test_sample_fills_the_given_arrays_and_allocates_none():
    replay = make_replay(obs_shape=(64,))
    replay.start([0], np.zeros((1, 64)))
    for t in range(20):
        replay.add([0], [1], [1.0], np.full((1, 64), t + 1.0))
    batch = replay.new_batch(512)
    replay.sample(batch)
    batch.index[:], batch.obs[:], batch.reward[:], batch.weight[:] = -1, -1, -1, -1
    tracemalloc.start()
    replay.sample(batch)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert batch.obs.min() >= 0
    assert (batch.weight == 1).all()
    np.testing.assert_array_equal(batch.obs[:, 0], batch.index)
    np.testing.assert_array_equal(batch.next_obs[:, 0], batch.index + 1)
    assert peak < batch.index.nbytes


def test_batches_of_several_sizes_can_alternate():
    replay = make_replay()
    play(replay, 0, 20, "")
    for size in (3, 50, 1, 50):
        batch = replay.new_batch(size)
        replay.sample(batch)
        np.testing.assert_array_equal(batch.next_obs, batch.obs + 1)


# -- the package


@pytest.mark.parametrize(
    ("buffer_size", "num_lanes", "n_steps", "stack", "rows"),
    [(100, 1, 1, 1, 101), (100, 3, 1, 1, 35), (100, 8, 5, 4, 21), (1, 16, 3, 1, 4)],
)
def test_rows_per_lane_holds_the_buffer_beyond_a_window(
    buffer_size, num_lanes, n_steps, stack, rows
):
    assert rows_per_lane(buffer_size, num_lanes, n_steps, stack) == rows
    Replay(
        Ring(num_lanes, rows, stack),
        RowStore(num_lanes, rows, (), np.uint8),
        UniformSampler(),
        n_steps=n_steps,
    )


def test_memory_is_counted():
    replay = make_replay(num_lanes=3, rows=10, obs_shape=(4,), obs_dtype=np.uint8)
    assert replay.nbytes == 3 * 10 * (4 + Ring.BYTES_PER_ROW) + 3 * 8


def test_the_docstring_example_runs():
    failed, tried = doctest.testmod(fastdqn.replay.replay_buffer)
    assert (failed, tried > 0) == (0, True)


@pytest.mark.slow
def test_the_replay_imports_neither_torch_nor_gymnasium():
    code = "import sys, fastdqn.replay; print(*sorted({'torch', 'gymnasium'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
