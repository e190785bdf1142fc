"""Environments and streams continue exactly from a state, in new environments."""

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdqn.envs import EnvStream, read_env_state, write_env_state
from helpers.env_states import (
    LANES,
    MODES,
    Walks,
    advance,
    assert_goes_on,
    every_mode,
    flat,
    native,
    paths,
    sync,
    through_files,
)


@pytest.mark.slow
@every_mode
@pytest.mark.parametrize("lane", LANES)
def test_every_known_environment_and_wrapper_continues_exactly(lane, mode):
    for seed, before in enumerate((0, 1, 13, 40)):
        assert_goes_on(partial(sync, lane, mode), before, 60, seed)


@pytest.mark.slow
@pytest.mark.parametrize("before", [0, 1, 22, 23, 24, 57])
def test_native_cartpole_continues_exactly_across_ends_limits_and_resets(before):
    assert_goes_on(native, before, 120, before)
    assert_goes_on(partial(native, sutton_barto_reward=True), before, 60, before)


def test_a_vector_environment_with_get_state_continues_exactly():
    assert_goes_on(partial(Walks, 4), 17, 50)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    lane=st.sampled_from([*LANES, None]),
    mode=st.sampled_from(MODES),
    before=st.integers(0, 90),
    seed=st.integers(0, 1 << 20),
)
def test_it_does_not_matter_where_the_state_is_taken(lane, mode, before, seed):
    assert_goes_on(native if lane is None else partial(sync, lane, mode), before, 40, seed)


def test_taxi_keeps_a_pending_change_of_destination():
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


def test_a_partial_reset_keeps_the_other_observations():
    first, fresh = (sync("own", AutoresetMode.DISABLED) for _ in range(2))
    first.reset(seed=1)
    write_env_state(fresh, through_files(read_env_state(first)))
    mask = np.array([False, True, False])
    for envs in (first, fresh):
        envs.reset(options={"reset_mask": mask})
    for key in ("at", "t"):
        np.testing.assert_array_equal(first._observations[key], fresh._observations[key])


def test_a_state_does_not_change_when_the_environments_step():
    for make in (native, *(partial(sync, lane) for lane in LANES)):
        stream = EnvStream(make())
        stream.start(0)
        state = stream.state()
        kept = through_files(state)
        advance(stream, np.random.default_rng(0), 30)
        assert flat(state) == flat(kept)


def test_loading_does_not_change_the_state_or_share_its_memory():
    stream, fresh = EnvStream(sync("own")), EnvStream(sync("own"))
    stream.start(0)
    state = stream.state()
    kept = through_files(state)
    assert fresh.load_state(state)
    advance(fresh, np.random.default_rng(0), 30)
    assert flat(state) == flat(kept)


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


@pytest.mark.slow
@pytest.mark.parametrize("make", [native, *(partial(sync, lane) for lane in LANES)])
def test_the_state_of_known_environments_is_complete(make):
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
