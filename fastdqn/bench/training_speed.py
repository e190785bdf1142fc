"""Training benchmark: steps per second of the loop, and seconds of each phase."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gymnasium.vector import VectorEnv

from fastdqn.bench.learner_speed import waiter
from fastdqn.bench.measured_budget import RepeatsBudget, TurnsBudget
from fastdqn.bench.repeats import Clock, Effort, Rate
from fastdqn.bench.results import Figure
from fastdqn.bench.synthetic_data import fill_replay
from fastdqn.builders import build
from fastdqn.builders.parts import NO_PARTS
from fastdqn.builders.preflight import prepare_validated
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import read_facts
from fastdqn.learning.marks import Mark
from fastdqn.logging.console import Silent
from fastdqn.session import Session
from fastdqn.training import loop
from fastdqn.training.marks import PhaseRanges, mark_kernels

# Maximum random steps before learning starts, which are not measured.
MOST_RANDOM_STEPS = 10_000


class Trained(NamedTuple):
    """Speed of a training loop.

    Attributes:
        figure: Steps per second.
        turns: Iterations of the loop per second.
        phases: Seconds of each phase.
        seconds: Elapsed seconds. The phases add up to it, unless one is missing.
        steps, updates: Steps and updates made in that time.
        startup_seconds: Seconds before the loop, by name: build, and compiling or loading kernels.
        warm_up_seconds, warm_up_steps: Random steps and burn-in before the measurement.
    """

    figure: Figure
    turns: Rate
    phases: dict[str, float]
    seconds: float
    steps: int
    updates: int
    startup_seconds: dict[str, float]
    warm_up_seconds: float
    warm_up_steps: int


def measure_training(
    config: Config,
    effort: Effort,
    synchronized: bool = False,
    clock: Clock = time.perf_counter,
    envs: VectorEnv | None = None,
    filled: bool = False,
) -> Trained:
    """Trains as `fastdqn train` does, without evaluations, in a temporary folder.

    Args:
        config: Resolved options.
        effort: Duration of the measurement.
        synchronized: Whether to synchronize the device before each reading of the clock. Each
            phase then includes its own work, and the total is slower. Otherwise a phase includes
            the time that it waited for.
        clock: Returns seconds.
        envs: Vectorized environment in place of config.env_id.
        filled: Whether to start with a full replay buffer, which is slower than an empty one.
    """
    with _short_session(config, synchronized, clock, envs) as session:
        run = session.run
        if filled:
            facts = run.stream.facts._replace(has_masks=run.stream.mask is not None)
            fill_replay(run.replay, facts, run.replay.ring.rows)
        before = clock()
        budget = RepeatsBudget(run, effort, clock)
        run.budget = budget  # pyright: ignore[reportAttributeAccessIssue]
        loop.train(run)
        ended = clock()
        assert budget.began is not None
        steps = run.progress.steps - budget.first_steps
        of = {
            "num_envs": config.num_envs, "batch_size": config.batch_size,
            "samples_per_step": float(config.batch_size / config.train_frequency),
            "clock": "synchronized" if synchronized else "plain",
        }  # fmt: skip
        rate = Rate.over(budget.step_rates, steps)
        return Trained(
            Figure("train", "train_steps_per_second", rate, of),
            Rate.over(budget.turn_rates, budget.turns), dict(run.laps.totals),
            ended - budget.began, steps, run.progress.updates - budget.first_updates,
            dict(session.startup.totals), budget.began - before, budget.first_steps,
        )  # fmt: skip


def run_turns(
    config: Config,
    turns: int,
    begin: Callable[[], None],
    end: Callable[[], None],
    mark: Mark,
    mark_turn: Callable[[int], contextlib.AbstractContextManager[Any]],
    clock: Clock = time.perf_counter,
) -> None:
    """Trains until learning has started, then turns iterations between begin() and end().

    mark() marks their phases and kernels for a profiler, and mark_turn() each of them.
    """
    with _short_session(config) as session:
        run = session.run
        ranges = PhaseRanges(mark, mark_turn)
        mark_kernels(run, mark)

        def begin_marked() -> None:
            begin()
            run.laps.ranges = ranges

        def end_marked() -> None:
            run.laps.ranges = None
            ranges.leave()
            end()

        budget = TurnsBudget(run, turns, begin_marked, end_marked, clock)
        run.budget = budget  # pyright: ignore[reportAttributeAccessIssue]
        loop.train(run)


@contextlib.contextmanager
def _short_session(
    config: Config,
    synchronized: bool = False,
    clock: Clock = time.perf_counter,
    envs: VectorEnv | None = None,
) -> Iterator[Session]:
    """Yields a session without evaluations, in a temporary folder."""
    wait = waiter(torch.device(config.device)) if synchronized else lambda: None

    def ticking() -> float:
        wait()
        return clock()

    with tempfile.TemporaryDirectory() as folder:
        config = config.replace(
            run_dir=str(Path(folder, "run")), eval_frequency=0, stop_at_return=None,
            checkpoint_frequency=None, checkpoint_seconds=None, tensorboard=False, wandb=False,
            total_timesteps=config.total_timesteps or 100_000,
            total_episodes=None, learning_starts=min(config.learning_starts, MOST_RANDOM_STEPS),
        )  # fmt: skip
        facts = None if envs is None else read_facts(envs)
        setup, lines = prepare_validated(config, facts, None, NO_PARTS, [])
        if setup is None:
            raise ConfigError(lines)
        session = build.build(setup, lambda _: Silent(), envs, clock=ticking)
        try:
            yield session
        finally:
            session.close()
