"""register(), find_definition(): definitions by the id of their environment."""

from collections.abc import Callable
from typing import Any

import gymnasium

from fastdqn.compiled import cartpole, mountain_car, tables
from fastdqn.compiled.definition import EnvDefinition
from fastdqn.compiled.single_env import CompiledEnv
from fastdqn.compiled.vector_env import CompiledVectorEnv

# Gymnasium's own environments that a definition replaces: the same bits for equal seeds.
_SAME_BITS = {**cartpole.SAME_BITS, **mountain_car.SAME_BITS, **tables.SAME_BITS}
# The function that gymnasium.make() calls, and the one that makes the definition.
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
    return (
        spec is not None
        and spec.entry_point == entry.entry_point
        and not spec.additional_wrappers
        and {*spec.kwargs, *kwargs} <= entry.arguments
    )


def is_registered(env_id: str) -> bool:
    """Returns whether an id is one of register(), which has no form in Python."""
    spec = gymnasium.registry.get(env_id)
    return spec is not None and spec.entry_point is _registered.get(env_id, (None,))[0]


def find_definition(env_id: str, kwargs: dict[str, Any] | None = None) -> EnvDefinition:
    """Returns the definition of an environment; raises ValueError unless has_definition()."""
    kwargs = kwargs or {}
    if not has_definition(env_id, kwargs):
        which = f" with the arguments {', '.join(sorted(kwargs))}" if kwargs else ""
        raise ValueError(
            f"{env_id}{which} has no compiled form. To write one, see the page "
            "compiled_envs of the guide. These have one: " + ", ".join([*_registered, *_SAME_BITS])
        )
    if is_registered(env_id):
        return _registered[env_id][1](**kwargs)
    return _SAME_BITS[env_id].build(env_id, {**gymnasium.spec(env_id).kwargs, **kwargs})


_VECTOR_ARGUMENTS = {
    "max_episode_steps", "autoreset_mode", "threads", "render_mode", "copy", "compiled",
}  # fmt: skip
