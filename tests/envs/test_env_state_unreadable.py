"""Environments and streams whose state cannot be read, and invalid stream states."""

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from fastdqn.envs import EnvStream, read_env_state, why_unreadable
from helpers.env_states import LANES, Derived, Walk, advance, flat, made, native, sync


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
        (telling({1: 2}), "key that is not a string"),
        (telling(RuntimeError("no state")), "RuntimeError: no state"),
    ],
)
def test_unknown_environments_have_no_state_and_a_reason(lane, says):
    envs = SyncVectorEnv([lane] * 2)
    envs.reset(seed=0)
    assert read_env_state(envs) is None
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(why_unreadable(envs))


class DerivedVector(SyncVectorEnv):
    pass


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_stream_has_a_state_only_while_it_waits_for_actions():
    stream = EnvStream(sync("CartPole"))
    with pytest.raises(ValueError, match="follow start"):
        stream.state()
    stream.start(0)
    stream.send(np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="before send"):
        stream.state()
    stream.recv()
    assert stream.state()["seed"] == 0


def test_a_state_without_environments_does_not_change_the_stream():
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
    with pytest.raises(ValueError, match="follow start"):
        fresh.state()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("obs", np.zeros((3, 5), np.float32), r"stream.obs has shape \(3, 5\)"),
        ("obs", np.zeros((3, 4)), "stream.obs has dtype float64: float32"),
        ("obs", [0.0] * 4, "stream.obs is of type list: an array"),
        ("lanes", np.zeros(3, np.int64), "stream.lanes contains the same sub-environment twice"),
        ("lanes", np.array([0, 1, 3]), "stream.lanes contains a number outside 0 to 2"),
        ("action", np.array([0, 1, 2]), "stream.action contains a number outside 0 to 1"),
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
def test_a_malformed_state_of_a_stream_is_rejected_by_field_and_changes_nothing(field, value, says):
    stream, state = started(), started("CartPole").state()
    before = flat(stream.state())
    with pytest.raises(ValueError, match=says):
        stream.load_state(state | {field: value})
    without = {key: inner for key, inner in state.items() if key != field}
    if field in state:
        with pytest.raises(ValueError, match=f"stream.{field} is missing"):
            stream.load_state(without)
    assert flat(stream.state()) == before
