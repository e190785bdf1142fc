"""Wrappers: the layers around an environment, and the sub-environments of a vector environment."""

from collections.abc import Iterator

import gymnasium
from gymnasium.vector import VectorEnv, VectorWrapper


def sub_envs(envs: VectorEnv) -> list[gymnasium.Env]:
    """Returns the sub-environments of a vector environment that has them in a list, else []."""
    while isinstance(envs, VectorWrapper):  # unwrapped may be redefined by a wrapper
        envs = envs.env
    held = getattr(envs.unwrapped, "envs", None)
    return [each for each in held if isinstance(each, gymnasium.Env)] if held else []


def innermost(env: gymnasium.Env) -> gymnasium.Env:
    """Returns the environment inside all wrappers; unwrapped may be redefined by a wrapper."""
    *_, env = layers(env)
    return env


def layers(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    """Yields the wrappers, the outermost first, then the environment itself."""
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env
