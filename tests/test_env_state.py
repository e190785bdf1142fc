"""Environments and streams go on, in fresh environments, exactly where their state was taken."""

import json
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdqn.acting import EnvStream, read_env_state, why_unreadable, write_env_state
from fastdqn.acting.generators import make_generator, read_generator
from fastdqn.plain import copy_plain

MODES = list(AutoresetMode)
every_mode = pytest.mark.parametrize("mode", MODES)


class Walk(gymnasium.Env):
    """A walk of anyone's, with masks, a state of its own, and randomness that it does not tell."""

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
    """Observes what the rewards of an episode add up to so far, and tells its state."""

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
    """A vector environment of anyone's with a state of its own; ends at random."""

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
    """A function that makes one lane, with wrappers around it, the first innermost."""

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
    """A state as a checkpoint keeps it: arrays as arrays, the rest as JSON."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {json.loads(json.dumps(key)): through_files(inner) for key, inner in value.items()}
    return json.loads(json.dumps(value))


def advance(stream: EnvStream, actions: np.random.Generator, steps: int) -> list[list]:
    """Every delivery of some steps with random actions that are allowed, as copies."""
    told = []
    for _ in range(steps):
        allowed = np.ones((stream.num_ready, stream.facts.num_actions), np.bool_)
        allowed = allowed if stream.mask is None else stream.mask
        stream.send((actions.random(allowed.shape) * allowed).argmax(1))
        step = stream.recv()
        told.append([None if column is None else np.array(column) for column in step])
    return told


def assert_goes_on(make, before: int, after: int, seed: int = 3) -> None:
    """A stream over fresh environments goes on from a state as the one that gave it does."""
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


# -- what goes on exactly


@every_mode
@pytest.mark.parametrize("lane", LANES)
def test_lanes_of_every_known_environment_and_wrapper_go_on_exactly(lane, mode):
    for seed, before in enumerate((0, 1, 13, 40)):
        assert_goes_on(partial(sync, lane, mode), before, 60, seed)


@pytest.mark.parametrize("before", [0, 1, 22, 23, 24, 57])
def test_native_cartpole_goes_on_exactly_across_ends_limits_and_resets(before):
    assert_goes_on(native, before, 120, before)
    assert_goes_on(partial(native, sutton_barto_reward=True), before, 60, before)


def test_a_vector_environment_of_anyones_goes_on_with_the_state_that_it_tells():
    assert_goes_on(partial(Walks, 4), 17, 50)


@settings(max_examples=60, deadline=None)
@given(
    lane=st.sampled_from([*LANES, None]),
    mode=st.sampled_from(MODES),
    before=st.integers(0, 90),
    seed=st.integers(0, 1 << 20),
)
def test_it_does_not_matter_where_the_state_is_taken(lane, mode, before, seed):
    assert_goes_on(native if lane is None else partial(sync, lane, mode), before, 40, seed)


def test_a_passenger_of_taxi_who_is_about_to_change_his_mind_still_does():
    first, fresh = (sync("Taxi, rain") for _ in range(2))
    first.reset(seed=1)
    for lane in first.envs:
        taxi: Any = lane.unwrapped
        taxi.s, taxi.fickle_step = taxi.encode(2, 2, 4, 0), True
    write_env_state(fresh, through_files(read_env_state(first)))
    seen = [envs.step(np.full(3, action))[0] for envs in (first, fresh) for action in (0, 1, 0)]
    np.testing.assert_array_equal(seen[:3], seen[3:])
    assert (np.array(seen) % 4 != 0).any()  # a destination changed


def test_bounds_of_a_reset_outlast_it_in_native_cartpole():
    first, fresh = native(max_episode_steps=2), native(max_episode_steps=2)
    first.reset(seed=1, options={"low": 0.3, "high": 0.4})
    write_env_state(fresh, through_files(read_env_state(first)))
    actions = np.zeros(5, np.int64)
    for _ in range(4):
        np.testing.assert_array_equal(first.step(actions)[0], fresh.step(actions)[0])


def test_a_reset_of_some_lanes_leaves_the_observations_of_the_others():
    first, fresh = (sync("own", AutoresetMode.DISABLED) for _ in range(2))
    first.reset(seed=1)
    write_env_state(fresh, through_files(read_env_state(first)))
    mask = np.array([False, True, False])
    for envs in (first, fresh):
        envs.reset(options={"reset_mask": mask})
    for key in ("at", "t"):
        np.testing.assert_array_equal(first._observations[key], fresh._observations[key])


def test_a_state_that_was_taken_does_not_change_when_the_environments_go_on():
    for make in (native, *(partial(sync, lane) for lane in LANES)):
        stream = EnvStream(make())
        stream.start(0)
        state = stream.state()
        kept = through_files(state)
        advance(stream, np.random.default_rng(0), 30)
        assert flat(state) == flat(kept)


def test_loading_leaves_the_state_as_it_was_and_shares_nothing_with_it():
    stream, fresh = EnvStream(sync("own")), EnvStream(sync("own"))
    stream.start(0)
    state = stream.state()
    kept = through_files(state)
    assert fresh.load_state(state)
    advance(fresh, np.random.default_rng(0), 30)
    assert flat(state) == flat(kept)


def flat(value: Any) -> Any:
    """A state as something that == compares."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return {key: flat(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def test_a_generator_is_set_in_place_where_an_environment_shares_it_with_its_parts():
    envs = sync("own", num_envs=1)
    envs.reset(seed=0)
    shared, state = envs.envs[0].unwrapped.np_random, read_env_state(envs)
    expected = shared.random()
    write_env_state(envs, state)
    assert envs.envs[0].unwrapped.np_random is shared
    assert shared.random() == expected


