"""State of one sub-environment and its wrappers as plain values."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import wrappers
from gymnasium.envs.classic_control import AcrobotEnv, CartPoleEnv, MountainCarEnv
from gymnasium.envs.toy_text import BlackjackEnv, CliffWalkingEnv, FrozenLakeEnv, TaxiEnv

from fastdqn import state_dict
from fastdqn.envs.env_layers import layers
from fastdqn.envs.errors import one_line
from fastdqn.envs.rng_state import make_generator, read_generator
from fastdqn.envs.sub_env import SubEnv
from fastdqn.state_dict import State


class Unreadable(Exception):
    """The state of an environment cannot be read; the message says why in one line."""


class Plan(NamedTuple):
    """Changes to make once a whole state has been checked.

    Attributes:
        own: Calls of user-defined set_state(), which may still fail and so run first.
        known: Assignments, which cannot fail.
    """

    own: list[Callable[[], None]]
    known: list[Callable[[], None]]

    def apply(self) -> None:
        for change in (*self.own, *self.known):
            change()

    def set(self, owner: Any, name: str, value: Any) -> None:
        self.known.append(lambda: setattr(owner, name, value))


def has_own_state(thing: Any) -> bool:
    """Whether the class itself, not a wrapped object, has get_state() and set_state()."""
    return all(callable(getattr(type(thing), name, None)) for name in ("get_state", "set_state"))


def require_known(lane: gymnasium.Env) -> None:
    """Raises Unreadable if the state of an environment or wrapper is not known; names it."""
    for layer in _layers(lane):
        if not has_own_state(layer) and type(layer) not in _FIELDS:
            raise Unreadable(
                f"the state of {type(layer).__name__} is not known: implement get_state() and "
                "set_state(state)"
            )


def read_lane(lane: gymnasium.Env) -> State:
    """Returns the state of each layer, "0" the outermost, after require_known() has passed.

    Raises:
        Unreadable: The environment has not been reset, or a get_state() fails.
    """
    return {str(i): _read_layer(layer) for i, layer in enumerate(_layers(lane))}


def plan_lane(lane: gymnasium.Env, state: Any, where: str, plan: Plan) -> None:
    """Adds the loading of a state to a plan; raises ValueError naming the field."""
    layers = list(_layers(lane))
    state_dict.fields(state, {str(i) for i in range(len(layers))}, where)
    for i, layer in enumerate(layers):
        _plan_layer(layer, state[str(i)], f"{where}.{i}", plan)


def read_own(thing: Any) -> Any:
    """Returns the result of get_state(); raises Unreadable if it fails or is not plain."""
    name = type(thing).__name__
    try:
        return state_dict.copy_plain(thing.get_state(), f"{name}.get_state()")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise Unreadable(f"{name}.get_state(): {one_line(error)}") from error


def plan_own(thing: Any, state: Any, where: str, plan: Plan) -> None:
    """Adds a set_state() to a plan; its errors become a ValueError naming the field."""
    copied = state_dict.copy_plain(state, where)

    def change() -> None:
        try:
            thing.set_state(copied)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise ValueError(
                f"{where}: {type(thing).__name__}.set_state(): {one_line(error)}"
            ) from error

    plan.own.append(change)


def read_random(env: Any) -> State | None:
    """Returns the state of an environment's generator, or None before it has one."""
    generator = getattr(env, "_np_random", None)
    if not isinstance(generator, np.random.Generator):
        return None
    try:
        return read_generator(generator)
    except ValueError as error:
        raise Unreadable(str(error)) from error


def plan_random(env: Any, state: Any, where: str, plan: Plan) -> None:
    """Adds the loading of a generator state to a plan."""
    generator = make_generator(state, where)

    def change() -> None:
        held = getattr(env, "_np_random", None)
        bits: Any = getattr(held, "bit_generator", None)
        if type(bits) is not type(generator.bit_generator):
            env._np_random, env._np_random_seed = generator, -1  # -1: unknown, in Gymnasium
        else:  # in place, since parts of the environment may hold the same generator
            bits.state = generator.bit_generator.state

    plan.known.append(change)


def _layers(lane: gymnasium.Env) -> Iterator[gymnasium.Env]:
    """Yields the layers from the outermost on, without SubEnv, which has no state."""
    return (layer for layer in layers(lane) if type(layer) is not SubEnv)


def _read_layer(layer: gymnasium.Env) -> State:
    name = type(layer).__name__
    values: State = {"class": name}
    if has_own_state(layer):
        values["own"] = read_own(layer)
    else:
        for field, check in _FIELDS[type(layer)].items():
            # Values that could not be loaded are rejected when they are read.
            try:
                values[field] = check(_plain(getattr(layer, field)), field, layer)
            except (AttributeError, ValueError) as error:
                raise Unreadable(f"{name} has not been reset: {error}") from error
    if not isinstance(layer, gymnasium.Wrapper):
        values["generator"] = read_random(layer)
    return values


