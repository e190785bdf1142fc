"""Environments alone: steps per second of each back end, with random actions and no learner."""

import importlib.util
from collections.abc import Iterator

import numpy as np

from fastdqn.acting import EnvRecipe, EnvStream
from fastdqn.measure.figures import Figure
from fastdqn.measure.repeat import Clock, Effort, repeat
from fastdqn.timing import usable_cores

# Lanes of the sweep, besides the run's own count. Ours.
LANES = (1, 8, 64, 512)
# Processes are dear to start and, beyond a few a core, only wait for each other.
_MOST_PROCESSES_PER_CORE = 4
# Calls whose random actions are drawn beforehand, so that drawing them is not measured.
_DRAWN = 64


def measure_envs(
    recipe: EnvRecipe, lanes: list[int], effort: Effort, clock: Clock
) -> Iterator[Figure]:
    """Steps/s of every available back end of an environment, over counts of lanes.

    Raises ValueError or EnvError where the environment itself cannot be made or stepped.
    """
    for vectorization in available(recipe):
        for num_envs in lanes:
            most = _MOST_PROCESSES_PER_CORE * usable_cores()
            if vectorization == "async" and num_envs > most:
                continue
            how = EnvRecipe(recipe.env, vectorization, recipe.kwargs, recipe.wrappers)
            for wait_for in waits(vectorization, num_envs):
                stream = EnvStream(how.make(num_envs, env_batch_size=wait_for), wait_for)
                try:
                    yield measure_stream(
                        stream, effort, clock, vectorization=vectorization, num_envs=num_envs,
                        **({} if wait_for == num_envs else {"env_batch_size": wait_for}),
                    )  # fmt: skip
                finally:
                    stream.close()


def waits(vectorization: str, num_envs: int) -> list[int]:
    """Lanes to wait for: all, and half of them where the back end can."""
    if vectorization in ("async", "envpool") and num_envs > 1:
        return [num_envs, num_envs // 2]
    return [num_envs]


def measure_stream(stream: EnvStream, effort: Effort, clock: Clock, **of) -> Figure:
    """Steps/s of one stream; calls that only reset a lane are no steps, resets take their time."""
    rng = np.random.default_rng(0)
    stream.start(seed=0)
    drawn = rng.integers(stream.facts.num_actions, size=(_DRAWN, stream.num_ready))
    calls = 0

    def call() -> int:
        nonlocal calls
        calls += 1
        action = drawn[calls % _DRAWN]
        if stream.mask is not None:  # a random one of those allowed
            action = (rng.random(stream.mask.shape) * stream.mask).argmax(1)
        stream.send(action)
        return len(stream.recv().lanes)

    return Figure("env", "env_steps_per_second", repeat(call, effort, clock), of)


def available(recipe: EnvRecipe) -> list[str]:
    """The back ends that can step an environment here, its own choice first."""
    names = [recipe.resolve()]
    names += [name for name in ("sync", "async") if name not in names]
    if "envpool" not in names and importlib.util.find_spec("envpool"):
        try:
            EnvRecipe(recipe.env, "envpool", recipe.kwargs, recipe.wrappers).make(1).close()
            names.append("envpool")
        except ValueError:  # EnvPool has no such environment, or not with these arguments
            pass
    return names