# What changes from step to step without being kept: pictures, checks, and what each step sets anew.
NOT_KEPT = {
    "_np_random", "_np_random_seed", "checked_reset", "checked_step", "checked_data_reuse",
    "_previous_data", "_rewards", "_terminations", "_truncations", "_cached_spec",
}  # fmt: skip
KEPT_OTHERWISE = {"_observations", "_env_obs", "_autoreset_envs"}


@pytest.mark.parametrize("make", [native, *(partial(sync, lane) for lane in LANES)])
def test_nothing_changes_in_known_environments_that_a_state_does_not_keep(make):
    """Fails where a new Gymnasium remembers more than we know of."""
    stream = EnvStream(make())
    layers: list[Any] = [stream.envs, *getattr(stream.envs, "envs", [])[:1]]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    stream.start(0)
    actions = np.random.default_rng(0)
    changing: set[str] = set()
    first = [{name: repr(value) for name, value in vars(layer).items()} for layer in layers]
    for _ in range(60):
        advance(stream, actions, 1)
        for layer, before in zip(layers, first, strict=True):
            now = {name: repr(value) for name, value in vars(layer).items()}
            changing |= {name for name in now if now[name] != before.get(name)}
    kept = {path.rpartition(".")[2] for path in paths(read_env_state(stream.envs))}
    assert changing - kept - NOT_KEPT <= KEPT_OTHERWISE


# -- what cannot be read


class Derived(CartPoleEnv):
    pass


class Looks(gymnasium.Wrapper):
    pass


class Tells(Walk):
    told: Any = None

    def get_state(self):
        if isinstance(self.told, Exception):
            raise self.told
        return {"told": self.told}


def telling(value):
    def make_lane():
        env = Tells()
        env.told = value
        return env

    return make_lane


@pytest.mark.parametrize(
    ("lane", "says"),
    [
        (Derived, "Derived is not known"),
        (lambda: Looks(CartPoleEnv()), "Looks is not known"),
        (made("CartPole-v1", partial(wrappers.FrameStackObservation, stack_size=2)), "FrameStack"),
        (made("CartPole-v1", wrappers.NormalizeObservation), "NormalizeObservation is not known"),
        (lambda: Looks(Walk()), "Looks is not known"),
        (telling(object()), r"get_state\(\).told is of type object"),
        (telling((1, 2)), "told is of type tuple"),
        (telling(np.float32(1)), "told is of type float32"),
        (telling([np.zeros(2)]), r"told\[0\] is of type ndarray"),
        (telling(np.array(["a"])), "told is of type ndarray"),
        (telling({1: 2}), "key that is no string"),
        (telling(RuntimeError("no state")), "RuntimeError: no state"),
    ],
)
def test_what_is_not_known_has_no_state_and_says_why(lane, says):
    envs = SyncVectorEnv([lane] * 2)
    envs.reset(seed=0)
    assert read_env_state(envs) is None
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(why_unreadable(envs))


class DerivedVector(SyncVectorEnv):
    pass


