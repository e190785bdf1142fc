"""Environments alone: steps per second of each back end, with random actions and no learner."""

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from fastdqn.bench.repeats import Clock, Effort, repeat
from fastdqn.bench.results import Figure
from fastdqn.envs import EnvRecipe, EnvStream
from fastdqn.envs.watchdog import watch, watch_making
from fastdqn.system.cpu_limits import usable_cores

# Lanes of the sweep, besides the run's own count. Ours.
LANES = (1, 8, 64, 512)
# Processes are dear to start and, beyond a few a core, only wait for each other.
_MOST_PROCESSES_PER_CORE = 4
# Seconds beyond those asked for that a count may be expected to take: environments that are slow to
# make, or to step once, are not stepped by the hundred. Ours.
_MOST_SECONDS = 20.0
# Calls whose random actions are drawn beforehand, so that drawing them is not measured.
_DRAWN = 64


def measure_envs(
    recipe: EnvRecipe,
    lanes: list[int],
    effort: Effort,
    clock: Clock,
    own_wait: int | None = None,
    patience: float | None = None,
) -> Iterator[Figure]:
    """Steps/s of every available back end of an environment, over counts of lanes.

    own_wait  lanes to wait for with the first count too, where a back end can wait for some
    patience  seconds that making lanes or a step may take, None: for ever
    Counts that would take too long, going by the next smaller one, are left out.
    Raises ValueError or EnvError where the environment itself cannot be made or stepped.
    """
    for vectorization in available(recipe, patience):
        how = replace(recipe, vectorization=vectorization)
        excess: dict[int, float] = {}  # seconds beyond those asked for, by count
        for num_envs in lanes:
            if num_envs > most_lanes(vectorization) or _expected(excess, num_envs) > _MOST_SECONDS:
                continue
            own = own_wait if num_envs == lanes[0] else None
            for wait_for in waits(how, num_envs, own):
                began = clock()
                figure = _measure_lanes(how, num_envs, wait_for, effort, clock, patience)
                excess[num_envs] = max(0.0, clock() - began - effort.total)
                yield figure
                if how.atari_settings() is not None:
                    yield _measure_by_hand(how, num_envs, wait_for, effort, clock)


def _measure_lanes(
    how: EnvRecipe,
    num_envs: int,
    wait_for: int,
    effort: Effort,
    clock: Clock,
    patience: float | None,
) -> Figure:
    of: dict[str, Any] = {"vectorization": how.vectorization, "num_envs": num_envs}
    if wait_for < num_envs:
        of["env_batch_size"] = wait_for
    with watch_making(str(how), patience):
        envs = how.make(num_envs, env_batch_size=wait_for)
    stream = EnvStream(envs, wait_for)
    with watch(stream.env_calls, patience):  # closing is a call as well
        try:
            return measure_stream(stream, effort, clock, **of)
        finally:
            stream.close()


def _measure_by_hand(
    how: EnvRecipe, num_envs: int, wait_for: int, effort: Effort, clock: Clock
) -> Figure:
    """Steps/s of ale-py's own send() and recv(), whose arrays nobody looks at: the ceiling of a
    stream over it."""
    envs: Any = how.make(num_envs, env_batch_size=wait_for)
    actions = envs.single_action_space.n
    drawn = np.random.default_rng(0).integers(actions, size=(_DRAWN, wait_for))
    envs.reset(seed=0)
    calls = 0

    def call() -> int:
        nonlocal calls
        calls += 1
        envs.send(drawn[calls % _DRAWN])
        envs.recv()
        return wait_for

    of: dict[str, Any] = {"vectorization": "by hand", "num_envs": num_envs}
    if wait_for < num_envs:
        of["env_batch_size"] = wait_for
    try:
        return Figure("env", "env_steps_per_second", repeat(call, effort, clock), of)
    finally:
        envs.close()


def _expected(excess: dict[int, float], num_envs: int) -> float:
    """What smaller counts took grows with the lanes, where environments are slow."""
    smaller = max((count for count in excess if count < num_envs), default=None)
    return 0.0 if smaller is None else excess[smaller] * num_envs / smaller


def most_lanes(vectorization: str) -> float:
    """Lanes that a back end is worth asking for on this machine."""
    return _MOST_PROCESSES_PER_CORE * usable_cores() if vectorization == "async" else math.inf


def waits(how: EnvRecipe, num_envs: int, own: int | None = None) -> list[int]:
    """Lanes to wait for: all, and half of them, and one's own, where the back end can."""
    can = how.vectorization in ("async", "envpool") or how.atari_settings() is not None
    if not can or num_envs == 1:
        return [num_envs]
    return list(dict.fromkeys((num_envs, num_envs // 2, own or num_envs)))


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


def available(recipe: EnvRecipe, patience: float | None = None) -> list[str]:
    """The back ends that can step an environment here, its own choice first.

    patience  seconds that making a lane may take, None: for ever
    """
    own = recipe.resolve()
    if recipe.atari_settings() is not None:  # lanes of Gymnasium's own show whole screens
        return [own]
    names = [name for name in ("sync", "async") if name != own]
    for name in ("native", "envpool"):
        if name == own or (name == "envpool" and not importlib.util.find_spec("envpool")):
            continue
        try:
            with watch_making(str(recipe), patience):
                replace(recipe, vectorization=name).make(1).close()
            names.append(name)
        except ValueError:  # there is no such class, or not with these arguments
            pass
    return [own, *names]
