"""NewestSampler: each transition once and in order, also in a run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdqn import Config
from fastdqn.config.conflicts import remarks, sized
from fastdqn.replay import NewestSampler, Replay, Ring, RowStore, rows_per_lane
from fastdqn.state_dict import StateError
from fastdqn.training.loop import Cadence
from helpers.loop import run_loop, small
from helpers.oracle_newest import Line


def make_replay(num_lanes=1, rows=32, n_steps=1, stack=1) -> Replay:
    return Replay(
        Ring(num_lanes, rows, stack), RowStore(num_lanes, rows, (), np.float32),
        NewestSampler(num_lanes * rows), n_steps=n_steps,
    )  # fmt: skip


def play(replay: Replay, count: int, lanes=(0,), end: bool = False) -> None:
    """Adds transitions of open lanes; the last ones may end their episodes."""
    for t in range(count):
        ends = [end and t == count - 1] * len(lanes)
        replay.add(lanes, [0] * len(lanes), np.zeros(len(lanes)), np.zeros(len(lanes)), ends)


def drawn(replay: Replay, batch_size: int) -> list[int]:
    batch = replay.new_batch(batch_size)
    replay.sample(batch)
    assert (batch.weight == 1.0).all()
    return batch.index.tolist()


class Life:
    """Lanes that end, lose lives, are closed and begin again as chance has it."""

    def __init__(self, seed: int, replay: Replay, line: Line):
        self.rng, self.replay, self.line = np.random.default_rng(seed), replay, line
        self.is_open = np.zeros(replay.ring.num_lanes, np.bool_)
        self.starts_at_once = bool(self.rng.integers(2))

    def turn(self, answering: int) -> int:
        """Makes one step of some lanes; returns its transitions."""
        lanes = self.rng.permutation(len(self.is_open))[:answering]
        steps, starts = lanes[self.is_open[lanes]], lanes[~self.is_open[lanes]]
        ends = self.rng.random(len(steps)) < 0.3
        if len(steps):
            zeros = np.zeros(len(steps))
            self.replay.add(steps, zeros.astype(int), zeros, zeros, ends & (zeros == 0))
            self.line.follow(steps)
        self.is_open[steps[ends]] = False
        lost = steps[~ends][self.rng.random((~ends).sum()) < 0.1]  # a life, or a lane
        begins = np.concatenate([starts, lost, steps[ends] if self.starts_at_once else lost[:0]])
        for _ in range(1 + int(self.rng.random() < 0.1)):
            self.replay.start(begins, np.zeros(len(begins)))
            self.line.follow(begins)
        self.is_open[begins] = True
        return len(steps)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), num_lanes=st.integers(1, 6), part=st.integers(1, 6),
    n_steps=st.integers(1, 4), stack=st.integers(1, 3), batch_size=st.integers(1, 17),
    more=st.integers(0, 30),
)  # fmt: skip
def test_each_transition_is_drawn_once_and_in_order(
    seed, num_lanes, part, n_steps, stack, batch_size, more
):
    """As the slow twin has it, in a ring of the size that a run's has."""
    part = min(part, num_lanes)
    config = Config(
        replay=False, num_envs=num_lanes, n_steps=n_steps, train_frequency=batch_size,
        env_batch_size=part, learning_starts=num_lanes * (n_steps - 1) + batch_size - 1 + more,
    )  # fmt: skip
    asked = sized(config, stack)
    assert asked["batch_size"] == batch_size
    rows = rows_per_lane(asked["buffer_size"], num_lanes, n_steps, stack)
    replay = make_replay(num_lanes, rows, n_steps, stack)
    line = Line(replay)
    life, cadence = (
        Life(seed, replay, line),
        Cadence(config.learning_starts, config.train_frequency, 0, 1),
    )
    steps, seen = 0, []
    for _ in range(40):
        before = steps
        steps += life.turn(part)
        for _ in range(cadence.updates_due(before, steps)):
            rows_of_batch = drawn(replay, batch_size)
            assert rows_of_batch == line.draw(batch_size)
            seen += rows_of_batch
    assert len(set(seen)) == len(seen)
    assert seen == line.rows[line.place - len(seen) : line.place]  # without gaps


def test_the_first_draw_skips_old_rows():
    replay = make_replay(rows=100, n_steps=2)
    replay.start([0], np.zeros(1))
    play(replay, 50)  # rows 0 to 48 are complete
    assert drawn(replay, 4) == [43, 44, 45, 46]
    assert drawn(replay, 2) == [47, 48]


def test_rows_are_drawn_in_the_order_of_completion():
    replay = make_replay(num_lanes=3)
    replay.start([0, 1, 2], np.zeros(3))
    play(replay, 1, lanes=[2, 0])
    play(replay, 1, lanes=[1])
    play(replay, 1, lanes=[0])
    assert drawn(replay, 4) == [2, 0, 1, 3]