def test_derived_wrapped_and_remote_vector_environments_have_no_state():
    remote = AsyncVectorEnv([CartPoleEnv] * 2, context="forkserver")
    wrapped = gymnasium.wrappers.vector.RecordEpisodeStatistics(native())
    for envs in (remote, wrapped, DerivedVector([CartPoleEnv])):
        envs.reset(seed=0)
        assert read_env_state(envs) is None
        assert not EnvStream(envs).load_state(started("bare").state() | fitting(envs))
        envs.close()


def fitting(envs: VectorEnv) -> dict[str, Any]:
    """Arrays of a state that fit these environments, whatever its environments are."""
    stream = EnvStream(envs)
    return {name: values.copy() for name, values in stream._kept().items()}


def test_environments_in_threads_have_no_state():
    envpool, ale_py = pytest.importorskip("envpool"), pytest.importorskip("ale_py.vector_env")
    for envs in (
        envpool.make("CartPole-v1", env_type="gymnasium", num_envs=2),
        ale_py.AtariVectorEnv("pong", num_envs=1),
    ):
        assert read_env_state(envs) is None
        envs.close()


def test_environments_that_were_never_reset_have_no_state():
    for envs in (native(), *(sync(lane) for lane in LANES if "own" not in lane)):
        assert read_env_state(envs) is None
        assert "reset" in str(why_unreadable(envs))


def test_a_known_environment_has_no_reason_to_be_unreadable():
    envs = native()
    envs.reset(seed=0)
    assert why_unreadable(envs) is None


# -- states of streams


def started(lane: str = "CartPole", mode=AutoresetMode.NEXT_STEP) -> EnvStream:
    stream = EnvStream(sync(lane, mode))
    stream.start(seed=5)
    advance(stream, np.random.default_rng(1), 20)
    return stream


def test_a_stream_has_a_state_only_while_lanes_wait_for_actions():
    stream = EnvStream(sync("CartPole"))
    with pytest.raises(ValueError, match="after start"):
        stream.state()
    stream.start(0)
    stream.send(np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="before send"):
        stream.state()
    stream.recv()
    assert stream.state()["seed"] == 0


def test_a_state_without_environments_leaves_the_stream_as_it_was():
    lost = Looks(CartPoleEnv())
    stream, other = EnvStream(SyncVectorEnv([lambda: lost])), EnvStream(native(3))
    stream.start(0)
    assert stream.state()["envs"] is None
    assert not EnvStream(SyncVectorEnv([lambda: lost])).load_state(stream.state())
    other.start(1)
    before = flat(other.state())
    assert not other.load_state(started().state())  # of another kind
    assert flat(other.state()) == before
    fresh = EnvStream(native(3))
    assert not fresh.load_state(started().state())
    with pytest.raises(ValueError, match="after start"):
        fresh.state()


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("obs", np.zeros((3, 5), np.float32), r"stream.obs has shape \(3, 5\)"),
        ("obs", np.zeros((3, 4)), "stream.obs has dtype float64: float32"),
        ("obs", [0.0] * 4, "stream.obs is of type list: an array"),
        ("lanes", np.zeros(3, np.int64), "stream.lanes holds a lane twice"),
        ("lanes", np.array([0, 1, 3]), "stream.lanes holds a number outside 0 to 2"),
        ("action", np.array([0, 1, 2]), "stream.action holds a number outside 0 to 1"),
        ("returns", np.zeros(2), "stream.returns has shape"),
        ("lengths", np.zeros(3, np.int32), "stream.lengths has dtype int32"),
        ("unseen", np.zeros(3, np.int64), "stream.unseen has dtype int64"),
        ("mask", np.ones((3, 3), np.bool_), "stream.mask has shape"),
        ("mask", np.zeros((3, 2), np.bool_), "stream.mask allows no action"),
        ("seed", -1, "stream.seed is -1"),
        ("seed", 1.5, "stream.seed is of type float"),
        ("autoreset_mode", "Disabled", "stream.autoreset_mode is 'Disabled'"),
        ("surplus", 1, "stream.surplus is not known"),
        ("envs", {"kind": "sync"}, "envs.autoreset is missing"),
    ],
)
def test_a_malformed_state_of_a_stream_is_refused_by_field_and_changes_nothing(field, value, says):
    stream, state = started(), started("CartPole").state()
    before = flat(stream.state())
    with pytest.raises(ValueError, match=says):
        stream.load_state(state | {field: value})
    without = {key: inner for key, inner in state.items() if key != field}
    if field in state:
        with pytest.raises(ValueError, match=f"stream.{field} is missing"):
            stream.load_state(without)
    assert flat(stream.state()) == before


