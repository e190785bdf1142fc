"""Tasks and rows of the study, and the options of each run."""

from typing import Any, NamedTuple

from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import Config

# Increase it if results change for another reason than settings().
VERSION = 1
POINTS = 10  # evaluations per run


class Task(NamedTuple):
    """Runs of one environment.

    Attributes:
        start: Base options of all rows.
        steps: Steps of a run.
        seeds: Number of seeds of a row.
        random_return: Mean return of 1,000 episodes of random actions, with seeds 0 to 999.
        atoms: Minimum and maximum atoms, for categorical values.
        bins: Bins of the Q-table.
    """

    start: Config
    steps: int
    seeds: int
    random_return: float
    atoms: tuple[float, float]
    bins: int


# The discounted return of 500 rewards of 1 at gamma 0.99 is at most 99.3.
TASKS = {
    "CartPole-v1": Task(PRESETS["cartpole"], 100_000, 10, 22.6, (0.0, 100.0), 20),
    "Acrobot-v1": Task(
        # From RL Zoo: learning rate, buffer, target network and exploration. Different from it:
        # sixteen environments, an update per four steps instead of one, 64-64 units.
        Config(
            preset="study", env_id="Acrobot-v1", learning_rate=6.3e-4, buffer_size=50_000,
            target_network_frequency=250, exploration_fraction=0.12, exploration_final_eps=0.1,
            hidden_sizes=(64, 64),
        ),
        100_000, 5, -498.6, (-100.0, 0.0), 10,
    ),
}  # fmt: skip
_D3QN = {"double": True, "dueling": True}
_PER = {**_D3QN, "prioritized": True}
_THREE = {**_PER, "n_steps": 3}
# Options of each row. A row with + has those of the row above it, too.
ROWS: dict[str, dict[str, Any]] = {
    "DQN, no replay": {"replay": False},
    "DQN, no target network": {"target_network": False},
    "DQN": {},
    "Double DQN": {"double": True},
    "Dueling DQN": {"dueling": True},
    "D3QN": _D3QN,
    "+ PER": _PER,
    "+ 3 steps": _THREE,
    "+ C51, noise: Rainbow": {**_THREE, "value": "categorical", "noisy": True},
}
_NONE = {
    "double": False, "dueling": False, "prioritized": False, "n_steps": 1, "value": "scalar",
    "noisy": False, "munchausen": False,
}  # fmt: skip
# Rows that are trained differently: the classic single-environment agent, and a Q-table.
CLASSIC, TABLE = "DQN, classic", "Q-table"
# Rows whose predicted values are compared with actual returns.
PREDICTED = ("DQN", "Double DQN")


class Job(NamedTuple):
    task: str
    row: str
    seed: int

    @property
    def file(self) -> str:
        words = (self.task, self.row, str(self.seed))
        return "__".join("".join(filter(str.isalnum, word)) for word in words) + ".json"


def jobs(seeds: int | None) -> list[Job]:
    """Returns all runs, ordered by seed, so that an interrupted study has every row.

    Args:
        seeds: Maximum seeds of each row. None: no limit.
    """
    return [
        Job(name, row, seed)
        for seed in range(1, max(task.seeds for task in TASKS.values()) + 1)
        for name, task in TASKS.items()
        for row in [TABLE, *ROWS, *([CLASSIC] if name == "CartPole-v1" else [])]
        if seed <= min(task.seeds, seeds or task.seeds)
    ]


def steps_of(task: str, share: float) -> int:
    """Returns the steps of a run, rounded so that evaluations are at equal intervals."""
    return max(1, round(TASKS[task].steps * share / POINTS)) * POINTS


def config_of(job: Job, share: float, run_dir: str) -> Config:
    """Returns the options of a run with a network.

    Args:
        job: Task, row and seed.
        share: Fraction of the steps or episodes of the study.
        run_dir: Run folder.
    """
    task = TASKS[job.task]
    common = {
        "seed": job.seed, "run_dir": run_dir, "threads": 1, "device": "cpu", "tensorboard": False,
        "checkpoint_seconds": None, "stop_at_return": None,
    }  # fmt: skip
    if job.row == CLASSIC:
        episodes = max(1, round(500 * share))
        return PRESETS["cartpole-classic"].replace(total_episodes=episodes, **common)
    steps = steps_of(job.task, share)
    low, high = task.atoms
    return task.start.replace(
        **common, **_NONE | ROWS[job.row], total_timesteps=steps,
        learning_starts=min(task.start.learning_starts, steps // 2),
        eval_frequency=steps // POINTS, eval_episodes=20, v_min=low, v_max=high,
    )  # fmt: skip


def table_words(job: Job, share: float, run_dir: str) -> list[str]:
    """Returns the command line arguments of `fastdqn` for a Q-table."""
    steps = steps_of(job.task, share)
    return [
        "tabular", job.task, "--bins", str(TASKS[job.task].bins), "--seed", str(job.seed),
        "--total-timesteps", str(steps), "--eval-frequency", str(steps // POINTS),
        "--run-dir", run_dir, "--quiet",
    ]  # fmt: skip


def settings(share: float) -> dict[str, Any]:
    """Returns the settings of a study. Those of an existing folder must be equal."""
    tasks = {
        name: {
            "steps": steps_of(name, share), "start": task.start.to_json(), "bins": task.bins,
            "atoms": list(task.atoms),
        }
        for name, task in TASKS.items()
    }  # fmt: skip
    classic = PRESETS["cartpole-classic"].to_json()
    return {"version": VERSION, "share": share, "tasks": tasks, "rows": ROWS, "classic": classic}
