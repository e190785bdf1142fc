"""Trials of a sweep on a Ray cluster, several at a time."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from fastdqn.cli.options import SweepOptions
from fastdqn.cli.search_space import Space
from fastdqn.cli.sweep_storage import temporary_runs_folder, writing
from fastdqn.cli.sweep_trial import Outcome, Trial, finished, train_once
from fastdqn.cluster.node_folder import cache_folder
from fastdqn.cluster.resources import Resources
from fastdqn.cluster.task_pool import Lost, TaskPool
from fastdqn.config.schema import Config

# A run whose process is killed is repeated once: the loss of a node says nothing of the setting.
# The second loss counts as a failed trial: the setting may need more memory than a node has.
_ATTEMPTS = 2


def trials_on_cluster(
    path: Path, chosen: SweepOptions, study, searched: Mapping[str, Space]
) -> Iterator[str]:
    """Runs trials on the cluster that this process is connected to. Yields a line about each.

    This process alone asks the study for settings and reports their results.
    """
    pool = TaskPool(Resources(chosen.ray_cpus, chosen.ray_gpus), chosen.jobs)
    running = _Running(pool, chosen.objective)
    try:
        while True:
            with writing(path):
                if pool.free and len(finished(study)) + running.count < chosen.trials:
                    line = running.start(Trial(study, chosen, searched, pool.jobs))
                elif running.count:
                    line = running.wait()
                else:
                    return
            if line:
                yield line
    finally:
        pool.close()


class _Running:
    """Trials whose runs are on the cluster, one run of each."""

    def __init__(self, pool: TaskPool, objective: str):
        self._pool, self._losses, self._objective = pool, dict[Trial, int](), objective

    @property
    def count(self) -> int:
        return len(self._losses)

    def start(self, trial: Trial) -> str:
        """Starts the next run of a trial. Returns a line about a trial that has ended, or ''."""
        self._losses.setdefault(trial, 0)
        config = trial.next_run()
        if config is None:
            del self._losses[trial]
            return trial.end()
        self._pool.start(trial, train_on_node, config, self._objective)
        return ""

    def wait(self) -> str:
        """Waits for the end of a run, and starts the next one. Returns as start()."""
        trial, outcome = self._pool.wait()
        if not isinstance(outcome, Lost):
            self._losses[trial] = 0
            trial.add(outcome)
        else:
            self._losses[trial] += 1
            if self._losses[trial] == _ATTEMPTS:
                trial.add(Outcome(None, f"its process was lost twice: {outcome.reason}"))
        return self.start(trial)


def train_on_node(config: Config, objective: str) -> Outcome | Lost:
    """Trains in a temporary folder of this node. Folders that killed processes left are removed."""
    path = cache_folder() / "sweep"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    try:
        with temporary_runs_folder(path) as folder:
            return train_once(config, folder, objective)
    except KeyboardInterrupt:
        return Lost("it was interrupted")