# -- malformed states of environments

PCG = {"bit_generator": "PCG64", "state": {"state": 1, "inc": 1}, "has_uint32": 0, "uinteger": 0}


def changed(state: Any, path: str, value: Any) -> Any:
    """A state with one field, named by a dotted path, replaced."""
    state = through_files(state)
    *way, last = path.split(".")
    inner = state
    for key in way:
        inner = inner[key]
    inner[last] = value
    return state


@pytest.mark.parametrize(
    ("lane", "path", "value"),
    [
        ("native", "kind", "sync"),
        ("native", "kind", 3),
        ("native", "state", np.zeros((4, 4))),
        ("native", "state", np.zeros((4, 5), np.float32)),
        ("native", "steps", np.zeros(5, np.int64)),
        ("native", "prev_done", None),
        ("native", "low", 1),
        ("native", "low", float("nan")),
        ("native", "high", -1.0),
        ("native", "generator", None),
        ("native", "generator.bit_generator", "os.system"),
        ("native", "generator.state.inc", -1),
        ("native", "generator.state.state", 1 << 128),
        ("native", "generator.state.more", 1),
        ("native", "generator.has_uint32", True),
        ("native", "surplus", 0),
        ("CartPole", "autoreset_mode", "SameStep"),
        ("CartPole", "autoreset", np.zeros(4, np.bool_)),
        ("CartPole", "autoreset", np.zeros(3, np.int8)),
        ("CartPole", "obs", np.zeros((3, 3), np.float32)),
        ("CartPole", "obs", {}),
        ("CartPole", "lanes.3", {}),
        ("CartPole", "lanes.2", None),
        ("CartPole", "lanes.2.0", 1),
        ("CartPole", "lanes.2.0.class", "OrderEnforcing"),
        ("CartPole", "lanes.2.0._elapsed_steps", -1),
        ("CartPole", "lanes.2.0._elapsed_steps", None),
        ("CartPole", "lanes.2.0.own", {}),
        ("CartPole", "lanes.2.1._has_reset", 1),
        ("CartPole", "lanes.2.3.state", np.zeros(5)),
        ("CartPole", "lanes.2.3.steps_beyond_terminated", "x"),
        ("CartPole", "lanes.2.3.generator", None),
        ("Acrobot", "lanes.0.3.state", np.zeros(4, np.int64)),
        ("Taxi", "lanes.1.3.s", 500),
        ("Taxi", "lanes.1.3.s", 1.0),
        ("Taxi", "lanes.1.3.lastaction", 6),
        ("Taxi", "lanes.1.3.fickle_step", 0),
        ("Blackjack", "lanes.1.2.player", [1]),
        ("Blackjack", "lanes.1.2.dealer", [1, 11]),
        ("Blackjack", "lanes.1.2.dealer_top_card_suit", "X"),
        ("time", "lanes.1.0.timesteps", 2.0),
        ("time, dict", "obs.obs", np.zeros(3)),
        ("own", "lanes.1.0.own", {"x": object()}),
        ("own", "lanes.1.0.generator.uinteger", 1 << 32),
    ],
)
def test_a_malformed_state_of_environments_is_refused_by_field_and_leaves_them_usable(
    lane, path, value
):
    make = native if lane == "native" else partial(sync, lane)
    stream = EnvStream(make())
    stream.start(1)
    state = read_env_state(stream.envs)
    before = flat(through_files(state))
    for given_state in (changed(state, path, value), changed(state, path, set())):
        with pytest.raises(ValueError, match=r"^envs\." + path.replace(".", r"\.")):
            write_env_state(stream.envs, given_state)
    assert flat(read_env_state(stream.envs)) == before
    advance(stream, np.random.default_rng(0), 5)
    stream.start(2)


def paths(state: Any) -> list[str]:
    """The dotted path to each field."""
    found = []
    for key, inner in state.items() if isinstance(state, dict) else ():
        found += [key, *(f"{key}.{path}" for path in paths(inner))]
    return found


