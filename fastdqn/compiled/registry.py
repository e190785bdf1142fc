"""register(), find_definition(): definitions by the id of their environment."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from fastdqn.compiled import cartpole, mountain_car, tables
from fastdqn.compiled.definition import EnvDefinition
from fastdqn.compiled.single_env import CompiledEnv
from fastdqn.compiled.vector_env import CompiledVectorEnv

# Gymnasium's own environments that a definition replaces: the same bits for equal seeds.
_SAME_BITS = {**cartpole.SAME_BITS, **mountain_car.SAME_BITS, **tables.SAME_BITS}
# The function that gymnasium.make() calls, and the one that makes the definition.
# Steps of an episode that are compared, and the results by id and arguments.
_COMPARED = 30
_agreed: dict[str, bool] = {}
_registered: dict[str, tuple[Callable, Callable[..., EnvDefinition]]] = {}


def register(env_id: str, definition: EnvDefinition | Callable[..., EnvDefinition]) -> None:
    """Registers a definition for gymnasium.make() and gymnasium.make_vec().

    Args:
        env_id: An id such as MyGame-v0, or with a namespace, my_package/MyGame-v0.
        definition: The definition, or a function that makes one from the keyword arguments of
            make(), all of them optional.
    """
    build = definition if callable(definition) else lambda: definition
    first = _first(env_id, build)

    def single(render_mode: str | None = None, **kwargs: Any) -> CompiledEnv:
        return CompiledEnv(build(**kwargs), render_mode)

    def vector(num_envs: int = 1, **kwargs: Any) -> CompiledVectorEnv:
        own = {name: kwargs.pop(name) for name in _VECTOR_ARGUMENTS & kwargs.keys()}
        return CompiledVectorEnv(build(**kwargs), num_envs, **own)

    home = getattr(first.step, "py_func", first.step).__module__
    for function in (single, vector):
        function.__module__ = home  # the package that the id is listed under
    gymnasium.register(
        env_id, entry_point=single, vector_entry_point=vector,
        max_episode_steps=first.max_episode_steps,
    )  # fmt: skip
    _registered[env_id] = single, build


def _first(env_id: str, build: Callable[..., EnvDefinition]) -> EnvDefinition:
    try:
        made = build()
    except TypeError as error:
        raise ValueError(
            f"{env_id}: the function of the definition needs a default for each argument: {error}"
        ) from error
    if not isinstance(made, EnvDefinition):
        raise ValueError(
            f"{env_id}: {type(made).__name__} is no EnvDefinition, nor a function of one"
        )
    return made


def has_definition(env_id: str, kwargs: dict[str, Any]) -> bool:
    """Returns whether a definition steps an environment with the same results.

    Args:
        env_id: A registered id: Gymnasium's own, or one of register().
        kwargs: Arguments of its constructor, without max_episode_steps.
    """
    if is_registered(env_id):
        return True
    if (entry := _SAME_BITS.get(env_id)) is None:
        return False
    spec = gymnasium.registry.get(env_id)
    if spec is None or spec.entry_point != entry.entry_point or spec.additional_wrappers:
        return False
    merged = {**spec.kwargs, **kwargs}
    return merged.keys() <= entry.arguments and entry.fits(merged) and _agrees(env_id, merged)


def _agrees(env_id: str, kwargs: dict[str, Any]) -> bool:
    """Returns whether a definition does what the installed Gymnasium does, by some steps of both.

    Gymnasium's environments change between versions. An error is left to who makes them.
    """
    if (key := f"{env_id} {sorted(kwargs.items())!r}") not in _agreed:
        try:
            theirs = gymnasium.make(env_id, **kwargs).unwrapped
            ours = CompiledEnv(_SAME_BITS[env_id].build(env_id, kwargs), compiled=False)
            _agreed[key] = all(_steps(ours, seed) == _steps(theirs, seed) for seed in range(3))
        except Exception:
            _agreed[key] = True
    return _agreed[key]


def _steps(env: gymnasium.Env, seed: int) -> list[tuple]:
    """Returns the results of the first steps of an episode, with fixed actions."""
    found: list[tuple] = [(np.asarray(env.reset(seed=seed)[0]).tobytes(),)]
    for t in range(_COMPARED):
        action = np.int64((t // 2 + seed) % env.action_space.n)  # pyright: ignore[reportAttributeAccessIssue]
        obs, reward, terminated, _, _ = env.step(action)
        found.append((np.asarray(obs).tobytes(), float(reward), bool(terminated)))
        if terminated:
            break
    return found


def is_registered(env_id: str) -> bool:
    """Returns whether an id is one of register(), which has no form in Python."""
    spec = gymnasium.registry.get(env_id)
    return spec is not None and spec.entry_point is _registered.get(env_id, (None,))[0]


def find_definition(env_id: str, kwargs: dict[str, Any] | None = None) -> EnvDefinition:
    """Returns the definition of an environment; raises ValueError unless has_definition()."""
    kwargs = kwargs or {}
    if not has_definition(env_id, kwargs):
        which = f" with the arguments {', '.join(sorted(kwargs))}" if kwargs else ""
        known = _SAME_BITS.get(env_id)
        remedy = (
            f"It has one for the arguments {', '.join(sorted(known.arguments))} if their results "
            "equal Gymnasium's; use --vectorization sync for others"
            if known is not None
            else "To write one, see the page compiled_envs of the guide. These have one: "
            + ", ".join([*_registered, *_SAME_BITS])
        )
        raise ValueError(f"{env_id}{which} has no compiled form. {remedy}")
    if is_registered(env_id):
        return _registered[env_id][1](**kwargs)
    return _SAME_BITS[env_id].build(env_id, {**gymnasium.spec(env_id).kwargs, **kwargs})


_VECTOR_ARGUMENTS = {
    "max_episode_steps", "autoreset_mode", "threads", "render_mode", "copy", "compiled",
}  # fmt: skip
