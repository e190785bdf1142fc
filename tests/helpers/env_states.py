"""For tests of environment states: environments, and the check that one continues exactly."""

import json
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from fastdqn.envs import EnvStream

MODES = list(AutoresetMode)
every_mode = pytest.mark.parametrize("mode", MODES)


class Walk(gymnasium.Env):
    """A user's environment with masks, a state of its own, and hidden randomness."""

    observation_space = spaces.Dict({"at": spaces.Box(-99, 99, (2,)), "t": spaces.Discrete(9)})
    action_space = spaces.Discrete(3, start=1)

    def __init__(self):
        self.at, self.t = np.zeros(2, np.float32), 0

    def get_state(self) -> Any:
        return {"at": self.at, "t": self.t}

    def set_state(self, state):
        if state["t"] > 8:
            raise RuntimeError("no such time")
        self.at, self.t = state["at"], state["t"]

    def _told(self):
        mask = np.array([True, self.t % 2 == 0, self.at[0] > 0])
        return {"at": self.at, "t": self.t}, {"action_mask": mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.t = self.np_random.normal(size=2).astype(np.float32), 0
        return self._told()

    def step(self, action):
        self.at = self.at + np.float32(action) * self.np_random.normal(size=2).astype(np.float32)
        self.t += 1
        return (
            *self._told()[:1],
            float(self.at[0]),
            self.t == 8,
            bool(self.at[1] > 4),
            self._told()[1],
        )


class Sum(gymnasium.Wrapper):
    """Observes the sum of rewards of the episode, and has a state."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)  # pyright: ignore
    total = 0.0

    def get_state(self):
        return {"total": self.total}

    def set_state(self, state):
        self.total = state["total"]

    def reset(self, **kwargs):
        self.total = 0.0
        return np.array([0.0]), self.env.reset(**kwargs)[1]

    def step(self, action):
        _, reward, terminated, truncated, info = self.env.step(action)
        self.total += float(reward)
        return np.array([self.total]), reward, terminated, truncated, info


class Walks(VectorEnv):
    """A user's vector environment with a state of its own. Episodes end at random."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (1,))
        self.single_action_space = spaces.Discrete(2)
        self.at = np.zeros((num_envs, 1), np.float32)

    def get_state(self):
        return {"at": self.at}

    def set_state(self, state):
        self.at = state["at"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.normal(size=self.at.shape).astype(np.float32)
        return self.at, {}

    def step(self, actions):
        last = self.at + self.np_random.normal(size=self.at.shape).astype(np.float32)
        ended = self.np_random.random(self.num_envs) < 0.1
        self.at = np.where(ended[:, None], np.float32(0), last)
        info = {"final_obs": last, "_final_obs": ended} if ended.any() else {}
        return self.at, last[:, 0], ended, np.zeros_like(ended), info


def made(env_id: str, *around, limit: int | None = None, **kwargs):
    """Returns a function that makes one environment with wrappers, the innermost first."""

    def make_lane():
        limits = {} if limit is None else {"max_episode_steps": limit}
        env = gymnasium.make(env_id, **limits, **kwargs)
        for wrapper in around:
            env = wrapper(env)
        return env

    return make_lane


def times_two(value):
    return value * 2


LANES = {
    "CartPole": made("CartPole-v1", limit=30),
    "CartPole, one reward": made("CartPole-v1", sutton_barto_reward=True),
    "Acrobot": made("Acrobot-v1", limit=25),
    "MountainCar": made("MountainCar-v0", limit=20),
    "FrozenLake": made("FrozenLake-v1"),
    "FrozenLake 8x8": made("FrozenLake8x8-v1", limit=15),
    "Taxi": made("Taxi-v4", limit=20),
    "Taxi, rain": made("Taxi-v4", is_rainy=True, fickle_passenger=True, limit=40),
    "CliffWalking": made("CliffWalking-v1", limit=20),
    "CliffWalking, ice": made("CliffWalkingSlippery-v1", limit=20),
    "Blackjack": made("Blackjack-v1", natural=True),
    "time": made("CartPole-v1", wrappers.TimeAwareObservation, limit=15),
    "time, dict": made(
        "CartPole-v1",
        partial(wrappers.TimeAwareObservation, flatten=False, normalize_time=True),
        limit=15,
    ),
    "wrapped": made(
        "MountainCar-v0",
        partial(wrappers.RescaleObservation, min_obs=np.float32(0), max_obs=np.float32(1)),
        partial(wrappers.DtypeObservation, dtype=np.float32),
        wrappers.FlattenObservation,
        partial(wrappers.ReshapeObservation, shape=(2, 1)),
        partial(wrappers.TransformObservation, func=times_two, observation_space=None),
        partial(wrappers.TransformReward, func=times_two),
        partial(wrappers.ClipReward, min_reward=-1, max_reward=1),
        limit=12,
    ),
    "bare": CartPoleEnv,
    "own": Walk,
    "own, wrapped": lambda: Sum(wrappers.TimeLimit(Walk(), 5)),
}


def sync(lane: str, mode=AutoresetMode.NEXT_STEP, num_envs=3, **kwargs) -> SyncVectorEnv:
    return SyncVectorEnv([LANES[lane]] * num_envs, autoreset_mode=mode, copy=False, **kwargs)


def native(num_envs=5, **kwargs) -> VectorEnv:
    kwargs = {"max_episode_steps": 23, **kwargs}
    return gymnasium.make_vec("CartPole-v1", num_envs, "vector_entry_point", **kwargs)


def through_files(value: Any) -> Any:
    """Returns a state as read from a checkpoint: arrays, and the rest through JSON."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {json.loads(json.dumps(key)): through_files(inner) for key, inner in value.items()}
    return json.loads(json.dumps(value))


def advance(stream: EnvStream, actions: np.random.Generator, steps: int) -> list[list]:
    """Returns copies of all steps, with random allowed actions."""
    told = []
    for _ in range(steps):
        allowed = np.ones((stream.num_ready, stream.facts.num_actions), np.bool_)
        allowed = allowed if stream.mask is None else stream.mask
        stream.send((actions.random(allowed.shape) * allowed).argmax(1))
        step = stream.recv()
        told.append([None if column is None else np.array(column) for column in step])
    return told


def assert_goes_on(make, before: int, after: int, seed: int = 3) -> None:
    """Asserts that a stream over new environments continues exactly from a state."""
    first = EnvStream(make())
    first.start(seed)
    advance(first, np.random.default_rng(seed), before)
    state = first.state()
    kept, obs = through_files(state), first.obs.copy()
    expected = advance(first, np.random.default_rng(seed + 1), after)
    first.close()
    fresh = EnvStream(make())
    if seed % 2:  # used ones serve as well as ones that were never reset
        fresh.start(seed + 99)
        advance(fresh, np.random.default_rng(0), 4)
    assert fresh.load_state(kept)
    assert flat(fresh.state()) == flat(kept)
    assert fresh.obs.tobytes() == obs.tobytes()
    found = advance(fresh, np.random.default_rng(seed + 1), after)
    fresh.close()
    for i, (one, other) in enumerate(zip(expected, found, strict=True)):
        for a, b in zip(one, other, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert a.dtype == b.dtype, i
                assert a.shape == b.shape, i
                assert a.tobytes() == b.tobytes(), i


def flat(value: Any) -> Any:
    """Returns a state in a form that == compares."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return {key: flat(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def paths(state: Any) -> list[str]:
    """Returns the dotted path of each field."""
    found = []
    for key, inner in state.items() if isinstance(state, dict) else ():
        found += [key, *(f"{key}.{path}" for path in paths(inner))]
    return found


def changed(state: Any, path: str, value: Any) -> Any:
    """Returns a state with one field replaced, given its dotted path."""
    state = through_files(state)
    *way, last = path.split(".")
    inner = state
    for key in way:
        inner = inner[key]
    inner[last] = value
    return state


PCG = {"bit_generator": "PCG64", "state": {"state": 1, "inc": 1}, "has_uint32": 0, "uinteger": 0}


class Derived(CartPoleEnv):
    pass
