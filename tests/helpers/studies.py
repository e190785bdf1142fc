"""Studies without processes: a scheduler that writes run folders, and small real ones."""

import json
import subprocess
import sys
from pathlib import Path

from fastdqn.checkpoints.checked_read import read_latest
from fastdqn.checkpoints.loader import load_checkpoint
from fastdqn.study.run_progress import RunProgress
from fastdqn.study.run_queue import Entry, RunQueue
from fastdqn.study.scheduler import Ended, Job
from fastdqn.study.study_folder import Run, Study, Variant, summary_of
from helpers.report_pages import write_run

BASE, THREE = Variant("base", ()), Variant("n-steps-3", ("--n-steps", "3"))
# A training of a second, most of which is the start of the process.
TINY = (
    "--total-timesteps", "600", "--num-envs", "4", "--learning-starts", "100", "--buffer-size",
    "1000", "--eval-frequency", "300", "--eval-episodes", "2", "--tensorboard", "False",
    "--checkpoint-frequency", "100", "--stop-at-return", "None",
)  # fmt: skip


class FakeScheduler:
    """Scheduler whose jobs end at the next wait(): they write a run folder, or fail.

    Args:
        jobs: Number of jobs in parallel.
        fails: Number of attempts of a run that fail, by its name.
        endless: Names of runs that end only when they are stopped.
    """

    def __init__(self, jobs: int = 1, fails: dict[str, int] | None = None, endless=()):
        self._jobs, self._fails, self._endless = jobs, dict(fails or {}), endless
        self._running: dict[str, Job] = {}
        self.started: list[Job] = []
        self.saved: list[str] = []
        self.stopped = self.closed = False

    @property
    def free(self) -> int:
        return self._jobs - len(self._running)

    def start(self, job: Job) -> None:
        assert self.free > 0
        self.started.append(job)
        self._running[job.key] = job

    def wait(self, seconds: float) -> list[Ended]:
        ended = []
        for key, job in list(self._running.items()):
            if key in self._endless and not self.stopped:
                continue
            del self._running[key]
            ended.append(Ended(key, 130 if key in self._endless else self._train(job)))
        return ended

    def stop(self) -> None:
        self.stopped = True

    def save(self, key: str) -> None:
        self.saved.append(key)

    def close(self) -> None:
        self.closed = True

    def _train(self, job: Job) -> int:
        if self._fails.get(job.key, 0) > 0:
            self._fails[job.key] -= 1
            with open(job.log, "a") as log:
                print("Traceback of an environment\nerror: env 3 died\n", file=log)
            return 1
        seed = int(job.words[job.words.index("--seed") + 1])
        folder = Path(job.words[job.words.index("--run-dir") + 1])
        write_run(folder, seed=seed, summary=scores(10.0 * seed, 10.0 * seed + 5))
        return 0


def scores(last: float, best: float) -> dict:
    """Returns what summary.json says of the evaluations."""
    return {
        "exit_reason": "budget spent", "solved": None,
        "eval": {"mean_return": best, "steps_at_eval": 1}, "eval_last": {"mean_return": last},
    }  # fmt: skip


class Lines:
    """Display that records the states of runs."""

    def __init__(self):
        self.lines: list[str] = []

    def changed(self, entry: Entry) -> None:
        self.lines.append(f"{entry.run.name} {entry.state}")

    def show(self, entries: list[Entry], final: bool = False) -> None:
        pass


def make_queue(folder: Path, scheduler: FakeScheduler, seeds=(1, 2)) -> tuple[RunQueue, Lines]:
    """Returns a queue of two variants, and its display."""
    study = Study("cartpole", (), (BASE, THREE), tuple(seeds))
    for variant in study.variants:
        (folder / variant.name).mkdir(exist_ok=True)
    entries = [make_entry(run) for run in study.runs(folder)]
    lines = Lines()
    return RunQueue(entries, scheduler, lines), lines


def make_entry(run: Run) -> Entry:
    words = ("train", "cartpole", "--seed", str(run.seed), "--run-dir", str(run.folder))
    return Entry(run, words, RunProgress(run.folder, 2_000, None))


def start(*words: str, **options) -> subprocess.Popen:
    """Starts `fastdqn train cartpole` with these words in a process."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "fastdqn", "train", "cartpole", *words], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def whole(folder: Path, names: list[str], least: int) -> None:
    """Asserts that a study has these runs, each finished after some steps and readable."""
    assert sorted(each.name for each in folder.iterdir() if each.is_dir()) == sorted(
        {name.partition("/")[0] for name in names}
    )
    for name in names:
        summary = summary_of(folder / name)
        assert summary is not None, name
        assert summary["total_steps"] >= least
        text = (folder / name / "metrics.jsonl").read_text()
        rows = [json.loads(line) for line in text.splitlines()]
        steps = [row["step"] for row in rows if "time/total_timesteps" in row]
        assert steps == sorted(set(steps))
        assert load_checkpoint(folder / name, read_latest(folder / name)).steps >= least
        assert not (folder / name / "lock").exists()
    result = json.loads((folder / "results.json").read_text())
    for each in result["variants"]:
        assert each["seeds"] == [1, 2, 3]
        assert None not in each["last"]
