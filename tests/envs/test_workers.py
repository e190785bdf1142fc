"""WorkerVectorEnv: worker processes with many environments each give the bits of SyncVectorEnv."""

import itertools
import json
import multiprocessing
import os
import signal
import time
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastdqn
from fastdqn.builders import preflight
from fastdqn.envs import EnvError, EnvRecipe, EnvStream
from fastdqn.envs.env_state import why_unreadable
from fastdqn.envs.sub_env import SubEnv
from fastdqn.envs.watchdog import watch
from fastdqn.envs.worker_vector_env import WorkerVectorEnv
from helpers.loop import small

MODES = list(AutoresetMode)
every_mode = pytest.mark.parametrize("mode", MODES)


class Mixed(gymnasium.Env):
    """Draws from its generator; masks in info, nested observations, a number at episode ends."""

    observation_space: spaces.Space = spaces.Dict(
        {
            "place": spaces.Box(-9.0, 9.0, (2,), np.float64),
            "pair": spaces.Tuple([spaces.Discrete(3), spaces.MultiBinary(2)]),
        }
    )
    action_space: spaces.Space = spaces.Discrete(3, start=1)

    def _result(self) -> tuple[Any, dict]:
        draw = self.np_random.integers(3)
        obs = {"place": self.np_random.normal(size=2), "pair": (draw, np.array([draw, 1]) > 0)}
        return obs, {"action_mask": np.arange(3) != draw, "other": object()}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._result()

    def step(self, action) -> Any:
        self.t += 1
        obs, info = self._result()
        ends = bool(self.np_random.random() < 0.2)
        if ends:
            info["score"] = self.t
        return obs, float(action), ends, self.t == 6, info


