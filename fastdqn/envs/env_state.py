"""The state of environments as plain values, so that a run can go on exactly where it stopped."""

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import iterate

from fastdqn import state_dict
from fastdqn.envs.cartpole import FastCartPole
from fastdqn.envs.sub_env_state import (
    Plan,
    Unreadable,
    has_own_state,
    plan_lane,
    plan_own,
    plan_random,
    read_lane,
    read_own,
    read_random,
    require_known,
)
from fastdqn.state_dict import State


def read_env_state(envs: VectorEnv) -> State | None:
    """Everything that the next steps of environments depend on, as copies of plain values; None
    where it cannot be read.

    Read are environments of any class with get_state() and set_state(state) of their own, which
    speak for all lanes and all that is inside; Gymnasium's CartPoleVectorEnv; and SyncVectorEnv,
    where each wrapper and environment of each lane either has such methods, which speak for that
    layer alone, or is of a class of Gymnasium whose state is known. A generator that an
    environment has as np_random is kept with what its get_state() gives.
    """
    try:
        return _read_bounded(envs)
    except Unreadable:
        return None


def why_unreadable(envs: VectorEnv) -> str | None:
    """Why read_env_state() gives None, in one line; None where it does not."""
    try:
        _read_bounded(envs)
    except Unreadable as why:
        return str(why)
    return None


def takes_env_state(envs: VectorEnv, state: Any) -> bool:
    """Whether these environments are of the kind that the state was read from."""
    try:
        return isinstance(state, dict) and state.get("kind") == _kind(_bare(envs))
    except Unreadable:
        return False


def write_env_state(envs: VectorEnv, state: Any) -> None:
    """Give environments, fresh ones or used, a state that was read from others made alike.

    Raises ValueError naming the field that they cannot take, before anything is changed; only a
    set_state() of anyone's that raises may have changed its own environment, and those before it.
    """
    envs = _bare(envs)
    try:
        kind = _kind(envs)
    except Unreadable as why:
        raise ValueError(f"these environments take no state: {why}") from None
    plan = Plan([], [])
    if isinstance(state, dict) and "kind" in state:  # told first: it explains the other keys
        state_dict.word(state["kind"], (kind,), "envs.kind")
    state_dict.fields(state, _KEYS[kind], "envs")
    if isinstance(envs, SyncVectorEnv) and kind == "sync":
        _plan_sync(envs, state, plan)
    elif isinstance(envs, CartPoleVectorEnv) and kind == "cartpole":
        _plan_cartpole(envs, state, plan)
    else:
        state_dict.word(state["class"], (type(envs).__name__,), "envs.class")
        plan_own(envs, state["own"], "envs.own", plan)
        if state["generator"] is not None:
            plan_random(envs, state["generator"], "envs.generator", plan)
    plan.carry_out()


_MAX_TEXT_BYTES = 32 << 20  # half of what a checkpoint's manifest may be
_KEYS = {
    "own": {"kind", "class", "own", "generator"},
    "cartpole": {"kind", "state", "steps", "prev_done", "low", "high", "generator"},
    "sync": {"kind", "autoreset_mode", "autoreset", "obs", "lanes"},
}


def _bare(envs: VectorEnv) -> VectorEnv:
    """Environments behind our own step, which keeps nothing."""
    return envs.env if isinstance(envs, FastCartPole) else envs


def _kind(envs: VectorEnv) -> str:
    """own, cartpole or sync; raises Unreadable where it is none, or a lane is not known."""
    if isinstance(envs, AsyncVectorEnv) or hasattr(type(envs), "recv"):
        raise Unreadable(f"{type(envs).__name__} keeps its lanes in other processes or threads")
    if has_own_state(envs):
        return "own"
    if type(envs) is CartPoleVectorEnv:
        return "cartpole"
    if type(envs) is not SyncVectorEnv:
        raise Unreadable(
            f"the state of {type(envs).__name__} is not known: give it get_state() and "
            "set_state(state)"
        )
    for lane in envs.envs:
        require_known(lane)
    return "sync"


