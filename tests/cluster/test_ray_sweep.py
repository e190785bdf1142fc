"""fastdqn sweep with --ray: the same trials, several at a time, and processes that are killed."""

import pytest

from fastdqn.cli.main import main
from helpers.sweeps import run

pytest.importorskip("optuna", reason="needs the extra sweep")
pytest.importorskip("ray", reason="needs the extra ray")

from fastdqn.cli import ray_sweep
from fastdqn.cluster.task_pool import Lost
from helpers.clusters import kill, task_processes

TINY = (
    "--search", "learning_rate", "gamma", "--total-timesteps", "600", "--num-envs", "4",
    "--learning-starts", "100", "--buffer-size", "1000", "--eval-frequency", "300",
    "--eval-episodes", "2", "--stop-at-return", "None", "--tensorboard", "False",
)  # fmt: skip


class FakePool:
    """Runs calls in this process, one at each wait(), the newest first.

    lost: numbers of the calls whose process is lost, the first is 1.
    """

    lost: tuple[int, ...] = ()

    def __init__(self, resources, jobs):
        self.jobs = jobs or 3
        self.calls, self.most, self.count, self.closed = [], 0, 0, False

    @property
    def free(self) -> int:
        return self.jobs - len(self.calls)

    def start(self, key, function, *args) -> None:
        assert self.free > 0
        self.calls.append((key, function, args))
        self.most = max(self.most, len(self.calls))

    def wait(self):
        key, function, args = self.calls.pop()
        self.count += 1
        return key, Lost("the node is gone") if self.count in self.lost else function(*args)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def pools(monkeypatch, tmp_path):
    """The pools of the sweeps, which connect to no cluster."""
    from contextlib import nullcontext

    made = []

    def make(resources, jobs):
        made.append(FakePool(resources, jobs))
        return made[-1]

    monkeypatch.setattr(ray_sweep, "TaskPool", make)
    monkeypatch.setattr("fastdqn.cli.sweep.connected_to", lambda address: nullcontext())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def lines(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_one_job_tries_the_settings_of_a_local_sweep(pools, trained, tmp_path, capsys):
    words = ("--trials", "8", "--search", "learning_rate", "gamma")
    assert run(tmp_path, *words) == 0
    (local, settings), trained[:] = (lines(capsys), [each.gamma for each in trained]), []
    (tmp_path / "s.journal").unlink()
    assert run(tmp_path, *words, "--ray", "local", "--jobs", "1") == 0
    assert lines(capsys) == local
    assert [each.gamma for each in trained] == settings
    assert any("(cut)" in line for line in local)
    assert (pools[0].most, pools[0].closed) == (1, True)


@pytest.mark.parametrize("jobs", [2, 3, 9])
def test_several_trials_at_a_time_are_as_many_as_were_asked_for(
    pools, trained, tmp_path, capsys, jobs
):
    assert run(tmp_path, "--trials", "5", "--ray", "local", "--jobs", str(jobs)) == 0
    found = lines(capsys)
    assert [line[:9] for line in found[:5]] == [f"{n:3} of 5 " for n in range(1, 6)]
    assert len({each.learning_rate for each in trained}) == 5
    assert pools[0].most == min(jobs, 5)
    assert "--ray" not in found[-2]
    assert "--jobs" not in found[-2]


def test_the_same_command_continues(pools, trained, tmp_path):
    assert run(tmp_path, "--trials", "2", "--seeds", "1", "--ray", "local") == 0
    assert run(tmp_path, "--trials", "3", "--seeds", "1") == 0
    assert run(tmp_path, "--trials", "4", "--seeds", "1", "--ray", "local") == 0
    assert len(trained) == 4


def test_a_run_whose_process_is_lost_is_repeated_once(
    pools, trained, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(FakePool, "lost", (1, 3, 5, 6))
    assert run(tmp_path, "--trials", "2", "--ray", "local", "--jobs", "1") == 0
    first, second, *_ = lines(capsys)
    assert "mean return " in first
    assert "lost" not in first  # each of its runs once
    assert "no result (its process was lost twice: the node is gone)  --learning-rate" in second
    assert [each.seed for each in trained] == [1_001, 1_002]


def test_an_interrupt_ends_the_calls(pools, trained, tmp_path, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(FakePool, "wait", interrupted)
    assert run(tmp_path, "--trials", "2", "--ray", "local") == 130
    assert pools[0].closed


def test_runs_leave_nothing_in_the_cache_folder_of_a_node(pools, trained, tmp_path):
    assert run(tmp_path, "--trials", "2", "--ray", "local") == 0
    assert [each.name for each in (tmp_path / "cache" / "fastdqn").iterdir()] == ["sweep"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--jobs 2", "--jobs needs a cluster: add --ray local, auto or HOST:PORT. Else start the "
         "same command several times: the processes share the trials"),
        ("--ray local --jobs 0", "jobs is 0: it must be at least 1"),
        ("--ray-gpus 1", "--ray-gpus needs a cluster: add --ray local, auto or HOST:PORT"),
        ("--ray local --ray-cpus 0", "ray_cpus is 0: it must be a number from 1 to 4,096"),
        ("--ray 127.0.0.1:1", "no Ray cluster at 127.0.0.1:1: nothing answers there. Start one "
         "with `ray start --head`, or use local"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(in_an_empty_folder, capsys, tmp_path, words, says):
    assert main(["sweep", "cartpole", *words.split()]) == 2
    assert capsys.readouterr().err.splitlines() == [f"error: {says}"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.ray
def test_a_sweep_on_a_cluster_has_the_trials_of_a_local_one(cluster, tmp_path, capsys):
    words = ("--trials", "3", *TINY)
    assert run(tmp_path, *words) == 0
    local = lines(capsys)
    (tmp_path / "s.journal").unlink()
    assert run(tmp_path, *words, "--ray", cluster.address, "--jobs", "1") == 0
    assert lines(capsys) == local


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_process_of_a_sweep_is_replaced(cluster, caches, tmp_path, capsys, monkeypatch):
    pool, killed = ray_sweep.TaskPool, []

    class Killing(pool):
        def wait(self):
            while not killed:
                for pid in task_processes("_call"):
                    kill(pid)
                    killed.append(pid)
            return super().wait()

    monkeypatch.setattr(ray_sweep, "TaskPool", Killing)
    assert run(tmp_path, "--trials", "2", "--seeds", "1", *TINY, "--ray", cluster.address) == 0
    found = lines(capsys)
    assert [line[:9] for line in found[:2]] == ["  1 of 2 ", "  2 of 2 "]
    assert not [line for line in found if "lost" in line]
    assert killed
    assert not list(caches.glob("*/fastdqn/.sweep.runs.*"))