class Varied(gymnasium.Env):
    """Returns numbers of other types, masks now and then, and observations in a shared array."""

    observation_space: spaces.Space = spaces.Box(-9.0, 9.0, (2,), np.float32)
    action_space: spaces.Space = spaces.Discrete(3)
    shared = np.zeros(2, np.float32)

    def _result(self, starts: bool) -> tuple[Any, dict]:
        draw = int(self.np_random.integers(4))
        self.shared[:] = self.np_random.normal(size=2)
        obs = self.shared.astype(np.float64) if draw == 0 else self.shared
        return obs, {"action_mask": np.arange(3) != draw} if starts or draw < 2 else {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._result(True)

    def step(self, action) -> Any:
        self.t += 1
        forms = (float, np.float32, np.float64, int, np.array)
        flags = (bool, np.bool_, int, np.array, bool)
        form, flag = forms[self.t % 5], flags[self.t % 5]
        obs, info = self._result(False)
        return obs, form(self.t), flag(self.np_random.random() < 0.2), flag(self.t == 7), info


def stacked() -> gymnasium.Env:
    return FrameStackObservation(gymnasium.make("MountainCar-v0", max_episode_steps=9), 3)


def played(stream: EnvStream, calls: int, seed: int = 0, starts: bool = True) -> list[np.ndarray]:
    """Every array of every step with random actions, the allowed ones if there are masks."""
    rng, arrays = np.random.default_rng(seed), []
    steps = [stream.start(seed=7)] if starts else []
    for _ in range(calls):
        action = rng.integers(stream.facts.num_actions, size=stream.num_ready)
        if stream.mask is not None:
            action = stream.mask.argmax(1)
        stream.send(action)
        steps.append(stream.recv())
        arrays += [each.copy() for each in steps[-1] if isinstance(each, np.ndarray)]
        arrays += [values.copy() for values in (steps[-1].info or {}).values()]
    return arrays


def assert_same(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def stream_of(env, vectorization, mode, num_envs=5, workers=None, **how) -> EnvStream:
    keys = ("score",) if env is Mixed else ()
    recipe = EnvRecipe(env, vectorization, info_keys=keys, workers=workers)
    return EnvStream(recipe.make(num_envs, autoreset_mode=mode), info_keys=keys, **how)


def test_a_stream_of_partial_batches_has_no_exact_state():
    """Sub-environments whose results were not received yet have stepped on."""
    stream = stream_of("CartPole-v1", "workers", AutoresetMode.NEXT_STEP, 4, 2, env_batch_size=2)
    stream.start(seed=0)
    assert stream.state()["envs"] is None
    stream.close()


class Large(gymnasium.Env):
    """Has a state that is larger than a pipe."""

    observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)
    pixels = np.zeros(1 << 20, np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action) -> Any:
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def get_state(self):
        return {"pixels": self.pixels}

    def set_state(self, state):
        self.pixels = state["pixels"]


def test_a_state_larger_than_a_pipe_is_read_and_loaded():
    stream = stream_of(Large, "workers", AutoresetMode.NEXT_STEP, 2, 1)
    stream.start(seed=0)
    state = stream.state()
    of_second = state["envs"]["lanes"]["1"]["0"]
    of_second["own"]["pixels"] = np.full(1 << 20, 7, np.uint8)
    assert stream.load_state(state)
    again = stream.state()["envs"]["lanes"]["1"]["0"]["own"]["pixels"]
    assert again.min() == again.max() == 7
    stream.close()


def test_a_worker_that_died_leaves_no_stale_state():
    stream = stream_of("CartPole-v1", "workers", AutoresetMode.NEXT_STEP, 4, 2)
    envs: Any = stream.envs
    played(stream, 5)
    envs.processes[0].kill()
    envs.processes[0].join()
    assert stream.state()["envs"] is None
    assert not envs.pipes[1].poll(0)  # the answer of the other worker was read
    stream.close()


@pytest.mark.slow
@every_mode
@pytest.mark.parametrize("env", ["CartPole-v1", "Taxi-v4", Mixed, Varied, stacked])
@pytest.mark.parametrize("workers", [2, 5])
def test_the_steps_are_those_of_sync(env, mode, workers):
    streams = [stream_of(env, how, mode, 5, workers) for how in ("sync", "workers")]
    facts = [stream.facts._replace(observation_space=None) for stream in streams]
    assert facts[0] == facts[1]
    assert_same(*[played(stream, 60) for stream in streams])
    for stream in streams:
        stream.close()
    assert not multiprocessing.active_children()


@pytest.mark.slow
@every_mode
@pytest.mark.parametrize(
    ("one", "other"), [("sync", "workers"), ("workers", "sync"), ("workers",) * 2]
)
def test_a_state_continues_in_either(one, other, mode):
    first, second = (stream_of("CartPole-v1", how, mode, 5, 2) for how in (one, other))
    played(first, 37)
    state = first.state()
    played(second, 5, seed=3)
    assert second.load_state(state)
    assert_same(*[played(stream, 60, seed=4, starts=False) for stream in (first, second)])
    first.close()
    second.close()


@pytest.mark.parametrize("field", ["autoreset", "obs", "lanes", "autoreset_mode"])
def test_a_state_that_does_not_fit_changes_nothing(field):
    stream = stream_of("CartPole-v1", "workers", AutoresetMode.NEXT_STEP, 4, 2)
    played(stream, 9)
    before, broken = stream.state(), stream.state()
    broken["envs"][field] = {"0": {}, "1": {}, "2": {}, "3": {}} if field == "lanes" else "x"
    with pytest.raises(ValueError, match=f"envs.{field}"):
        stream.load_state(broken)
    after = stream.state()
    np.testing.assert_equal(after["envs"], before["envs"])
    stream.close()


def test_the_state_of_an_unknown_environment_is_not_read():
    stream = stream_of(Mixed, "workers", AutoresetMode.NEXT_STEP, 2, 1)
    stream.start(seed=0)
    assert stream.state()["envs"] is None
    stream.close()


def test_the_groups_differ_by_one_at_most():
    envs = EnvRecipe("CartPole-v1", "workers", workers=3).make(8)
    assert isinstance(envs, WorkerVectorEnv)
    assert envs.groups == [range(3), range(3, 6), range(6, 8)]
    envs.close()
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_partial_batches_are_whole_groups_and_starve_none():
    stream = stream_of("CartPole-v1", "workers", AutoresetMode.NEXT_STEP, 8, 4, env_batch_size=4)
    stream.start(seed=0)
    counts = np.zeros(8, int)
    for _ in range(200):
        lanes = stream.lanes.reshape(2, 2)
        assert (lanes[:, 0] % 2 == 0).all()
        assert (lanes[:, 1] == lanes[:, 0] + 1).all()
        stream.send(np.zeros(4, np.int64))
        counts[stream.recv().lanes] += 1
    assert counts.min() > 50
    stream.close()


@pytest.mark.parametrize(
    ("num_envs", "workers", "ready"), [(8, 2, 3), (7, 2, 3), (8, 1, 4), (9, 6, 3), (12, 8, 6)]
)
def test_partial_batches_of_other_sizes_are_rejected(num_envs, workers, ready):
    envs = EnvRecipe("CartPole-v1", "workers", workers=workers).make(num_envs)
    with pytest.raises(ValueError, match=f"env_batch_size is {ready}: .* use a multiple of"):
        EnvStream(envs, ready)
    envs.close()


def hurt(how: str) -> None:
    if how == "raise":
        raise RuntimeError("boom")
    if how == "end":
        raise EOFError("the simulator is gone")
    if how == "long":
        raise RuntimeError("x" * (1 << 20))
    if how == "exit":
        raise SystemExit(3)
    if how == "hang":
        time.sleep(1e6)
    os.kill(os.getpid(), signal.SIGSTOP if how == "stop" else signal.SIGKILL)


class Doomed(gymnasium.Env):
    """Sub-environment `lane` of a process that ends, or hangs, in call `at` of its own."""

    observation_space = spaces.Box(0.0, 99.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, how: str, at: int):
        self.how, self.at, self.calls = how, at, 0

    def _call(self) -> np.ndarray:
        self.calls += 1
        if self.calls == self.at:
            hurt(self.how)
        return np.full(1, self.calls, np.float32)

    def reset(self, *, seed=None, options=None):
        return self._call(), {}

    def step(self, action) -> Any:
        return self._call(), 1.0, self.calls % 5 == 0, False, {}


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    how=st.sampled_from(["raise", "exit", "kill", "end", "long"]), lane=st.integers(0, 4),
    at=st.integers(1, 12), workers=st.integers(1, 3), mode=st.sampled_from(MODES),
)  # fmt: skip
def test_a_failure_at_any_call_names_the_environment(how, lane, at, workers, mode):
    makers: list[Any] = [lambda: SubEnv(Doomed("", 0))] * 5
    makers[lane] = lambda: SubEnv(Doomed(how, at))
    stream = EnvStream(WorkerVectorEnv(makers, workers, autoreset_mode=mode))
    says = {
        "raise": "RuntimeError: boom", "exit": "SystemExit: 3", "kill": "killed by signal 9",
        "end": "EOFError: the simulator is gone", "long": "RuntimeError: xxx",
    }  # fmt: skip
    with pytest.raises(EnvError, match=f"env {lane}, .*{says[how]}"):
        played(stream, 30)
    stream.close()
    assert not multiprocessing.active_children()


