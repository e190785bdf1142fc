"""CompiledVectorEnv: arguments, states, errors, copies, rendering and registration."""

import copy
import pickle
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control import MountainCarEnv
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from fastdqn.compiled import (
    CompiledEnv,
    CompiledVectorEnv,
    EnvDefinition,
    find_definition,
    has_definition,
    register,
    registry,
)
from helpers.compiled_envs import walk, walk_reset

MODES = list(AutoresetMode)


def catch(num_envs=3, **kwargs):
    return CompiledVectorEnv(find_definition("fastdqn/Catch-v0", {}), num_envs, **kwargs)


def played(envs, turns=20, seed=None) -> list[np.ndarray]:
    """Every result of some turns with fixed actions."""
    results = []
    for t in range(turns):
        action = np.arange(t, t + envs.num_envs) % envs.single_action_space.n
        obs, reward, terminated, truncated, _ = envs.step(action)
        results += [obs.copy(), reward.copy(), terminated.copy(), truncated.copy()]
        ended = terminated | truncated
        if envs.autoreset_mode == AutoresetMode.DISABLED and ended.any():
            results.append(envs.reset(options={"reset_mask": ended})[0].copy())
    return results


def assert_equal(left, right) -> None:
    assert len(left) == len(right)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(left, right, strict=True))


# -- states


@pytest.mark.parametrize("mode", MODES)
def test_a_state_continues_exactly_in_other_environments(mode):
    first, second = (CompiledVectorEnv(walk(), 4, autoreset_mode=mode) for _ in range(2))
    first.reset(seed=3)
    second.reset(seed=9)
    played(first, 13)
    state = first.get_state()
    expected = played(first)
    second.set_state(state)
    assert_equal(played(second), expected)
    first.set_state(state)
    assert_equal(played(first), expected)


def test_a_loaded_state_has_its_observations():
    first, second = (CompiledVectorEnv(walk(), 4, autoreset_mode="Disabled") for _ in range(2))
    first.reset(seed=3)
    obs = first.step(np.zeros(4, np.int64))[0]
    second.reset(seed=0)
    second.set_state(first.get_state())
    only = np.array([True, False, False, False])
    assert_equal([second.reset(options={"reset_mask": only})[0][1:]], [obs[1:]])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda s: s.update(autoreset_mode="SameStep"), "mode 'SameStep', not 'NextStep'"),
        (lambda s: s.update(more=1), "must have the parts autoreset_mode and rows"),
        (lambda s: s["rows"].pop("elapsed"), "rows|the state must have the parts elapsed"),
        (lambda s: s["rows"].update(elapsed=np.zeros(5, np.int64)), r"elapsed is int64 of shape"),
        (lambda s: s["rows"].update(ended=np.zeros(4)), "ended is float64 of shape"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, line):
    envs = CompiledVectorEnv(walk(), 4)
    envs.reset(seed=3)
    state = envs.get_state()
    bad = envs.get_state()
    change(bad)
    with pytest.raises(ValueError, match=line):
        envs.set_state(bad)
    expected = CompiledVectorEnv(walk(), 4)
    expected.reset(seed=0)
    expected.set_state(state)
    assert_equal(played(envs), played(expected))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda envs: pickle.loads(pickle.dumps(envs))])
def test_a_copy_continues_exactly_and_on_its_own(copied):
    envs = CompiledVectorEnv(walk(), 4, autoreset_mode=AutoresetMode.SAME_STEP)
    assert copied(envs).num_envs == 4  # before a reset, too
    envs.reset(seed=3)
    played(envs, 5)
    other = copied(envs)
    expected = played(other)
    assert_equal(played(envs), expected)


def test_before_a_reset_there_is_no_state_and_no_step():
    envs = catch()
    with pytest.raises(ValueError, match="no state before reset"):
        envs.get_state()
    with pytest.raises(ValueError, match=r"step\(\) was called before reset\(\)"):
        envs.step(np.zeros(3, np.int64))
    with pytest.raises(ValueError, match=r"first reset\(\) must reset all"):
        envs.reset(options={"reset_mask": np.array([True, False, False])})


