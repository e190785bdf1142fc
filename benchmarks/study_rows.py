"""What the study compares: its tasks and rows, and the options of each run."""

from typing import Any, NamedTuple

from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import Config

# Another one for whatever makes new results differ from old ones, beyond what settings() says.
VERSION = 1
POINTS = 10  # evaluations on the way


class Task(NamedTuple):
    """The runs of one environment in a study.

    start  what all its rows begin with; steps, seeds  of a run, and of a row
    random_return  mean of 1,000 episodes of random actions, seeds 0 to 999 of both spaces
    atoms  between which returns lie, for rows with categorical values
    bins   of the Q-table
    """

    start: Config
    steps: int
    seeds: int
    random_return: float
    atoms: tuple[float, float]
    bins: int


# Of 500 rewards of size 1 at gamma 0.99, discounted, none is worth more than 99.3.
TASKS = {
    "CartPole-v1": Task(PRESETS["cartpole"], 100_000, 10, 22.6, (0.0, 100.0), 20),
    "Acrobot-v1": Task(
        # Of the zoo of Stable-Baselines3: learning rate, buffer, target network and exploration.
        # Ours: sixteen environments, an update per four steps in place of one a step, 64-64 units.
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
# Each row's switches are all that it has; below D3QN each row has those of the one above it too.
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
# The rows that are trained in another way: the textbook's agent, and a table.
CLASSIC, TABLE = "DQN, classic", "Q-table"
# The rows whose values are held against what comes of them.
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
    """All runs, seed by seed, so that a study that is cut short has every row.

    seeds  of each row, at most
    """
    return [
        Job(name, row, seed)
        for seed in range(1, max(task.seeds for task in TASKS.values()) + 1)
        for name, task in TASKS.items()
        for row in [TABLE, *ROWS, *([CLASSIC] if name == "CartPole-v1" else [])]
        if seed <= min(task.seeds, seeds or task.seeds)
    ]


def steps_of(task: str, share: float) -> int:
    """Of a run, rounded so that evaluations come at equal distances."""
    return max(1, round(TASKS[task].steps * share / POINTS)) * POINTS


def config_of(job: Job, share: float, run_dir: str) -> Config:
    """The options of a run of a network.

    share  of the steps, or episodes, that the study has
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
    """What `fastdqn` is told for a Q-table."""
    steps = steps_of(job.task, share)
    return [
        "tabular", job.task, "--bins", str(TASKS[job.task].bins), "--seed", str(job.seed),
        "--total-timesteps", str(steps), "--eval-frequency", str(steps // POINTS),
        "--run-dir", run_dir, "--quiet",
    ]  # fmt: skip


def settings(share: float) -> dict[str, Any]:
    """All that results depend on beside the code: a folder's must be the same."""
    tasks = {
        name: {
            "steps": steps_of(name, share), "start": task.start.to_json(), "bins": task.bins,
            "atoms": list(task.atoms),
        }
        for name, task in TASKS.items()
    }  # fmt: skip
    classic = PRESETS["cartpole-classic"].to_json()
    return {"version": VERSION, "share": share, "tasks": tasks, "rows": ROWS, "classic": classic}
