"""Slow references of the fast code, in plain Python.

ReplayModel remembers experience as lists of episodes. ScriptedEnv is an environment whose every
number is known beforehand, and lived_alone() is the loop that a single one of them goes through.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from fastdqn.replay import Batch, Replay, Ring, RowStore, UniformSampler

# -- replay ---------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """The result of one action."""

    action: int
    reward: float
    terminated: bool
    truncated: bool


class Window(NamedTuple):
    """An n-step transition: the expected content of one row of a batch."""

    obs: Any
    action: int
    reward: float
    discount: float
    next_obs: Any


@dataclass
class Episode:
    """An episode: obs[t], then outcomes[t], then obs[t + 1]."""

    obs: list
    outcomes: list[Outcome] = field(default_factory=list)
    over: bool = False

    def add(self, outcome: Outcome, next_obs) -> None:
        self.outcomes.append(outcome)
        self.obs.append(next_obs)
        self.over = outcome.terminated or outcome.truncated

    def close(self) -> None:
        if not self.over and self.outcomes:
            self.outcomes[-1] = self.outcomes[-1]._replace(truncated=True)
        self.over = True

    def has_window(self, t: int, n_steps: int) -> bool:
        """Returns whether step t has an action and a complete window."""
        return t < len(self.outcomes) and (self.over or t + n_steps <= len(self.outcomes))

    def window(self, t: int, n_steps: int, gamma: float) -> Window:
        total, discount = 0.0, 1.0
        summed = self.outcomes[t : t + n_steps]  # an episode's end is the list's end
        for outcome in summed:
            total += discount * outcome.reward
            discount *= 0.0 if outcome.terminated else gamma
        last = t + len(summed)
        return Window(self.obs[t], self.outcomes[t].action, total, discount, self.obs[last])


class LaneModel:
    """One lane: all its episodes. Rows are their observations in order.

    lead  dead rows that each episode begins with
    """

    def __init__(self, lead: int = 0):
        self.episodes: list[Episode] = []
        self.lead = lead

    @property
    def is_open(self) -> bool:
        return bool(self.episodes) and not self.episodes[-1].over

    @property
    def added(self) -> int:
        return sum(self.lead + len(episode.obs) for episode in self.episodes)

    def start(self, obs) -> None:
        self.close()
        self.episodes.append(Episode([obs]))

    def add(self, outcome: Outcome, next_obs) -> None:
        assert self.is_open
        self.episodes[-1].add(outcome, next_obs)

    def close(self) -> None:
        if self.is_open:
            self.episodes[-1].close()

    def windows(self, rows: int, n_steps: int, gamma: float, stack: int) -> dict[int, Window]:
        """Returns every valid row of a lane with capacity `rows`, by row number."""
        oldest = max(0, self.added - rows)
        found, row = {}, 0
        for episode in self.episodes:
            row += self.lead
            for t in range(len(episode.obs)):
                if row - (stack - 1) >= oldest and episode.has_window(t, n_steps):
                    found[row] = episode.window(t, n_steps, gamma)
                row += 1
        return found


class ReplayModel:
    """The expected content of a Replay of the same size after the same calls."""

    def __init__(self, num_lanes: int, rows: int, n_steps: int, gamma: float, stack: int = 1):
        self.lanes = [LaneModel(stack - 1) for _ in range(num_lanes)]
        self.rows, self.n_steps, self.gamma, self.stack = rows, n_steps, gamma, stack

    def __len__(self) -> int:
        return sum(min(lane.added, self.rows) for lane in self.lanes)

    def valid(self) -> dict[int, Window]:
        """Returns every row that may be sampled, by absolute row id."""
        return {
            row * len(self.lanes) + number: window
            for number, lane in enumerate(self.lanes)
            for row, window in lane.windows(
                self.rows, self.n_steps, self.gamma, self.stack
            ).items()
        }  # fmt: skip


def make_replay(
    num_lanes=1,
    rows=32,
    n_steps=1,
    gamma=0.5,
    stack=1,
    obs_shape: tuple[int, ...] = (),
    obs_dtype: Any = np.float32,
    seed=0,
    store: type = RowStore,
) -> Replay:
    """Returns a replay, built as in builders/agent.py."""
    return Replay(
        Ring(num_lanes, rows, stack),
        store(num_lanes, rows, obs_shape, obs_dtype),
        UniformSampler(seed),
        n_steps=n_steps,
        gamma=gamma,
    )


class Stacks:
    """Stacked observations [K, 2] of each lane, with distinct frames."""

    def __init__(self, num_lanes: int, stack: int):
        self.last, self.frames = np.zeros((num_lanes, stack, 2), np.float32), 0

    def _frame(self, lane: int) -> tuple[int, int]:
        self.frames += 1
        return lane, self.frames

    def begin(self, lanes) -> np.ndarray:
        """Returns first observations [S, K, 2] with new frames."""
        for lane in lanes:
            self.last[lane] = [self._frame(lane) for _ in self.last[lane]]
        return self.last[lanes].copy()

    def step(self, lanes) -> np.ndarray:
        """Returns the next observations [M, K, 2], one frame later."""
        for lane in lanes:
            self.last[lane] = [*self.last[lane][1:], self._frame(lane)]
        return self.last[lanes].copy()


def valid_rows(replay: Replay) -> np.ndarray:
    """Returns the absolute ids that the replay reports as valid."""
    ids = np.arange(-3, (replay.ring.added.max() + 3) * replay.ring.num_lanes)
    return ids[replay.ring.is_valid(ids, replay.n_steps)]


def read_rows(replay: Replay, index: np.ndarray) -> Batch:
    """Returns given rows as a batch, through the code that sample() uses."""
    batch = replay.new_batch(len(index))
    batch.index[:] = index
    slots = np.zeros((2, len(index)), np.int64)
    replay.ring.windows(batch.index, replay.n_steps, replay.gamma, batch, *slots)
    replay.store.gather(slots[0], batch.obs)
    replay.store.gather(slots[1], batch.next_obs)
    return batch


def assert_rows_equal(batch: Batch, windows: dict[int, Window]) -> None:
    """Asserts that every row of a batch is valid and has the content of its window."""
    for i, row in enumerate(batch.index.tolist()):
        window = windows[row]
        np.testing.assert_array_equal(batch.obs[i], window.obs)
        np.testing.assert_array_equal(batch.next_obs[i], window.next_obs)
        assert batch.action[i] == window.action
        np.testing.assert_allclose(batch.reward[i], window.reward, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batch.discount[i], window.discount, rtol=1e-6)
        assert batch.weight[i] in (0.0, 1.0)  # read_rows() leaves it at zero


# -- random numbers -------------------------------------------------------------------------------


class Xoshiro:
    """xoshiro256++ as published by Blackman and Vigna, with unbounded integers."""

    MASK = (1 << 64) - 1

    def __init__(self, state):
        self.s = [int(word) for word in state]

    def _rotate(self, x: int, k: int) -> int:
        return ((x << k) | (x >> (64 - k))) & self.MASK

    def next(self) -> int:
        s = self.s
        result = (self._rotate((s[0] + s[3]) & self.MASK, 23) + s[0]) & self.MASK
        t = (s[1] << 17) & self.MASK
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = self._rotate(s[3], 45)
        return result

    def uniform(self) -> float:
        return (self.next() >> 11) / 2**53


# -- environments ---------------------------------------------------------------------------------

TERMINATED, TRUNCATED, BOTH = "terminated", "truncated", "both"
ENDS = (TERMINATED, TRUNCATED, BOTH)
NUM_ACTIONS = 4


def scripted_action(lane: int, step: int) -> int:
    """Returns the action of an environment at a step, counted from 0 over all episodes."""
    return (lane + step * step + step // 3) % NUM_ACTIONS


def scripted_reward(lane: int, episode: int, t: int, action: int) -> float:
    """Returns a reward that is exact in float32 and unique."""
    return lane + episode / 8 + t / 64 - 2 * action


class ScriptedEnv(gymnasium.Env):
    """Observes (env, episode, t). Episode e has script[e][0] steps and ends as script[e][1].

    The script repeats when it is used up. A reset with a seed goes back to its beginning.
    reuse_buffer  hand out the same array each time; obs_dtype, action_start  of the spaces
    Stepping a finished episode is an error: only a reset may follow.
    """

    def __init__(
        self, lane, script, reuse_buffer=False, obs_dtype: Any = np.float32, action_start=0
    ):
        high = 1e6 if np.dtype(obs_dtype).kind == "f" else np.iinfo(obs_dtype).max
        self.observation_space = gymnasium.spaces.Box(0, high, (3,), obs_dtype)
        self.action_space = gymnasium.spaces.Discrete(NUM_ACTIONS, start=action_start)
        self.lane, self.script, self.reuse_buffer = lane, script, reuse_buffer
        self.episode, self.t, self.over = -1, 0, True
        self._buffer = np.zeros(3, obs_dtype)

    def _observe(self):
        self._buffer[:] = self.lane, self.episode, self.t
        return self._buffer if self.reuse_buffer else self._buffer.copy()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode = self.episode + 1 if seed is None else 0
        self.t, self.over = 0, False
        return self._observe(), {}

    def step(self, action):
        assert not self.over, "a finished episode was stepped"
        assert self.action_space.contains(action), f"{action} is outside {self.action_space}"
        counted = int(action) - int(self.action_space.start)  # pyright: ignore[reportAttributeAccessIssue]
        reward = scripted_reward(self.lane, self.episode, self.t, counted)
        length, end = self.script[self.episode % len(self.script)]
        self.t += 1
        self.over = self.t == length
        terminated = self.over and end in (TERMINATED, BOTH)
        return self._observe(), reward, terminated, self.over and end in (TRUNCATED, BOTH), {}


def random_script(rng: np.random.Generator, episodes: int = 6, longest: int = 5) -> list:
    """Returns episode lengths from 1 to longest, with random ends."""
    return [(int(rng.integers(1, longest + 1)), str(rng.choice(ENDS))) for _ in range(episodes)]


def lived_alone(env: gymnasium.Env, lane: int, num_steps: int) -> tuple[LaneModel, list]:
    """Returns num_steps of one environment in a plain loop, with scripted actions.

    returns  the lane as it should be stored, and (return, length) of every finished episode
    """
    model, ended = LaneModel(), []
    obs, _ = env.reset(seed=0)
    model.start(obs)
    total, length = 0.0, 0
    for step in range(num_steps):
        if not model.is_open:
            obs, _ = env.reset()
            model.start(obs)
        action = scripted_action(lane, step)
        start = getattr(env.action_space, "start", 0)
        obs, reward, terminated, truncated, _ = env.step(action + start)
        model.add(Outcome(action, float(reward), bool(terminated), bool(truncated)), obs)
        total, length = total + float(reward), length + 1
        if terminated or truncated:
            ended.append((total, length))
            total, length = 0.0, 0
    return model, ended