@pytest.mark.parametrize(
    ("env_id", "change", "line"),
    [
        ("Taxi-v4", lambda rows: rows["state.cell"].fill(1 << 40), "env 0: its state is not valid"),
        ("fastdqn/Catch-v0", lambda rows: rows["state.paddle"].fill(-(10**9)), "is not valid"),
        ("fastdqn/Catch-v0", lambda rows: rows["generators"].fill(0), "increment of PCG64 is even"),
        ("fastdqn/Catch-v0", lambda rows: rows["elapsed"].fill(-5), "elapsed is negative"),
    ],
)
def test_a_state_that_leads_out_of_arrays_is_rejected(env_id, change, line):
    """Compiled code would read other memory, or draw without an end."""
    envs = CompiledVectorEnv(find_definition(env_id), 2)
    envs.reset(seed=0)
    state = envs.get_state()
    bad = envs.get_state()
    change(bad["rows"])
    with pytest.raises(ValueError, match=line):
        envs.set_state(bad)
    assert_equal(envs.get_state()["rows"].values(), state["rows"].values())


# -- seeds


def test_a_seed_gives_each_environment_its_own_numbers():
    envs = CompiledVectorEnv(walk(), 3)
    first = envs.reset(seed=7)[0].tobytes()
    assert envs.np_random_seed == (7, 8, 9)
    assert envs.reset(seed=[7, 8, 9])[0].tobytes() == first
    generators = envs.np_random
    assert envs.reset()[0].tobytes() != first  # goes on with the generators
    assert generators[1].integers(0, 7) == envs.states.place[1]
    assert {CompiledVectorEnv(walk(), 1).reset()[0][0] for _ in range(40)} > {3}  # unseeded


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"seed": [1, 2]}, "2 seeds for 3 environments"),
        ({"seed": -1}, "seed is -1, must be None or a whole number of at least 0"),
        ({"options": {"low": 1}}, "no options but reset_mask: low"),
        ({"options": {"reset_mask": np.ones(2, np.bool_)}}, r"reset_mask is bool of shape \(2,\)"),
        ({"options": {"reset_mask": np.ones(3)}}, "reset_mask is float64"),
        ({"options": {"reset_mask": np.zeros(3, np.bool_)}}, "chooses no environment"),
    ],
)
def test_invalid_resets_are_rejected(arguments, line):
    envs = catch()
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=line):
        envs.reset(**arguments)


# -- actions


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    ("actions", "line"),
    [
        ([0, 3, 1], r"env 1: action 3 is not in Discrete\(3\)"),
        ([0, 1, -1], r"env 2: action -1 is not in Discrete\(3\)"),
        ([0, 1], r"actions have shape \(2,\), must have \(3,\)"),
        ([0.0, 1.0, 2.0], "actions are float64, must be integers"),
        ([True, False, True], "actions are bool, must be integers"),
    ],
)
def test_invalid_actions_change_nothing(actions, line, compiled):
    envs = catch(compiled=compiled)
    envs.reset(seed=0)
    before = envs.states.copy()
    with pytest.raises(ValueError, match=line):
        envs.step(np.array(actions))
    assert envs.states.tobytes() == before.tobytes()


def test_a_step_after_the_end_needs_a_reset_if_autoreset_is_disabled():
    envs = catch(autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=0)
    for _ in range(9):
        envs.step(np.zeros(3, np.int64))
    with pytest.raises(ValueError, match=r"env 0: step\(\) was called after the episode end"):
        envs.step(np.zeros(3, np.int64))


def steer_reset(state, rng):
    state.place[:] = 0.0


def steer_step(state, action, rng):
    state.place += action
    return state.place[0], False


def steer_observe(state, out):
    out[:] = state.place


def steered_by(actions: gymnasium.Space) -> EnvDefinition:
    return EnvDefinition(
        [("place", float, (2,))], gymnasium.spaces.Box(-9, 9, (2,), np.float64), actions,
        steer_reset, steer_step, steer_observe,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("space", "actions"),
    [
        (gymnasium.spaces.MultiDiscrete([2, 2]), [[1, 77]]),
        (gymnasium.spaces.MultiBinary(2), [[0, 300]]),
        (gymnasium.spaces.Box(-9, 9, (2,), np.int8), [[0, 1000]]),
        (gymnasium.spaces.Box(-1, 1, (2,), np.float64), [[0.0, 2.0]]),
        (gymnasium.spaces.Box(-1, 1, (2,), np.float64), [["0", "1.5"]]),
    ],
)
def test_arrays_outside_the_space_are_rejected(space, actions):
    envs = CompiledVectorEnv(steered_by(space), 1, compiled=False)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"an action is not in|actions are <U"):
        envs.step(np.array(actions))