def test_a_constructor_that_fails_in_a_worker_names_its_environment():
    parent, made = os.getpid(), itertools.count()

    def make() -> SubEnv:
        if os.getpid() != parent and next(made) == 1:
            raise RuntimeError("no licence")
        return SubEnv(Doomed("", 0))

    with pytest.raises(ValueError, match=r"^env [14]: RuntimeError: no licence$"):
        WorkerVectorEnv([make] * 5, 2)
    assert not multiprocessing.active_children()


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    how=st.sampled_from(["hang", "stop"]), lane=st.integers(0, 4), at=st.integers(1, 9),
    workers=st.integers(1, 3), mode=st.sampled_from(MODES),
)  # fmt: skip
def test_a_hang_at_any_call_names_the_environment(how, lane, at, workers, mode):
    makers: list[Any] = [lambda: SubEnv(Doomed("", 0))] * 5
    makers[lane] = lambda: SubEnv(Doomed(how, at))
    stream = EnvStream(WorkerVectorEnv(makers, workers, autoreset_mode=mode))
    with (
        pytest.raises(EnvError, match=f"env {lane}, .*no response for 0.5 s"),
        watch(stream.env_calls, 0.5),
    ):
        played(stream, 20)
    stream.close()
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hang", "stop"])
def test_a_worker_that_hangs_is_ended_and_its_environment_named(tmp_path, how):
    config = small(tmp_path, num_envs=4, vectorization="workers", workers=2, max_step_seconds=0.5)
    with pytest.raises(EnvError, match=r"env 3, step .*no response for 0.5 s"):
        fastdqn.train(config, _ThirdHangs(how))
    assert not multiprocessing.active_children()