def _read_bounded(envs: VectorEnv) -> State:
    """The state; raises Unreadable where it would not fit beside all else of a run."""
    state = _read(_bare(envs))
    if (size := state_dict.text_bytes(state)) > _MAX_TEXT_BYTES:
        raise Unreadable(
            f"the state has some {size:,} bytes of text, {_MAX_TEXT_BYTES:,} at most: give long "
            "lists as arrays"
        )
    return state


def _read(envs: VectorEnv) -> State:
    kind = _kind(envs)
    if isinstance(envs, SyncVectorEnv) and kind == "sync":
        return {
            "kind": kind,
            "autoreset_mode": envs.autoreset_mode.value,
            "autoreset": envs._autoreset_envs.copy(),
            "obs": _read_obs(envs._observations),
            "lanes": {str(i): read_lane(lane) for i, lane in enumerate(envs.envs)},
        }
    generator = read_random(envs)
    if isinstance(envs, CartPoleVectorEnv) and kind == "cartpole":
        if envs.state is None or generator is None:
            raise Unreadable("the environments have not been reset")
        return {
            "kind": kind,
            "state": envs.state.copy(),
            "steps": envs.steps.copy(),
            "prev_done": envs.prev_done.copy(),
            "low": float(envs.low),  # reset() takes them as options, and later resets obey
            "high": float(envs.high),
            "generator": generator,
        }
    name = type(envs).__name__
    return {"kind": kind, "class": name, "own": read_own(envs), "generator": generator}


def _plan_cartpole(envs: CartPoleVectorEnv, state: State, plan: Plan) -> None:
    n = envs.num_envs
    plan.set(envs, "state", state_dict.array(state["state"], (4, n), np.float64, "envs.state"))
    plan.set(envs, "steps", state_dict.array(state["steps"], (n,), np.int32, "envs.steps"))
    ended = state_dict.array(state["prev_done"], (n,), np.bool_, "envs.prev_done")
    plan.set(envs, "prev_done", ended)
    low, high = (state_dict.number(state[name], f"envs.{name}") for name in ("low", "high"))
    if low > high:
        raise ValueError(f"envs.high is {high}: at least envs.low, {low}, expected")
    plan.set(envs, "low", low)
    plan.set(envs, "high", high)
    plan_random(envs, state["generator"], "envs.generator", plan)


def _plan_sync(envs: SyncVectorEnv, state: State, plan: Plan) -> None:
    n = envs.num_envs
    state_dict.word(state["autoreset_mode"], (envs.autoreset_mode.value,), "envs.autoreset_mode")
    flags = state_dict.array(state["autoreset"], (n,), np.bool_, "envs.autoreset")
    plan.set(envs, "_autoreset_envs", flags)
    plan.set(envs, "_observations", _like(envs._observations, state["obs"], "envs.obs"))
    # A reset of some lanes puts the last observations of the others beside the new ones.
    last = iterate(envs.observation_space, _like(envs._observations, state["obs"], "envs.obs"))
    plan.set(envs, "_env_obs", list(last))
    lanes = state_dict.fields(state["lanes"], {str(i) for i in range(n)}, "envs.lanes")
    for i, lane in enumerate(envs.envs):
        plan_lane(lane, lanes[str(i)], f"envs.lanes.{i}", plan)


def _read_obs(obs: Any) -> Any:
    """Batched observations, a tuple of them as a dict of "0", "1" and so on."""
    if isinstance(obs, dict | tuple):
        return {str(key): _read_obs(inner) for key, inner in _items(obs)}
    try:
        return state_dict.copy_plain(obs, "the observations")
    except ValueError as error:
        raise Unreadable(str(error)) from error


def _like(model: Any, given: Any, where: str) -> Any:
    """Batched observations out of what _read_obs() gave, built as the model is."""
    if not isinstance(model, dict | tuple):
        return state_dict.array(given, model.shape, model.dtype, where)
    state_dict.fields(given, {str(key) for key, _ in _items(model)}, where)
    built = {key: _like(inner, given[str(key)], f"{where}.{key}") for key, inner in _items(model)}
    return built if isinstance(model, dict) else tuple(built.values())


def _items(obs: dict | tuple) -> list[tuple[Any, Any]]:
    return list(obs.items() if isinstance(obs, dict) else enumerate(obs))