@pytest.mark.parametrize("compiled", [True, False])
def test_actions_may_be_arrays(compiled):
    box = gymnasium.spaces.Box(-1, 1, (2,), np.float64)
    envs = CompiledVectorEnv(steered_by(box), 2, compiled=compiled)
    envs.reset(seed=0)
    envs.step(np.array([[1.0, 0.5], [0.0, -1.0]]))
    obs, reward, *_ = envs.step(np.array([[1.0, 0.5], [0.0, -1.0]]))
    assert obs.tolist() == [[2.0, 1.0], [0.0, -2.0]]
    assert reward.tolist() == [2.0, 0.0]


# -- what is returned


def test_results_are_copies_unless_it_is_asked_otherwise():
    for copies in (True, False):
        envs = catch(copy=copies)
        first = envs.reset(seed=0)[0]
        before = first.copy()
        second = envs.step(np.zeros(3, np.int64))
        assert np.array_equal(first, before) == copies
        third = envs.step(np.zeros(3, np.int64))
        assert [a is b for a, b in zip(second[:4], third[:4], strict=True)] == [not copies] * 4


class Room(NamedTuple):
    """Size of a picture."""

    size: int


def reset_in(state, rng, room):
    state.place = 0


def step_in(state, action, rng, room):
    return 0.0, state.place == room.size


def observe_in(state, out, room):
    out[0] = 3


def render_in(state, room):
    return np.zeros((room.size, room.size, 3), np.uint8)


def test_a_picture_may_depend_on_params():
    parts = {"reset": reset_in, "step": step_in, "observe": observe_in, "mask": None}
    definition = walk(**parts, render=render_in, params=Room(8))
    envs = CompiledVectorEnv(definition, 1, render_mode="rgb_array")
    envs.reset(seed=0)
    pictures = envs.render()
    assert pictures is not None
    assert pictures[0].shape == (8, 8, 3)


def test_a_picture_shows_the_state():
    envs = catch(2, render_mode="rgb_array")
    envs.reset(seed=0)
    pictures = envs.render()
    assert pictures is not None
    assert [picture.shape for picture in pictures] == [(200, 100, 3)] * 2
    assert (pictures[0] == 255).sum() == 2 * 20 * 20 * 3  # ball and paddle
    assert catch().render() is None
    picture = gymnasium.make("fastdqn/Acrobot-v1", render_mode="rgb_array")
    picture.reset(seed=0)
    frame = picture.render()
    assert isinstance(frame, np.ndarray)
    assert frame.shape == (500, 500, 3)


# -- errors of a definition


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"state": float}, "the state is float64: it must be a record"),
        ({"state": [("a", object)]}, "it must be a record of numbers and arrays"),
        ({"observation_space": gymnasium.spaces.Dict()}, r"the observation space is Dict\(\)"),
        ({"action_space": gymnasium.spaces.Text(3)}, "the action space is Text"),
        ({"state": {"x": float}}, "the state is no dtype"),
        ({"state": [("x", "U3")]}, "it must be a record of numbers"),
        ({"state": [("size", float)]}, "a field 'size', which is a name of NumPy"),
        ({"params": [1]}, "params is a list, must be a NamedTuple"),
        ({"max_episode_steps": 0}, "max_episode_steps is 0, must be None or a whole number"),
        ({"max_episode_steps": 2.5}, "max_episode_steps is 2.5"),
        ({"max_episode_steps": True}, "max_episode_steps is True"),
        (
            {"action_space": gymnasium.spaces.Box(0, 1)},
            r"mask\(\) needs a Discrete action space",
        ),
    ],
)
def test_invalid_definitions_are_rejected(changes, line):
    with pytest.raises(ValueError, match=line):
        walk(**changes)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"num_envs": 0}, "num_envs is 0, must be a whole number of at least 1"),
        ({"threads": 1.5}, "threads is 1.5, must be a whole number"),
        ({"max_episode_steps": -1}, "max_episode_steps is -1"),
        ({"render_mode": "human"}, r"render_mode is 'human', must be one of \[None\]"),
        ({"autoreset_mode": "later"}, "later"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, line):
    with pytest.raises(ValueError, match=line):
        CompiledVectorEnv(walk(), **arguments)


