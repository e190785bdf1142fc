"""Malformed environment states are rejected by field and change nothing."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv, VectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdqn.envs import EnvStream, read_env_state, write_env_state
from helpers.env_states import (
    Derived,
    Walks,
    advance,
    changed,
    flat,
    native,
    paths,
    sync,
    through_files,
)


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
def test_a_malformed_state_of_environments_is_rejected_by_field_and_leaves_them_usable(
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


JUNK = [
    None, True, -1, 3, 1 << 200, 0.5, float("nan"), "", "PCG64", [], [1], {}, {"0": 1},
    np.zeros(0), np.zeros(3), np.zeros((3, 4), np.float32), np.array(1), np.zeros(3, np.bool_),
]  # fmt: skip


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_junk_in_any_field_is_accepted_or_rejected_by_field(data):
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


@pytest.mark.slow
@pytest.mark.parametrize("state", [None, 3, [], {}, {"kind": "sync", 1: 2}])
def test_a_value_that_is_not_a_state_is_rejected(state):
    for envs in (native(), sync("Taxi"), Walks(2)):
        with pytest.raises(ValueError, match="envs"):
            write_env_state(envs, state)
    with pytest.raises(ValueError, match="stream"):
        EnvStream(native()).load_state(state)


def test_environments_without_loadable_state_are_reported():
    with pytest.raises(ValueError, match="cannot load a state: the state of Derived is not known"):
        write_env_state(SyncVectorEnv([Derived]), {})


def test_a_failing_set_state_is_named_and_known_layers_do_not_change():
    envs = sync("own, wrapped")
    envs.reset(seed=0)
    state = changed(read_env_state(envs), "lanes.2.2.own.t", 9)
    state["lanes"]["0"]["1"]["_elapsed_steps"] = 4
    with pytest.raises(ValueError, match=r"envs.lanes.2.2.own: Walk.set_state.*no such time"):
        write_env_state(envs, state)
    assert read_env_state(envs)["lanes"]["0"]["1"]["_elapsed_steps"] == 0  # pyright: ignore