def _plan_layer(layer: gymnasium.Env, state: Any, where: str, plan: Plan) -> None:
    is_own, is_base = has_own_state(layer), not isinstance(layer, gymnasium.Wrapper)
    checks = {} if is_own else _FIELDS[type(layer)]
    names = (
        {"class", *checks} | ({"own"} if is_own else set()) | ({"generator"} if is_base else set())
    )
    if isinstance(state, dict) and "class" in state:  # checked first: it decides the other keys
        state_dict.word(state["class"], (type(layer).__name__,), f"{where}.class")
    state_dict.fields(state, names, where)
    if is_own:
        plan_own(layer, state["own"], f"{where}.own", plan)
    for field, check in checks.items():
        plan.set(layer, field, check(state[field], f"{where}.{field}", layer))
    if type(layer) is wrappers.PassiveEnvChecker:
        # Its checks compare the first step with a reset, which has not happened.
        for field in ("checked_reset", "checked_step", "checked_data_reuse"):
            plan.set(layer, field, True)
    if is_base and not (is_own and state["generator"] is None):
        plan_random(layer, state["generator"], f"{where}.generator", plan)


def _plain(value: Any) -> Any:
    """Converts an attribute for storage: a tuple to an array, a NumPy scalar to Python's."""
    if isinstance(value, tuple):
        return np.array(value, np.float64)
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value.item() if isinstance(value, np.generic) else value


# -- Fields of the known classes: (value, where, layer) -> the value to set.

_Check = Callable[[Any, str, gymnasium.Env], Any]


def _vector(size: int, *dtypes: type) -> _Check:
    def check(value: Any, where: str, layer: gymnasium.Env) -> np.ndarray:
        given = next((t for t in dtypes if getattr(value, "dtype", None) == t), dtypes[0])
        return state_dict.array(value, (size,), given, where)

    return check


def _word(*known: str) -> _Check:
    return lambda value, where, layer: state_dict.word(value, known, where)


def _truth(value: Any, where: str, layer: gymnasium.Env) -> bool:
    return state_dict.truth(value, where)


def _count(value: Any, where: str, layer: gymnasium.Env) -> int:
    return state_dict.integer(value, 0, None, where)


def _count_or_none(value: Any, where: str, layer: gymnasium.Env) -> int | None:
    return None if value is None else _count(value, where, layer)


def _place(value: Any, where: str, layer: gymnasium.Env) -> int:
    return state_dict.integer(value, 0, int(layer.observation_space.n) - 1, where)  # pyright: ignore[reportAttributeAccessIssue]


def _last_action(value: Any, where: str, layer: gymnasium.Env) -> int | None:
    most = int(layer.action_space.n) - 1  # pyright: ignore[reportAttributeAccessIssue]
    return None if value is None else state_dict.integer(value, 0, most, where)


def _hand(value: Any, where: str, layer: gymnasium.Env) -> list[int]:
    if type(value) is not list or len(value) < 2:
        raise ValueError(f"{where} is {value!r:.60}: expected a list of two cards or more")
    return [state_dict.integer(card, 1, 10, f"{where}[{i}]") for i, card in enumerate(value)]


_CELLS: dict[str, _Check] = {"s": _place, "lastaction": _last_action}
# Only these exact classes, since a subclass may have more state. As of Gymnasium 1.4.
_FIELDS: dict[type, dict[str, _Check]] = {
    CartPoleEnv: {"state": _vector(4, np.float64), "steps_beyond_terminated": _count_or_none},
    AcrobotEnv: {"state": _vector(4, np.float64, np.float32)},  # float32 after a reset
    MountainCarEnv: {"state": _vector(2, np.float64)},
    FrozenLakeEnv: _CELLS,
    CliffWalkingEnv: _CELLS,
    TaxiEnv: _CELLS | {"fickle_step": _truth, "taxi_orientation": _count},
    BlackjackEnv: {
        "player": _hand,
        "dealer": _hand,
        "dealer_top_card_suit": _word(*"CDHS"),
        "dealer_top_card_value_str": _word(*"A23456789JQK"),
    },
    wrappers.OrderEnforcing: {"_has_reset": _truth},
    wrappers.PassiveEnvChecker: {},
    wrappers.TimeLimit: {"_elapsed_steps": _count},
    wrappers.TimeAwareObservation: {"timesteps": _count},
}
# Wrappers without state; functions that they hold are assumed to have none either. Listed by name,
# since the oldest supported Gymnasium lacks some.
_STATELESS = (
    "TransformObservation", "FilterObservation", "FlattenObservation", "GrayscaleObservation",
    "ResizeObservation", "ReshapeObservation", "RescaleObservation", "DtypeObservation",
    "DiscretizeObservation", "TransformReward", "ClipReward", "TransformAction", "RepeatAction",
)  # fmt: skip
_FIELDS |= {getattr(wrappers, name): {} for name in _STATELESS if hasattr(wrappers, name)}