def test_functions_with_other_arguments_are_rejected():
    with pytest.raises(ValueError, match=r"step\(\) must take the arguments \(state, action, rng"):
        CompiledVectorEnv(walk(step=walk_reset))
    with pytest.raises(ValueError, match=r"reset\(\) must take the .* \(state, rng, params\)"):
        CompiledVectorEnv(walk(params=(1,)))


def unknown_field(state, rng):
    state.gaol = 1


def reads_a_name(state, action, rng):
    return undefined(state.place), False  # noqa: F821  # pyright: ignore[reportUndefinedVariable]


def two_types(state, action, rng):
    reward = 0.0 if action else "none"
    return reward, False


def of_gymnasium(state, action, rng):
    return 0, 1.0, False, False, {}


def three_results(state, action, rng):
    return 1.0, False, False


def without_a_return(state, action, rng):
    state.place += 1


def turned(state, action, rng):
    return False, 1.0


def as_a_list(state, rng):
    state.board = np.zeros((2, 3), np.int8)


def plain_helper(place):
    return place + 1


def helped(state, action, rng):
    return float(plain_helper(state.place)), False


def returned(state, out):
    return np.array([state.place])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"reset": unknown_field},
            r"reset\(\) .* no field 'gaol', its fields are place, weight, b",
        ),
        ({"step": reads_a_name}, r"step\(\) cannot be compiled: .*'undefined'"),
        ({"step": two_types}, r"step\(\) .*Cannot unify.*test_vector_env.py, line \d+\)"),
        ({"step": of_gymnasium}, r"step\(\) .*\(reward, terminated\)"),
        ({"step": three_results}, r"step\(\) returns .*: it must return \(reward, terminated\)"),
        ({"step": without_a_return}, r"step\(\) returns none: it must return"),
        ({"step": turned}, r"step\(\) returns .*: it must return \(reward, terminated\), a number"),
        ({"reset": as_a_list}, r"reset\(\) .*state.field\[:\] = "),
        ({"step": helped}, r"step\(\) .*line \d+\). Decorate it with numba.extending.register_"),
        ({"observe": returned}, r"observe\(\) returns array.*: it must write into out"),
    ],
)
def test_what_a_function_does_wrong_is_one_line(changes, line):
    for _ in range(2):  # a kernel on disk is not taken for a valid one
        with pytest.raises(ValueError, match=line) as caught:
            CompiledVectorEnv(walk(**changes))
        assert "\n" not in str(caught.value)


def writes_nothing(state, out):
    out = np.array([state.place])  # noqa: F841


def writes_some(state, out):
    out[0] = 1


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"observe": writes_nothing}, r"observe\(\) leaves elements of out as they were"),
        ({"mask": writes_some}, r"mask\(\) leaves elements of out as they were"),
    ],
)
def test_what_is_not_written_is_found_at_the_first_reset(changes, line, compiled):
    envs = CompiledVectorEnv(walk(**changes), compiled=compiled)
    with pytest.raises(ValueError, match=line):
        envs.reset(seed=0)


def fails(state, action, rng):
    if state.place == 5:
        raise ZeroDivisionError("the fifth place")
    state.place += 1
    return 0.0, False


def starts_at_zero(state, rng):
    state.place = rng.integers(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{}, {"compiled": False}, {"threads": 2}], ids=str)
def test_an_error_of_a_function_names_the_environment(arguments):
    definition = walk(reset=starts_at_zero, step=fails, mask=None, max_episode_steps=None)
    envs = CompiledVectorEnv(definition, 4, **arguments)
    envs.reset(seed=0)
    envs.states.place[:] = 0, 0, 3, 0
    for _ in range(2):
        envs.step(np.zeros(4, np.int64))
    with pytest.raises(RuntimeError, match="env 2: ZeroDivisionError: the fifth place"):
        envs.step(np.zeros(4, np.int64))
    envs.close()


# -- registration