class _ThirdHangs:
    """Makes environments of which the second of the second worker hangs in its tenth call."""

    def __init__(self, how: str):
        self.how, self.made = how, 0

    def __call__(self) -> gymnasium.Env:
        in_worker = multiprocessing.current_process().name.startswith("Worker<WorkerVectorEnv>-1")
        self.made += in_worker
        return Doomed(self.how, 10 if in_worker and self.made == 2 else 0)


@pytest.mark.slow
def test_a_lost_worker_is_replaced_and_all_its_environments_begin_anew():
    class Mortal(Doomed):
        def __init__(self):
            super().__init__("kill", 14)

    stream = EnvStream(EnvRecipe(Mortal, "workers", workers=2).make(4), restarts=9)
    step = stream.start(seed=0)
    for _ in range(40):
        stream.send(np.zeros(4, np.int64))
        step = stream.recv()
        if stream.env_calls.lost:
            break
    lost = [str(error) for error in stream.env_calls.lost]
    assert "killed by signal 9 (SIGKILL); restarted (1 of 9), with envs 0 to 1" in lost[0]
    assert {0, 1} <= set(step.start_lanes.tolist())
    assert not {0, 1} & set(step.lanes.tolist())
    assert "the state of Mortal is not known" in str(why_unreadable(stream.envs))
    stream.close()


@pytest.mark.slow
def test_a_run_equals_that_of_sync(tmp_path):
    weights = []
    for how in ("sync", "workers"):
        config = small(tmp_path / how, vectorization=how)
        run = fastdqn.train(config, seed_globals=True)
        weights.append((run.folder / "policy.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_start_methods(method):
    before, mode = multiprocessing.get_start_method(), AutoresetMode.SAME_STEP
    multiprocessing.set_start_method(method, force=True)
    try:
        streams = [stream_of("CartPole-v1", how, mode, 3, 2) for how in ("sync", "workers")]
        assert_same(*[played(stream, 30) for stream in streams])
        for stream in streams:
            stream.close()
    finally:
        multiprocessing.set_start_method(before, force=True)


def test_what_a_vector_environment_gives_is_what_sync_gives():
    envs = EnvRecipe("CartPole-v1", "workers", workers=2).make(3)
    same = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 3)
    for name in ("num_envs", "single_observation_space", "single_action_space", "action_space"):
        assert getattr(envs, name) == getattr(same, name)
    envs.close()


def two_halves(env: Any, mode=AutoresetMode.NEXT_STEP, workers=4) -> EnvStream:
    keys = ("score",) if env is Mixed else ()
    recipe = EnvRecipe(env, "workers", info_keys=keys, workers=workers, double_buffering=True)
    return EnvStream(recipe.make(8, autoreset_mode=mode), 4, info_keys=keys)


class Hasty(Mixed):
    """As Mixed, and sleeps in some steps, in another place each time that it is made."""

    def step(self, action) -> Any:
        if os.urandom(1)[0] < 20:
            time.sleep(0.002)
        return super().step(action)


@pytest.mark.parametrize("workers", [2, 4])
def test_two_halves_alternate_strictly_whatever_the_timing(workers):
    streams = [two_halves(Hasty, workers=workers) for _ in range(2)]
    assert_same(*[played(stream, 40) for stream in streams])
    for stream in streams:
        stream.start(seed=1)
        for half in (range(4), range(4, 8)) * 5:
            assert stream.lanes.tolist() == list(half)
            stream.send(np.zeros(4, np.int64))
            stream.recv()
        stream.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize(("env_id", "turns"), [("CartPole-v1", 6), ("Taxi-v4", 7)])
def test_two_halves_continue_exactly_from_a_state(mode, env_id, turns):
    first, second = (two_halves(env_id, mode) for _ in range(2))
    played(first, turns + 30)
    state = first.state()
    played(second, 5, seed=3)
    assert second.load_state(state)
    assert_same(*[played(stream, 60, seed=4, starts=False) for stream in (first, second)])
    first.close()
    second.close()


def test_two_halves_go_on_after_a_state_that_does_not_fit():
    stream = two_halves("CartPole-v1")
    played(stream, 7)
    state: Any = stream.state()
    del state["envs"]["lanes"]["0"]["0"]
    with pytest.raises(ValueError, match=r"envs.lanes.0"):
        stream.load_state(state)
    seen = set()
    for _ in range(4):
        seen |= set(stream.lanes.tolist())
        stream.send(np.zeros(4, np.int64))
        stream.recv()
    assert seen == set(range(8))
    stream.close()


def test_double_buffering_has_two_halves():
    envs = EnvRecipe("CartPole-v1", "workers", workers=4, double_buffering=True).make(8)
    with pytest.raises(ValueError, match="env_batch_size is 2, and double buffering has two"):
        EnvStream(envs, 2)
    envs.close()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vectorization": "sync", "env_batch_size": None}, "Use --vectorization workers"),
        ({"env_batch_size": 1}, "leave --env-batch-size out, or use 2, one half"),
        ({"env_batch_size": 4}, "leave --env-batch-size out, or use 2, one half"),
        ({"num_envs": 5, "env_batch_size": None}, "5 .* two halves need an even --num-envs"),
        ({"num_envs": 1, "env_batch_size": None}, "1 .* two halves need an even --num-envs"),
    ],
)
def test_double_buffering_without_two_halves_is_one_line(tmp_path, changes, says):
    options = {"num_envs": 4, "vectorization": "workers", "env_batch_size": 2, **changes}
    with pytest.raises(fastdqn.ConfigError, match=f"double_buffering .*{says}") as caught:
        fastdqn.train(small(tmp_path, double_buffering=True, **options))
    (line,) = caught.value.lines
    assert "\n" not in line