JUNK = [
    None, True, -1, 3, 1 << 200, 0.5, float("nan"), "", "PCG64", [], [1], {}, {"0": 1},
    np.zeros(0), np.zeros(3), np.zeros((3, 4), np.float32), np.array(1), np.zeros(3, np.bool_),
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_junk_in_any_field_is_taken_as_it_is_or_refused_by_field(data):
    lane = data.draw(st.sampled_from(["native", "CartPole", "Taxi", "Blackjack", "time, dict"]))
    envs = native() if lane == "native" else sync(lane)
    envs.reset(seed=1)
    state = read_env_state(envs)
    before = flat(state)
    path, junk = data.draw(st.sampled_from(paths(state))), data.draw(st.sampled_from(JUNK))
    given_state = changed(state, path, junk)
    refusal = refused(envs, given_state)
    assert flat(read_env_state(envs)) == (before if refusal else flat(given_state))
    # Or another field that it makes impossible.
    assert not refusal or refusal.startswith(f"envs.{path}") or path == "low"


def refused(envs: VectorEnv, state: Any) -> str:
    try:
        write_env_state(envs, state)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("state", [None, 3, [], {}, {"kind": "sync", 1: 2}])
def test_what_is_no_state_at_all_is_refused(state):
    for envs in (native(), sync("Taxi"), Walks(2)):
        with pytest.raises(ValueError, match="envs"):
            write_env_state(envs, state)
    with pytest.raises(ValueError, match="stream"):
        EnvStream(native()).load_state(state)


def test_environments_that_take_no_state_say_so():
    with pytest.raises(ValueError, match="take no state: the state of Derived is not known"):
        write_env_state(SyncVectorEnv([Derived]), {})


def test_a_set_state_of_anyones_that_fails_is_named_by_lane_and_nothing_known_is_changed():
    envs = sync("own, wrapped")
    envs.reset(seed=0)
    state = changed(read_env_state(envs), "lanes.2.2.own.t", 9)
    state["lanes"]["0"]["1"]["_elapsed_steps"] = 4
    with pytest.raises(ValueError, match=r"envs.lanes.2.2.own: Walk.set_state.*no such time"):
        write_env_state(envs, state)
    assert read_env_state(envs)["lanes"]["0"]["1"]["_elapsed_steps"] == 0  # pyright: ignore


# -- generators

KINDS = ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_of_every_kind_goes_on_through_plain_values(kind):
    generator = np.random.Generator(getattr(np.random, kind)(7))
    for drawn in range(9):
        generator.integers(5, size=drawn, dtype=np.int32)  # leaves half a word behind
        other = make_generator(through_files(read_generator(generator)))
        assert generator.bytes(4) == other.bytes(4)
        assert generator.normal() == other.normal()


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (None, "generator.bit_generator is missing"),
        ({}, "generator.bit_generator is missing"),
        (PCG | {"bit_generator": "Generator"}, "generator.bit_generator is 'Generator'"),
        (PCG | {"bit_generator": ["PCG64"]}, "generator.bit_generator is"),
        (PCG | {"state": 1}, "generator.state is of type int: a dict"),
        (PCG | {"uinteger": "1"}, "generator.uinteger is of type str"),
        (PCG | {"extra": 1}, "generator.extra is not known"),
    ],
)
def test_a_generator_that_cannot_be_is_refused_by_field(state, says):
    with pytest.raises(ValueError, match=says):
        make_generator(state)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("MT19937", "state.pos", 625),
        ("MT19937", "state.pos", -1),
        ("MT19937", "state.key", np.zeros(623, np.uint32)),
        ("Philox", "buffer_pos", 5),
        ("Philox", "buffer_pos", -1),
        ("SFC64", "state.state", np.zeros(4, np.int64)),
    ],
)
def test_a_generator_never_reads_outside_of_its_own_arrays(kind, path, value):
    state = read_generator(np.random.Generator(getattr(np.random, kind)(0)))
    with pytest.raises(ValueError, match=f"generator.{path}"):
        make_generator(changed(state, path, value))


def test_a_bit_generator_of_anyones_is_not_read():
    class Mine(np.random.PCG64):
        pass

    with pytest.raises(ValueError, match="Mine is not one of PCG64"):
        read_generator(np.random.Generator(Mine(0)))


# -- plain values


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
        | st.lists(st.integers() | st.text(max_size=3), max_size=3),
        lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    )
)  # fmt: skip
def test_plain_values_are_copied_as_they_are(value):
    copied = copy_plain(value, "value")
    assert copied == value
    assert through_files(copied) == value
