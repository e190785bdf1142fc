"""Peers of bench_env.py: worker processes of other libraries, as functions that step N times.

Each takes the environment's id and N, and returns a function that steps all N environments once
with random actions, and one that ends its processes. It raises ImportError if its library is
missing.
"""

# The libraries may not be installed for the type checker.
# pyright: reportMissingImports=false

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv

from fastdqn.envs import EnvRecipe, EnvStream

# Number of batches of random actions that are drawn in advance, outside the measurement.
_DRAWN = 64


class Stepped(NamedTuple):
    """Environments to measure: call() steps all of them and returns their number."""

    call: Callable[[], int]
    close: Callable[[], Any]


def stream(
    env: Any, num_envs: int, vectorization: str, workers: int | None = None, halves: bool = False
) -> Stepped:
    """Returns an EnvStream, which also separates transitions from episode starts.

    halves: Whether two halves are stepped in turns, by double buffering.
    """
    recipe = EnvRecipe(env, vectorization, workers=workers, double_buffering=halves)
    made = EnvStream(recipe.make(num_envs), num_envs // 2 if halves else None)
    made.start(seed=0)
    actions = random_actions(made.facts.num_actions, made.num_ready)

    def step(action: np.ndarray) -> None:
        made.send(action)
        made.recv()

    return Stepped(in_turn(step, actions), made.close)


def gymnasium_async(env_id: str, num_envs: int, workers: int) -> Stepped:
    envs = AsyncVectorEnv([lambda: gymnasium.make(env_id)] * num_envs, copy=False)
    envs.reset(seed=0)
    actions = random_actions(int(gymnasium.make(env_id).action_space.n), num_envs)  # pyright: ignore[reportAttributeAccessIssue]
    return Stepped(in_turn(envs.step, actions), envs.close)


def sb3_subproc(env_id: str, num_envs: int, workers: int) -> Stepped:
    from stable_baselines3.common.vec_env import SubprocVecEnv

    envs = SubprocVecEnv([lambda: gymnasium.make(env_id)] * num_envs, start_method="fork")
    envs.seed(0)
    envs.reset()
    actions = random_actions(int(envs.action_space.n), num_envs)  # pyright: ignore[reportAttributeAccessIssue]
    return Stepped(in_turn(envs.step, actions), envs.close)


def pufferlib_multiprocessing(env_id: str, num_envs: int, workers: int) -> Stepped:
    import pufferlib.emulation
    import pufferlib.vector

    def make(**_: Any) -> Any:
        return pufferlib.emulation.GymnasiumPufferEnv(env_creator=lambda: gymnasium.make(env_id))

    envs = pufferlib.vector.make(
        make, num_envs=num_envs, num_workers=workers, batch_size=num_envs,
        backend=pufferlib.vector.Multiprocessing,
    )  # fmt: skip
    envs.reset(seed=0)
    actions = random_actions(int(envs.single_action_space.n), num_envs)
    return Stepped(in_turn(envs.step, actions), envs.close)


PEERS: dict[str, Callable[[str, int, int], Stepped]] = {
    "fastdqn sync": lambda env_id, num_envs, _: stream(env_id, num_envs, "sync"),
    "fastdqn workers": lambda env_id, num_envs, workers: stream(
        env_id, num_envs, "workers", workers
    ),
    "gymnasium AsyncVectorEnv": gymnasium_async,
    "Stable-Baselines3 SubprocVecEnv": sb3_subproc,
    "PufferLib Multiprocessing": pufferlib_multiprocessing,
}
# Modules whose versions are recorded beside the rows.
VERSIONS = ("gymnasium", "stable_baselines3", "pufferlib")


def random_actions(num_actions: int, num_envs: int) -> np.ndarray:
    return np.random.default_rng(0).integers(num_actions, size=(_DRAWN, num_envs))


def in_turn(step: Callable[[np.ndarray], Any], actions: np.ndarray) -> Callable[[], int]:
    calls = 0

    def call() -> int:
        nonlocal calls
        calls += 1
        step(actions[calls % _DRAWN])
        return actions.shape[1]

    return call