def test_the_rest_of_an_episode_completes_with_its_end():
    replay = make_replay(n_steps=3)
    replay.start([0], np.zeros(1))
    play(replay, 3, end=True)
    assert drawn(replay, 3) == [0, 1, 2]


def test_too_few_rows_are_an_error_and_stay_in_the_queue():
    replay = make_replay()
    replay.start([0], np.zeros(1))
    play(replay, 2)
    with pytest.raises(RuntimeError, match="at most 2 rows were added"):
        drawn(replay, 3)
    play(replay, 1)
    assert drawn(replay, 3) == [0, 1, 2]


def test_overwritten_rows_are_not_drawn():
    replay = make_replay(rows=8)
    replay.start([0], np.zeros(1))
    play(replay, 2)
    assert drawn(replay, 1) == [0]
    play(replay, 20)  # rows 0 to 14 are gone; 22 is open
    assert drawn(replay, 7) == [15, 16, 17, 18, 19, 20, 21]


def test_a_ring_of_another_size_is_rejected():
    with pytest.raises(ValueError, match="the sampler has 7 slots, but the ring has 1 x 8"):
        Replay(Ring(1, 8), RowStore(1, 8, (), np.float32), NewestSampler(7))


# -- its state


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"first": 9}, "behind is 5, must be from first, 9"),
        ({"behind": 99}, "to 32 more"),
        ({"next": np.array([99])}, "next is larger than the number of rows"),
        ({"next": np.array([-1])}, "next is larger than the number of rows"),
        ({"line": np.zeros(3, np.int64)}, "line has shape"),
        ({"begun": 1}, "begun is of type int"),
    ],
)
def test_an_invalid_state_is_rejected(changes, says):
    replay = make_replay()
    replay.start([0], np.zeros(1))
    play(replay, 5)
    state = replay.sampler.state()
    replay.sampler.load_state(state, replay.ring, 1)
    with pytest.raises(StateError, match=says):
        replay.sampler.load_state(state | changes, replay.ring, 1)


def test_any_queue_of_a_state_is_safe_to_draw_from():
    """Rows are validated again, and invalid ones are skipped."""
    replay = make_replay()
    replay.start([0], np.zeros(1))
    play(replay, 5)
    state = replay.sampler.state()
    state["line"][:5] = [-7, 3, 1 << 60, 2, 4]
    replay.sampler.load_state(state, replay.ring, 1)
    assert drawn(replay, 3) == [3, 2, 4]


# -- in a run


@pytest.mark.slow
@pytest.mark.parametrize(("num_envs", "per"), [(1, 1), (4, 3), (7, 16), (64, 5)])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_a_run_learns_from_each_transition_once(tmp_path, num_envs, per, n_steps, monkeypatch):
    given, draw = [], NewestSampler.draw

    def draw_and_tell(sampler, ring, n, index, weight, steps):
        draw(sampler, ring, n, index, weight, steps)
        given.extend(index.tolist())

    monkeypatch.setattr(NewestSampler, "draw", draw_and_tell)
    config = small(
        tmp_path, replay=False, num_envs=num_envs, train_frequency=per, n_steps=n_steps,
        learning_starts=132, total_timesteps=900,
    )  # fmt: skip
    session, _ = run_loop(config)
    updates = 900 // per - 132 // per
    assert session.run.learner.updates == updates
    assert len(given) == len(set(given)) == updates * per
    assert session.config.batch_size == len(session.run.staging.host.index) == per
    by_lane = np.array(given) % num_envs
    for lane in range(num_envs):
        assert (np.diff(np.array(given)[by_lane == lane]) > 0).all()
    assert session.run.replay.nbytes < 100_000


def test_a_run_reports_its_resolved_options():
    (line,) = remarks(Config(replay=False))
    assert line.startswith("without replay an update learns from the newest 4 transitions, each")
    assert Config().replace(**sized(Config(), 4)) == Config()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prioritized": True}, "leave out --no-replay or --prioritized"),
        ({"train_frequency": "1/2"}, "it must be a whole number, at least 1"),
        ({"train_frequency": "5/2"}, "train_frequency is 5/2: without replay"),
    ],
)
def test_options_that_need_a_replay_are_rejected_without_one(changes, says):
    (line,) = Config(replay=False, **changes).problems()
    assert says in line
    assert Config(replay=False, buffer_size=1, num_envs=64).problems() == []


@pytest.mark.parametrize(("num_envs", "per", "n_steps"), [(4, 3, 3), (1, 1, 1), (2, 32, 1)])
def test_learning_starts_with_the_first_whole_batch(tmp_path, num_envs, per, n_steps):
    first = num_envs * (n_steps - 1) + per - 1
    config = small(
        tmp_path, replay=False, num_envs=num_envs, n_steps=n_steps, train_frequency=per,
        learning_starts=first, total_timesteps=300,
    )  # fmt: skip
    session, _ = run_loop(config)
    assert session.run.learner.updates == 300 // per - first // per
    if first:
        (line,) = config.replace(learning_starts=first - 1).problems()
        assert line.startswith(f"learning_starts is {first - 1}")