@pytest.mark.slow
def test_double_buffering_halves_the_environments_by_itself(tmp_path):
    config = small(tmp_path, num_envs=4, vectorization="workers", double_buffering=True)
    given = config.replace(env_batch_size=2, run_dir=str(tmp_path / "given"))
    folders = [fastdqn.train(each).folder for each in (config, given)]
    ours, theirs = ((folder / "episodes.csv").read_text() for folder in folders)
    assert json.loads((folders[0] / "config.json").read_text())["env_batch_size"] == 2
    assert ours == theirs
    with pytest.raises(fastdqn.ConfigError) as caught:
        preflight.preview(config.replace(workers=4, num_envs=6))
    assert caught.value.lines[0].startswith("env_batch_size is 3 of 6 environments in 4 workers")


def test_a_small_dev_shm_is_one_line_before_any_process_starts(monkeypatch):
    monkeypatch.setattr("fastdqn.envs.step_arrays.free_shared_memory", lambda: float(1 << 19))
    EnvRecipe(Mixed, "workers", workers=1).make(2).close()

    class Wide(Large):
        observation_space = spaces.Box(0.0, 1.0, (1 << 17,), np.float32)

    says = "2 environments need 1.0 MiB of shared memory, and /dev/shm has 0.5 MiB free: lower"
    with pytest.raises(ValueError, match=says):
        EnvRecipe(Wide, "workers", workers=1).make(2)
    assert not multiprocessing.active_children()


def test_an_observation_that_would_be_broadcast_is_rejected():
    class Short(Large):
        observation_space = spaces.Box(0.0, 1.0, (2,), np.float32)

        def reset(self, *, seed=None, options=None):
            return np.zeros(2, np.float32), {}

    stream = stream_of(Short, "workers", AutoresetMode.NEXT_STEP, 2, 1)
    with pytest.raises(EnvError, match=r"env 0, step 1 .*shape \(1,\), but its space"):
        played(stream, 1)
    stream.close()
