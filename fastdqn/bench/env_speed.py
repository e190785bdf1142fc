"""Environment benchmark: steps per second of each vectorization, with random actions."""

import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastdqn.bench.repeats import Clock, Effort, repeat
from fastdqn.bench.results import Figure
from fastdqn.compiled import is_registered
from fastdqn.config.conflicts import are_whole_groups
from fastdqn.envs import EnvRecipe, EnvStream
from fastdqn.envs.watchdog import watch, watch_making
from fastdqn.system.cpu_limits import usable_cores

# Numbers of environments to measure, besides that of the run.
LANES = (1, 8, 64, 512)
# Processes are slow to start, and more than a few per core bring no speed.
_MOST_PROCESSES_PER_CORE = 4
# A count is left out if it is expected to take this many seconds more than requested, which
# happens for environments that are slow to create or to step.
_MOST_SECONDS = 20.0
# Number of batches of random actions that are drawn in advance, outside the measurement.
_DRAWN = 64
# Environments and ratio to sync from which worker processes are recommended. Ours, untuned.
_LEAST_ENVS, _LEAST_GAIN = 8, 1.2


def measure_envs(
    recipe: EnvRecipe,
    lanes: list[int],
    effort: Effort,
    clock: Clock,
    own_wait: tuple[int, int | None] = (0, None),
    patience: float | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Iterator[Figure]:
    """Measures steps/s of every available vectorization and number of environments.

    Counts that would take too long, judging by the next smaller one, are left out.

    Args:
        recipe: Environment to create.
        lanes: Numbers of environments.
        effort: Duration of each measurement.
        clock: Returns seconds.
        own_wait: num_envs and env_batch_size of the run, which is measured with that number.
        patience: Timeout in seconds for creating environments and for a step. None: no timeout.
        note: Receives a line on what is left out.

    Raises:
        ValueError, EnvError: The environment cannot be created or stepped.
    """
    for vectorization in available(recipe, patience):
        how = replace(recipe, vectorization=vectorization)
        excess: dict[int, float] = {}  # seconds more than requested, by count
        for num_envs in lanes:
            if line := _reason_to_skip(vectorization, num_envs, excess):
                note(line)
                continue
            own = own_wait[1] if num_envs == own_wait[0] else None
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
    with watch(stream.env_calls, patience):  # the timeout covers close(), too
        try:
            return measure_stream(stream, effort, clock, **of)
        finally:
            stream.close()


def _measure_by_hand(
    how: EnvRecipe, num_envs: int, wait_for: int, effort: Effort, clock: Clock
) -> Figure:
    """Measures ale-py's send() and recv() alone, an upper bound for the speed of a stream."""
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
    """Estimates the excess time of a count, proportional to that of the next smaller one."""
    smaller = max((count for count in excess if count < num_envs), default=None)
    return 0.0 if smaller is None else excess[smaller] * num_envs / smaller


def _reason_to_skip(vectorization: str, num_envs: int, excess: dict[int, float]) -> str | None:
    """Returns why a number of environments is not measured, in one line, or None."""
    what = f"{vectorization} with {num_envs} environments is left out:"
    if num_envs > (most := most_lanes(vectorization)):
        return f"{what} {most:.0f} processes are the most that are measured on these cores"
    if (seconds := _expected(excess, num_envs)) > _MOST_SECONDS:
        return f"{what} making them would take about {seconds:.0f} s"
    return None


def most_lanes(vectorization: str) -> float:
    """Returns the largest useful number of environments for a vectorization here."""
    return _MOST_PROCESSES_PER_CORE * usable_cores() if vectorization == "async" else math.inf


def waits(how: EnvRecipe, num_envs: int, own: int | None = None) -> list[int]:
    """Returns values of env_batch_size to measure: all, half, and that of the run."""
    can = how.vectorization in ("workers", "async", "envpool") or how.atari_settings() is not None
    if not can or num_envs == 1:
        return [num_envs]
    sizes = dict.fromkeys((num_envs, num_envs // 2, own or num_envs))
    if how.vectorization == "workers":
        return [size for size in sizes if are_whole_groups(size, num_envs, how.workers)]
    return list(sizes)


def measure_stream(stream: EnvStream, effort: Effort, clock: Clock, **of) -> Figure:
    """Measures steps/s of one stream. Resets take time, but do not count as steps."""
    rng = np.random.default_rng(0)
    stream.start(seed=0)
    drawn = rng.integers(stream.facts.num_actions, size=(_DRAWN, stream.num_ready))
    calls = 0

    def call() -> int:
        nonlocal calls
        calls += 1
        action = drawn[calls % _DRAWN]
        if stream.mask is not None:  # a random allowed action
            action = (rng.random(stream.mask.shape) * stream.mask).argmax(1)
        stream.send(action)
        return len(stream.recv().lanes)

    return Figure("env", "env_steps_per_second", repeat(call, effort, clock), of)


def available(recipe: EnvRecipe, patience: float | None = None) -> list[str]:
    """Returns the vectorizations to measure: that of the recipe, or all if it is auto.

    Args:
        recipe: Environment to create.
        patience: Timeout in seconds for creating an environment. None: no timeout.
    """
    own = recipe.resolve()
    if recipe.vectorization != "auto":
        return [own]
    if recipe.atari_settings() is not None:  # others would lack the preprocessing
        return [own]
    names = [name for name in ("sync", "workers", "async") if name != own]
    # The vector class of an id with a definition only is the compiled one.
    more = ("envpool",) if is_registered(str(recipe)) else ("compiled", "native", "envpool")
    for name in more:
        if name == own or (name == "envpool" and not importlib.util.find_spec("envpool")):
            continue
        try:
            with watch_making(str(recipe), patience):
                replace(recipe, vectorization=name).make(1).close()
            names.append(name)
        except ValueError:  # not available for this environment, or for these arguments
            pass
    return [own, *names]


def workers_advice(figures: Sequence[Figure]) -> str | None:
    """Returns a sentence that recommends `workers` if they are measured faster than all others.

    Their slowest repeat must be faster than every repeat of the others.
    """
    gains = {}
    for num_envs in {figure.of["num_envs"] for figure in figures}:
        rates = {
            figure.of["vectorization"]: figure.rate
            for figure in figures
            if figure.of["num_envs"] == num_envs and "env_batch_size" not in figure.of
        }
        workers = rates.pop("workers", None)
        if workers is None or "sync" not in rates:
            continue
        if workers.least > max(rate.most for rate in rates.values()):
            gains[num_envs] = workers.median / rates["sync"].median
    best = max((n for n in gains if n >= _LEAST_ENVS), key=lambda n: gains[n], default=None)
    if best is None or gains[best] < _LEAST_GAIN:
        return None
    return (
        f"with {best} environments workers is {gains[best]:.1f} times as fast as sync: use "
        "--vectorization workers"
    )
