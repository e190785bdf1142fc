"""Trial: a setting of a sweep, which is trained with each seed in turn."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fastdqn import api
from fastdqn.cli.options import SweepOptions
from fastdqn.cli.search_space import Space, flags, option_values
from fastdqn.cli.sweep_objective import OBJECTIVES, Objective
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import NonFiniteError
from fastdqn.training.loop import DivergedError

# Trials before pruning by the median starts. Not tuned.
_UNCUT = 5
# Divergence counts as a failed trial, and the search continues.
_BAD_SETTING = (DivergedError, NonFiniteError)
_CUT = "cut"


class Outcome(NamedTuple):
    """Result of a run: a value, of which larger ones are better, or why there is none."""

    value: float | None
    failure: str = ""


class Trial:
    """A setting that the study has suggested. After end() the study knows its result.

    Args:
        study: The study of Optuna.
        chosen: Options of the sweep.
        searched: Spaces of the options that are searched.
        jobs: Trials at a time. With several, a setting avoids those that are running.
    """

    def __init__(self, study, chosen: SweepOptions, searched: Mapping[str, Space], jobs: int = 1):
        import optuna

        # Seeded by the number of trials, so that a continued sweep and a second process draw new
        # ones. 2 ** 32 is the limit of NumPy's legacy generator.
        seed = (chosen.config.seed + len(study.trials)) % (1 << 32)
        study.sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=True, constant_liar=jobs > 1
        )
        study.pruner = optuna.pruners.MedianPruner(n_startup_trials=_UNCUT)
        self._study, self._trials, self._seeds = study, chosen.trials, chosen.seeds
        self._objective = OBJECTIVES[chosen.objective]
        self._trial = study.ask()
        self._setting = {n: space.suggest(self._trial, n) for n, space in searched.items()}
        self._config = chosen.config.replace(**option_values(self._setting))
        self._values = list[float]()
        # Values of several options may exclude each other.
        self._failure = next(iter(self._config.problems()), "")

    def next_run(self) -> Config | None:
        """Returns the options of the next run, or None if there is none."""
        if self._failure or len(self._values) == self._seeds:
            return None
        return self._config.replace(seed=self._config.seed + len(self._values))

    def add(self, outcome: Outcome) -> None:
        """Adds the result of the run of next_run()."""
        if outcome.value is None:
            self._failure = outcome.failure
            return
        self._values.append(outcome.value)
        count = len(self._values)
        self._trial.report(sum(self._values) / count, count - 1)
        if count < self._seeds and self._trial.should_prune():
            self._failure = _CUT

    def end(self) -> str:
        """Reports the result to the study. Returns a line about it."""
        import optuna

        values, state = self._values, optuna.trial.TrialState
        if self._failure:
            self._study.tell(self._trial, state=state.PRUNED if values else state.FAIL)
        else:
            self._study.tell(self._trial, sum(values) / len(values))
        texts = "  ".join(self._objective.text_of(value, self._config) for value in values)
        head = self._objective.text if values else "no result"
        why = f" ({self._failure})" if self._failure else ""
        count = f"{len(finished(self._study)):3} of {self._trials}"
        return f"{count}  {head} {texts}".rstrip() + f"{why}  {flags(self._setting)}"


def finished(study) -> list:
    """Returns the finished trials, without interrupted ones."""
    return [trial for trial in study.trials if trial.state.is_finished()]


def train_once(config: Config, place: Path, objective: str = "best") -> Outcome:
    """Trains in a temporary folder, and measures an objective.

    The return of the best weights is that on unused seeds.

    Raises:
        KeyboardInterrupt: The run was interrupted.
    """
    try:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            config = config.replace(
                run_dir=str(Path(folder, "run")), tensorboard=False, wandb=False,
                checkpoint_seconds=None, checkpoint_frequency=None, checkpoint_replay=False,
                final_evaluation=objective == "best",
            )  # fmt: skip
            summary = api.train(config).summary
            if summary["exit_reason"].endswith("interrupted"):
                raise KeyboardInterrupt
            return _measured(OBJECTIVES[objective], summary, config)
    except ConfigError as error:  # found only when the run is built, such as its memory
        return Outcome(None, error.lines[0])
    except _BAD_SETTING as error:
        return Outcome(None, " ".join(str(error).split()))


def _measured(objective: Objective, summary: Mapping[str, Any], config: Config) -> Outcome:
    value = objective.measure(Path(config.run_dir or ""), summary, config)
    if value is None:
        line = f"no {objective.text}: nothing to measure within {summary['total_steps']:,} steps"
        return Outcome(None, line)
    return Outcome(objective.sign * value)