@pytest.fixture
def game():
    register("compiled_test/Walk-v0", walk())
    yield "compiled_test/Walk-v0"
    del gymnasium.registry["compiled_test/Walk-v0"]


def test_a_registered_id_is_made_alone_and_as_a_vector(game):
    assert has_definition(game, {})
    envs = gymnasium.make_vec(game, 3, max_episode_steps=4)
    assert isinstance(envs.unwrapped, CompiledVectorEnv)
    envs.reset(seed=0)
    truncated = [envs.step(np.zeros(3, np.int64))[3].any() for _ in range(5)]
    assert True in truncated[:4]
    env = gymnasium.make(game, max_episode_steps=6)
    env.reset(seed=0)
    assert any(any(env.step(0)[2:4]) for _ in range(6))
    assert game in {s.id for s in gymnasium.registry.values()}


def with_count(count: int = 9) -> EnvDefinition:
    return walk(max_episode_steps=count)


def test_a_definition_may_depend_on_arguments():
    register("compiled_test/Count-v0", with_count)
    envs: Any = gymnasium.make_vec("compiled_test/Count-v0", 2, count=3, max_episode_steps=None)
    assert envs.unwrapped.definition.max_episode_steps == 3
    del gymnasium.registry["compiled_test/Count-v0"]


@pytest.mark.parametrize("env_id", ["fastdqn/Catch-v0", "fastdqn/Acrobot-v1"])
def test_single_environments_pass_gymnasiums_check(env_id):
    check_env(gymnasium.make(env_id).unwrapped, skip_render_check=True)


def test_a_single_environment_keeps_its_generator():
    env = CompiledEnv(walk())
    env.reset(seed=3)
    env.np_random = np.random.Generator(np.random.PCG64(5))
    expected = np.random.Generator(np.random.PCG64(5))
    obs, _ = env.reset()
    assert obs == expected.integers(0, 7) + 3
    state = env.get_state()
    later = env.step(1)[0]
    env.set_state(state)
    assert env.step(1)[0] == later


@pytest.mark.parametrize(
    ("env_id", "kwargs", "has"),
    [
        ("CartPole-v1", {}, True),
        ("CartPole-v1", {"sutton_barto_reward": True}, True),
        ("CartPole-v1", {"render_mode": "rgb_array"}, False),
        ("Taxi-v4", {"fickle_passenger": True}, False),
        ("FrozenLake-v1", {"map_name": None}, False),
        ("Acrobot-v1", {}, False),
        ("nothing-v0", {}, False),
    ],
)
def test_only_equal_bits_have_a_definition(env_id, kwargs, has):
    assert has_definition(env_id, kwargs) == has
    if not has:
        with pytest.raises(ValueError, match="has no compiled form"):
            find_definition(env_id, kwargs)


def test_another_version_of_gymnasium_is_not_replaced(monkeypatch):
    """With other dynamics, auto is sync."""
    monkeypatch.setattr(registry, "_agreed", {})
    assert has_definition("MountainCar-v0", {})
    monkeypatch.setattr(registry, "_agreed", {})
    step = MountainCarEnv.step
    monkeypatch.setattr(MountainCarEnv, "step", lambda self, action: step(self, 2 - action))
    assert not has_definition("MountainCar-v0", {})


def test_a_registered_id_that_another_package_takes_is_not_compiled(game):
    del gymnasium.registry[game]
    gymnasium.register(game, entry_point="my_package:Mine")
    assert not has_definition(game, {})


@pytest.mark.parametrize(
    ("definition", "line"),
    [
        (5, "int is no EnvDefinition"),
        (lambda: None, "NoneType is no EnvDefinition"),
        (lambda size: walk(), "needs a default for each argument"),
    ],
)
def test_what_is_no_definition_is_not_registered(definition, line):
    with pytest.raises(ValueError, match=line):
        register("compiled_test/Bad-v0", definition)
    assert "compiled_test/Bad-v0" not in gymnasium.registry


def test_an_id_that_was_registered_anew_is_not_replaced():
    spec = gymnasium.registry["MountainCar-v0"]
    gymnasium.registry["MountainCar-v0"] = EnvSpec("MountainCar-v0", entry_point="my_package:MyCar")
    try:
        assert not has_definition("MountainCar-v0", {})
    finally:
        gymnasium.registry["MountainCar-v0"] = spec
