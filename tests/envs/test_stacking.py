"""declared_stack(): environments that declare stacked frames."""

import contextlib

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from fastdqn.envs import EnvRecipe, EnvStream, declared_stack


class Pixels(gymnasium.Env):
    """Observes 5 x 6 bytes, or what space it is given."""

    def __init__(self, space: spaces.Space | None = None):
        self.observation_space = space or spaces.Box(0, 255, (5, 6), np.uint8)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def stacked(stack: int, space: spaces.Space | None = None) -> gymnasium.Env:
    return wrappers.FrameStackObservation(Pixels(space), stack)


def transposed() -> gymnasium.Env:
    env = stacked(3)
    space = spaces.Box(0, 255, (5, 6, 3), np.uint8)
    return wrappers.TransformObservation(env, lambda obs: np.moveaxis(obs, 0, -1), space)


def framed_again() -> gymnasium.Env:
    """The first axis is as long as a stack was, further in."""
    return wrappers.ReshapeObservation(stacked(3), (3, 30))


@pytest.mark.parametrize(
    ("make", "stack"),
    [
        (lambda: stacked(4), 4),
        (lambda: stacked(1), 1),
        (lambda: wrappers.TimeLimit(stacked(2), 9), 2),
        (lambda: Pixels(spaces.Box(0, 255, (4, 84, 84), np.uint8)), 1),  # not declared
        (transposed, 1),
        (framed_again, 1),
        (lambda: stacked(2, spaces.Discrete(5)), 1),
        (lambda: stacked(2, spaces.Dict(a=spaces.Box(0, 1, (2,)))), 1),
    ],
)
def test_a_stack_is_declared_by_a_wrapper(make, stack):
    assert declared_stack(SyncVectorEnv([make, make])) == stack


def test_differing_environments_declare_no_stack():
    whole = spaces.Box(0, 255, (4, 5, 6), np.uint8)
    envs = SyncVectorEnv([lambda: stacked(4), lambda: Pixels(whole)])
    assert declared_stack(envs) == 1


@pytest.mark.parametrize(("make", "stack"), [(lambda: stacked(3), 3), (Pixels, 1)])
def test_worker_processes_declare_their_stack(make, stack):
    envs = AsyncVectorEnv([make])
    stream = EnvStream(envs)
    try:
        assert stream.facts.stack == stack
        stream.start(seed=1)  # and they still step
    finally:
        stream.close()


@pytest.mark.slow
def test_arcade_environments_declare_how_they_were_made():
    pytest.importorskip("ale_py")
    from ale_py.vector_env import AtariVectorEnv

    assert declared_stack(AtariVectorEnv("pong", 1, stack_num=3)) == 3


@pytest.mark.slow
def test_envpools_environments_declare_how_they_were_made():
    pytest.importorskip("envpool")

    def declared(env_id, **kwargs) -> int:
        with contextlib.closing(EnvRecipe(env_id, "envpool", kwargs).make(1)) as envs:
            return declared_stack(envs)

    assert declared("Pong-v5", stack_num=2) == 2
    assert declared("CartPole-v1") == 1
    assert declared("Pong-v5", stack_num=2, gray_scale=False) == 1  # 6 planes, not 2 frames
