"""Costs of techniques: updates per second with each, relative to a plain D3QN."""

import time
from typing import Any

from fastdqn.bench.learner_speed import learner_on, waiter
from fastdqn.bench.repeats import Clock, Effort, by_turns
from fastdqn.bench.results import Figure
from fastdqn.builders.auto_options import choose_learner
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts

_PLAIN: dict[str, Any] = {
    "double": True, "dueling": True, "value": "scalar", "noisy": False, "munchausen": False,
    "loss": "mse", "updates_per_launch": 1,
    "backup": "auto",  # chosen by double and munchausen, in place of the one of the run
    "capture": "eager",  # compiling ten updates would take ten minutes
}  # fmt: skip
SWITCHES: dict[str, dict[str, Any]] = {
    "D3QN": {},
    "no double": {"double": False},
    "no dueling": {"dueling": False},
    "huber": {"loss": "huber"},
    "munchausen": {"munchausen": True},
    "noisy": {"noisy": True},
    "categorical": {"value": "categorical"},
    "quantile": {"value": "quantile"},
    "implicit-quantile": {"value": "implicit-quantile"},
    "categorical and noisy": {"value": "categorical", "noisy": True},
}


def measure_switches(
    config: Config, facts: EnvFacts, effort: Effort, clock: Clock = time.perf_counter
) -> list[Figure]:
    """Measures updates/s with each technique alone, and their ratio to D3QN.

    Args:
        config: Resolved options. Its own techniques are replaced.
        facts: Spaces of the environment.
        effort: Duration of each measurement.
        clock: Returns seconds.
    """
    asked = {name: _switched(config, changes) for name, changes in SWITCHES.items()}
    made = {name: learner_on(switched, facts) for name, switched in asked.items()}
    finish = waiter(made["D3QN"][1])
    rates = by_turns({name: update for name, (update, _, _) in made.items()}, effort, clock, finish)
    plain = rates["D3QN"].median
    return [
        Figure("learner", "learner_updates_per_second", rate, {
            "switch": name, "learner": asked[name].learner, "batch_size": config.batch_size,
            "capture": "eager", "device": config.device, "ratio": round(rate.median / plain, 3),
        })
        for name, rate in rates.items()
    ]  # fmt: skip


def _switched(config: Config, changes: dict[str, Any]) -> Config:
    """Returns options with a technique, and the learner that auto would choose, or torch."""
    changed = config.replace(**(_PLAIN | changes))
    if config.learner == "torch":
        return changed
    return changed.replace(learner=choose_learner(changed.replace(learner="auto"), 0)[0])
