"""Recorded episodes reach the replay as the windows that a slow twin computes."""

import numpy as np
import pytest

from fastdqn.datasets import Episodes, episodes_of, play
from fastdqn.replay import FrameStore, Replay, Ring, RowStore, UniformSampler, rows_per_lane

GAMMA = 0.5


def random_episodes(seed, count=40, longest=9, stack=1) -> Episodes:
    """Episodes whose observations are unique numbers, or stacks of the last frames."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, count)
    total = int(lengths.sum())
    terminated, truncated = np.zeros((2, total), np.bool_)
    ends = np.cumsum(lengths) - 1
    how = rng.integers(0, 4, count)  # 0: cut, 1: terminated, 2: truncated, 3: both
    terminated[ends], truncated[ends] = how & 1, how & 2
    frames = np.arange(1, total + count + 1, dtype=np.float32)
    obs = np.repeat(frames[:, None], stack, 1)
    first = np.concatenate(([0], np.cumsum(lengths + 1)[:-1]))
    begins = np.repeat(first, lengths + 1)
    for k in range(stack):  # frames before an episode's first repeat it
        obs[:, stack - 1 - k] = frames[np.maximum(np.arange(len(frames)) - k, begins)]
    return Episodes(
        lengths, rng.integers(0, 3, total), rng.normal(size=total).round(3),
        terminated, truncated, obs.__getitem__,
    )  # fmt: skip


def slow_windows(episodes: Episodes, n_steps: int, piece: int):
    """The slow twin: every transition's window, by a loop over episodes cut after `piece` steps."""
    found, t, row = {}, 0, 0
    for length in episodes.lengths:
        for begin in range(0, length, piece):
            end = min(begin + piece, length)
            for k in range(begin, end):
                total, discount, last = 0.0, 1.0, k
                for last in range(k, min(k + n_steps, end)):
                    total += discount * episodes.reward[t + last]
                    discount *= GAMMA
                    if episodes.terminated[t + last]:
                        discount = 0.0
                obs, then = episodes.observations(np.array([row + k, row + last + 1]))
                found[tuple(obs)] = (
                    int(episodes.action[t + k]), round(total, 4), discount, tuple(then),
                )  # fmt: skip
        t, row = t + length, row + length + 1
    return found


def new_replay(num_lanes: int, n_steps: int, stack: int, buffer_size: int = 4000) -> Replay:
    rows = rows_per_lane(buffer_size, num_lanes, n_steps, stack)
    make = FrameStore if stack > 1 else RowStore
    store = make(num_lanes, rows, (stack,), np.float32)
    sampler = UniformSampler(seed=1)
    return Replay(Ring(num_lanes, rows, stack), store, sampler, n_steps=n_steps, gamma=GAMMA)


def fill(replay: Replay, episodes: Episodes, piece: int) -> None:
    for step in play(episodes, replay.ring.num_lanes, piece):
        replay.append(step)
    replay.close(np.arange(replay.ring.num_lanes))


def stored_windows(replay: Replay):
    ring, found = replay.ring, {}
    every = [
        row * ring.num_lanes + lane
        for lane in range(ring.num_lanes)
        for row in range(max(0, ring.added[lane] - ring.rows), ring.added[lane])
    ]
    index = np.array(every)[ring.is_valid(every, replay.n_steps)]
    batch = replay.new_batch(len(index))
    batch.index[:] = index
    slots = np.empty((2, len(index)), np.int64)
    ring.windows(batch.index, replay.n_steps, replay.gamma, batch, *slots)
    replay.store.gather(slots[0], batch.obs)
    replay.store.gather(slots[1], batch.next_obs)
    for k in range(len(index)):
        found[tuple(batch.obs[k])] = (
            int(batch.action[k]), round(float(batch.reward[k]), 4), float(batch.discount[k]),
            tuple(batch.next_obs[k]),
        )  # fmt: skip
    return found


@pytest.mark.parametrize("num_lanes", [1, 3, 64])
@pytest.mark.parametrize(("n_steps", "stack"), [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("piece", [4, 1000])
def test_every_transition_is_stored_with_its_window(num_lanes, n_steps, stack, piece):
    episodes = random_episodes(seed=n_steps, stack=stack)
    replay = new_replay(num_lanes, n_steps, stack)
    fill(replay, episodes, piece)
    expected = slow_windows(episodes, n_steps, piece)
    assert len(expected) == len(episodes.action)
    found = stored_windows(replay)
    assert found.keys() == expected.keys()
    for key, (action, total, discount, then) in expected.items():
        assert found[key][0] == action
        assert found[key][1] == pytest.approx(total, abs=2e-4)
        assert found[key][2:] == (discount, then)


def test_lanes_receive_about_equally_many_transitions():
    replay = new_replay(4, 1, 1)
    fill(replay, random_episodes(seed=5, count=200), piece=1000)
    assert np.ptp(replay.ring.added) <= 2 * 10  # the longest episode and its last observation


@pytest.mark.parametrize("stack", [1, 2])
def test_a_replay_gives_back_the_episodes_that_it_holds(stack):
    episodes = random_episodes(seed=7, stack=stack)
    replay = new_replay(3, 2, stack)
    fill(replay, episodes, piece=1000)
    again = new_replay(5, 2, stack)
    fill(again, episodes_of(replay), piece=1000)
    assert stored_windows(again) == stored_windows(replay)


def test_an_overwritten_replay_gives_back_what_is_left():
    replay = new_replay(2, 1, 1, buffer_size=40)
    fill(replay, random_episodes(seed=9), piece=10)
    left = stored_windows(replay)
    again = new_replay(3, 1, 1)
    fill(again, episodes_of(replay), piece=1000)
    found = stored_windows(again)
    assert found == left
    assert 0 < len(found) < 45


def test_an_open_episode_is_cut_at_its_last_observation():
    replay = new_replay(1, 1, 1)
    replay.start([0], np.ones((1, 1)))
    replay.add([0], [2], [0.5], np.full((1, 1), 2.0))
    episodes = episodes_of(replay)
    assert episodes.lengths.tolist() == [1]
    assert not (episodes.terminated | episodes.truncated).any()
    assert episodes.observations(np.arange(2)).tolist() == [[1.0], [2.0]]


def test_returns_and_lengths_of_ended_episodes_are_delivered():
    episodes = random_episodes(seed=3)
    ended = np.zeros(len(episodes.lengths), np.bool_)
    ends = np.cumsum(episodes.lengths) - 1
    ended[:] = (episodes.terminated | episodes.truncated)[ends]
    sums = np.add.reduceat(episodes.reward, ends - episodes.lengths + 1)
    steps = list(play(episodes, 4, 1000))
    returns = np.concatenate([step.returns for step in steps])
    lengths = np.concatenate([step.lengths for step in steps])
    assert sorted(returns.round(6)) == sorted(sums[ended].round(6))
    assert sorted(lengths) == sorted(episodes.lengths[ended])
