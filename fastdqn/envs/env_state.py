"""read_env_state(), write_env_state(): environment state as plain values for an exact resume."""

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import iterate

from fastdqn import state_dict
from fastdqn.envs.observations import put
from fastdqn.envs.step_arrays import RESULTS
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
from fastdqn.envs.worker_state import read_worker_states, write_worker_states
from fastdqn.envs.worker_vector_env import WorkerVectorEnv
from fastdqn.state_dict import State


def read_env_state(envs: VectorEnv) -> State | None:
    """Returns the complete state of environments as plain values, or None if it cannot be read.

    These can be read:

    - environments of any class with get_state() and set_state(state), which cover all
      sub-environments and everything inside;
    - Gymnasium's CartPoleVectorEnv;
    - SyncVectorEnv and WorkerVectorEnv, if each wrapper and environment has such methods or is a
      Gymnasium class whose state is known. There, the methods cover one layer only.

    The generator np_random of an environment is stored in addition to its get_state().
    """
    try:
        return _read_bounded(envs)
    except Unreadable:
        return None


def why_unreadable(envs: VectorEnv) -> str | None:
    """Returns why read_env_state() returns None, in one line, or None if it does not."""
    try:
        _read_bounded(envs)
    except Unreadable as why:
        return str(why)
    return None


def takes_env_state(envs: VectorEnv, state: Any) -> bool:
    """Whether the state was read from environments of this kind."""
    try:
        return isinstance(state, dict) and state.get("kind") == _kind(envs)
    except Unreadable:
        return False


def write_env_state(envs: VectorEnv, state: Any) -> None:
    """Loads a state into environments, new or used, that were made the same way.

    Raises:
        ValueError: A field does not fit, and nothing was changed. If a user-defined set_state()
            raises, its environment and those before it may have changed.
    """
    try:
        kind = _kind(envs)
    except Unreadable as why:
        raise ValueError(f"these environments cannot load a state: {why}") from None
    plan = Plan([], [])
    if isinstance(state, dict) and "kind" in state:  # checked first: it decides the other keys
        state_dict.word(state["kind"], (kind,), "envs.kind")
    state_dict.fields(state, _KEYS[kind], "envs")
    if isinstance(envs, WorkerVectorEnv):
        _write_workers(envs, state)
    elif isinstance(envs, SyncVectorEnv) and kind == "sync":
        _plan_sync(envs, state, plan)
    elif isinstance(envs, CartPoleVectorEnv) and kind == "cartpole":
        _plan_cartpole(envs, state, plan)
    else:
        state_dict.word(state["class"], (type(envs).__name__,), "envs.class")
        plan_own(envs, state["own"], "envs.own", plan)
        if state["generator"] is not None:
            plan_random(envs, state["generator"], "envs.generator", plan)
    plan.apply()


_MAX_TEXT_BYTES = 32 << 20  # half of the limit of a checkpoint's manifest
_KEYS = {
    "own": {"kind", "class", "own", "generator"},
    "cartpole": {"kind", "state", "steps", "prev_done", "low", "high", "generator"},
    "sync": {"kind", "autoreset_mode", "autoreset", "obs", "lanes"},
    "turns": {"kind", "autoreset_mode", "autoreset", "obs", "lanes", "last_obs", *RESULTS},
}


def _kind(envs: VectorEnv) -> str:
    """Returns a key of _KEYS; raises Unreadable if a class is not known."""
    if isinstance(envs, WorkerVectorEnv):  # the sub-environments of sync, in other processes
        return "turns" if envs.in_turns else "sync"
    if isinstance(envs, AsyncVectorEnv) or hasattr(type(envs), "recv"):
        raise Unreadable(
            f"{type(envs).__name__} keeps its sub-environments in other processes or threads"
        )
    if has_own_state(envs):
        return "own"
    if type(envs) is CartPoleVectorEnv:
        return "cartpole"
    if type(envs) is not SyncVectorEnv:
        raise Unreadable(
            f"the state of {type(envs).__name__} is not known: implement get_state() and "
            "set_state(state)"
        )
    for lane in envs.envs:
        require_known(lane)
    return "sync"


def _read_bounded(envs: VectorEnv) -> State:
    """Returns the state; raises Unreadable if it is too large for a checkpoint."""
    state = _read(envs)
    if (size := state_dict.text_bytes(state)) > _MAX_TEXT_BYTES:
        raise Unreadable(
            f"the state has about {size:,} bytes of text, the limit is {_MAX_TEXT_BYTES:,}: "
            "return long lists as arrays"
        )
    return state


def _read(envs: VectorEnv) -> State:
    kind = _kind(envs)
    if isinstance(envs, WorkerVectorEnv):
        ended, lanes = read_worker_states(envs)
        state = {
            "kind": kind, "autoreset_mode": envs.autoreset_mode.value, "autoreset": ended,
            "obs": _read_obs(envs.arrays.obs), "lanes": lanes,
        }  # fmt: skip
        if envs.in_turns:
            state |= {name: getattr(envs.arrays, name).copy() for name in RESULTS}
            state["last_obs"] = _read_obs(
                {} if envs.arrays.last_obs is None else envs.arrays.last_obs
            )
        return state
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
            "low": float(envs.low),  # options of reset() that later resets keep
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
        raise ValueError(f"envs.high is {high}, must be at least envs.low, {low}")
    plan.set(envs, "low", low)
    plan.set(envs, "high", high)
    plan_random(envs, state["generator"], "envs.generator", plan)


def _plan_sync(envs: SyncVectorEnv, state: State, plan: Plan) -> None:
    n = envs.num_envs
    state_dict.word(state["autoreset_mode"], (envs.autoreset_mode.value,), "envs.autoreset_mode")
    flags = state_dict.array(state["autoreset"], (n,), np.bool_, "envs.autoreset")
    plan.set(envs, "_autoreset_envs", flags)
    plan.set(envs, "_observations", _like(envs._observations, state["obs"], "envs.obs"))
    # A reset of some sub-environments batches their observations with the last ones of the others.
    last = iterate(envs.observation_space, _like(envs._observations, state["obs"], "envs.obs"))
    plan.set(envs, "_env_obs", list(last))
    lanes = state_dict.fields(state["lanes"], {str(i) for i in range(n)}, "envs.lanes")
    for i, lane in enumerate(envs.envs):
        plan_lane(lane, lanes[str(i)], f"envs.lanes.{i}", plan)


def _write_workers(envs: WorkerVectorEnv, state: State) -> None:
    """Loads a state of SyncVectorEnv or WorkerVectorEnv. Raises ValueError."""
    n = envs.num_envs
    state_dict.word(state["autoreset_mode"], (envs.autoreset_mode.value,), "envs.autoreset_mode")
    flags = state_dict.array(state["autoreset"], (n,), np.bool_, "envs.autoreset")
    obs = _like(envs.arrays.obs, state["obs"], "envs.obs")
    lanes = state_dict.fields(state["lanes"], {str(i) for i in range(n)}, "envs.lanes")
    results: list[tuple[np.ndarray, np.ndarray]] = []
    batches = [(envs.arrays.obs, obs)]
    if envs.in_turns:
        for name in RESULTS:
            old = getattr(envs.arrays, name)
            results.append(
                (old, state_dict.array(state[name], old.shape, old.dtype, f"envs.{name}"))
            )
        if envs.arrays.last_obs is not None:
            last = _like(envs.arrays.last_obs, state["last_obs"], "envs.last_obs")
            batches.append((envs.arrays.last_obs, last))
    write_worker_states(envs, flags, lanes)
    for old, new in results:
        np.copyto(old, new)
    for batch, new in batches:
        for i, each in enumerate(iterate(envs.observation_space, new)):
            put(envs.single_observation_space, batch, i, each)


def _read_obs(obs: Any) -> Any:
    """Copies batched observations; a tuple becomes a dict with keys "0", "1" and so on."""
    if isinstance(obs, dict | tuple):
        return {str(key): _read_obs(inner) for key, inner in _items(obs)}
    try:
        return state_dict.copy_plain(obs, "the observations")
    except ValueError as error:
        raise Unreadable(str(error)) from error


def _like(model: Any, given: Any, where: str) -> Any:
    """Rebuilds the batched observations that _read_obs() returned in the structure of model."""
    if not isinstance(model, dict | tuple):
        return state_dict.array(given, model.shape, model.dtype, where)
    state_dict.fields(given, {str(key) for key, _ in _items(model)}, where)
    built = {key: _like(inner, given[str(key)], f"{where}.{key}") for key, inner in _items(model)}
    return built if isinstance(model, dict) else tuple(built.values())


def _items(obs: dict | tuple) -> list[tuple[Any, Any]]:
    return list(obs.items() if isinstance(obs, dict) else enumerate(obs))
