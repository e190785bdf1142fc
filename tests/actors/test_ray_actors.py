"""Runs whose environments step in actors of a Ray cluster on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdqn import ConfigError, resume
from fastdqn.envs import EnvError
from fastdqn.session import run_session
from fastdqn.training.loop import Hooks
from helpers.oracles import read_rows, valid_rows
from helpers.remote import Counting, built, cluster, kill_one, produced, small

ray = pytest.importorskip("ray", reason="Ray is not installed")

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# 3 in the suite, which takes a second for each. 20 and more by hand.
KILLS = int(os.environ.get("FASTDQN_KILLS", "3"))


@pytest.fixture(scope="module")
def head():
    with cluster(8) as found:
        ray.init(found.address, log_to_driver=False)
        yield found.address
        ray.shutdown()


def trained(config, **more) -> tuple[Any, dict[str, Any]]:
    """Returns the run of a session that has ended, and its summary."""
    session = built(config, **more)
    return session.run, run_session(session).summary


def rows_of(replay) -> dict[int, list[tuple]]:
    """Returns obs, reward, discount and next_obs of all valid rows, in order, by environment."""
    index = valid_rows(replay)
    batch, found = read_rows(replay, index), {}
    order = np.argsort(index // replay.ring.num_lanes, kind="stable")
    for i in order:
        row = (
            tuple(batch.obs[i].tolist()), float(batch.reward[i]), float(batch.discount[i]),
            tuple(batch.next_obs[i].tolist()),
        )  # fmt: skip
        found.setdefault(int(index[i] % replay.ring.num_lanes), []).append(row)
    return found


@pytest.mark.parametrize("n_steps", [1, 3])
def test_actors_store_the_windows_of_a_run_without_actors(head, tmp_path, n_steps):
    options: dict[str, Any] = {"n_steps": n_steps, "buffer_size": 40_000}
    local, _ = trained(small(tmp_path / "a", total_timesteps=8_000, **options))
    remote, summary = trained(small(tmp_path / "b", actors=2, ray_address=head, **options))
    ours, theirs = rows_of(local.replay), rows_of(remote.replay)
    assert ours.keys() == theirs.keys() == {0, 1, 2, 3}
    for lane, rows in theirs.items():
        assert len(rows) > 100
        assert rows == ours[lane][: len(rows)]
    assert summary["exit_reason"] == "budget spent"
    assert summary["actors"]["transitions_stored"] == summary["total_steps"]
    assert summary["phase_seconds"]["actors"] > 0


@pytest.mark.parametrize(("seconds", "batch"), [(0.002, 16), (0.0, 512)])
def test_the_number_of_updates_is_exact_whichever_side_is_slower(head, tmp_path, seconds, batch):
    config = small(
        tmp_path, actors=2, total_timesteps=600, batch_size=batch, train_frequency=3,
        env_kwargs={"seconds": seconds}, learning_starts=520, ray_address=head, learner="torch",
    )  # fmt: skip
    run, summary = trained(config)
    assert run.progress.updates == 600 // 3 - 520 // 3
    assert summary["actors"]["waiting_share"] < 1.0
    assert summary["actors"]["transitions_produced"] >= summary["total_steps"]


def test_actors_receive_the_weights_that_the_learner_has(head, tmp_path):
    config = small(tmp_path, actors=1, actor_blocks=1, actor_block_steps=1, ray_address=head)
    session = built(config)
    stream, sent = session.run.stream, list[Any]()
    request = stream._request

    def noting():
        found = request()
        sent.append((ray.get(found.weights), session.run.learner.online.weights.numpy().copy()))
        return found

    stream._request = noting
    run_session(session)
    assert len(sent) > 100
    assert all(np.array_equal(one[: len(other)], other) for one, other in sent)
    assert not np.array_equal(sent[0][0], sent[-1][0])


def test_each_actor_explores_with_its_share_of_the_ladder(head, tmp_path):
    config = small(tmp_path, actors=2, exploration="ladder", total_timesteps=200, ray_address=head)
    session = built(config)
    pool, asked = session.run.stream.pool, {}
    share = pool._share

    def noting(member, epsilon):
        asked[member.actor] = share(member, epsilon)
        return asked[member.actor]

    pool._share = noting
    ladder = session.run.epsilon(0, 0)
    assert isinstance(ladder, np.ndarray)
    run_session(session)
    assert asked[0].tolist() == ladder[:2].tolist()
    assert asked[1].tolist() == ladder[2:].tolist()


def test_killed_actors_lose_only_what_was_in_flight(head, tmp_path):
    folder, killed, rng = tmp_path / "made", set(), np.random.default_rng(0)
    folder.mkdir()
    every = 1_500
    config = small(
        tmp_path, actors=2, total_timesteps=every * (KILLS + 2), env_kwargs={"folder": str(folder)},
        actor_restarts=KILLS, ray_address=head, actor_block_steps=16, buffer_size=400_000,
    )  # fmt: skip
    marks = list(range(every, every * (KILLS + 1), every))

    def on_step(progress, step):
        if marks and progress.steps >= marks[0] and kill_one(folder, rng, killed):
            marks.pop(0)

    run, summary = trained(config, hooks=Hooks(on_step))
    assert summary["exit_reason"] == "budget spent"
    assert summary["restarted_envs"] == len(killed) == KILLS
    assert sum("started anew" in line for line in summary["warnings"]) == KILLS
    stored, made = summary["total_steps"], sum(produced(folder).values())
    # Each process has at most two blocks in flight, of 16 steps of 2 environments.
    assert 0 <= made - stored <= (KILLS + 2) * 3 * 32
    assert run.stream.pool.dropped == 0
    assert_whole(run.replay, stored)
    print(f"{KILLS} kills: {made} transitions made, {stored} stored, {made - stored} in flight")


def assert_whole(replay, stored: int) -> None:
    """Every transition leads to the next one of its episode, and none is there twice."""
    seen = set()
    for rows in rows_of(replay).values():
        for obs, reward, _, next_obs in rows:
            assert next_obs == (obs[0], obs[1], obs[2] + 1)
            assert reward == 100 * obs[1] + next_obs[2]
        seen |= {obs for obs, *_ in rows}
        assert len({obs for obs, *_ in rows}) == len(rows)
    assert stored - 4 * 2 <= len(seen) <= stored


def test_more_lost_actors_than_restarts_end_the_run_with_one_line(head, tmp_path):
    folder, killed, rng = tmp_path / "made", set(), np.random.default_rng(0)
    folder.mkdir()
    config = small(
        tmp_path, actors=2, total_timesteps=100_000, env_kwargs={"folder": str(folder)},
        actor_restarts=0, ray_address=head, checkpoint_frequency=1_000,
    )  # fmt: skip

    def on_step(progress, step):
        if progress.steps > 2_000 and not killed:
            kill_one(folder, rng, killed)

    with pytest.raises(EnvError, match=r"actor \d is gone"):
        trained(config, hooks=Hooks(on_step))
    resumed = resume(tmp_path / "run", total_timesteps=3_000, actor_restarts=1)
    assert resumed.summary["total_steps"] >= 3_000


def test_an_error_of_an_environment_ends_the_run_with_its_line(head, tmp_path):
    config = small(tmp_path, actors=2, env_id="helpers.remote:Failing-v0", ray_address=head)
    with pytest.raises(EnvError, match=r"actor \d: env \d, step 3 .*the wheel is off") as raised:
        trained(config)
    assert "ValueError: the wheel is off" in raised.value.trace


def test_a_run_is_resumed_with_environments_that_are_reset(head, tmp_path):
    config = small(tmp_path, actors=2, checkpoint_frequency=500, ray_address=head)
    session = built(config)
    session.run.hooks = Hooks(lambda progress, _: progress.steps < 1_000)
    run_session(session)
    resumed = resume(tmp_path / "run", total_timesteps=2_000)
    assert resumed.summary["total_steps"] >= 2_000
    assert resumed.summary["updates"] == 2_000 // 4 - 50 // 4


def test_actors_send_initial_priorities(head, tmp_path):
    config = small(
        tmp_path, actors=2, prioritized=True, actor_priorities=True, n_steps=3, ray_address=head,
        total_timesteps=300, learning_starts=290, learner="torch", train_frequency=8,
    )  # fmt: skip
    session = built(config)
    run_session(session)
    replay: Any = session.run.replay
    index = valid_rows(replay)
    leaves = replay.sampler.tree.leaves
    slots = index % replay.ring.num_lanes * replay.ring.rows + index // replay.ring.num_lanes
    found = leaves[slots]
    assert len(np.unique(found)) > len(found) // 2  # new rows have one common priority otherwise


def test_a_lambda_can_make_the_environments_of_actors(head, tmp_path):
    config = small(tmp_path, actors=2, total_timesteps=200, ray_address=head)
    run, _ = trained(config, envs=lambda: Counting())
    assert run.progress.steps >= 200


def test_too_few_cpus_and_a_missing_cluster_are_one_line_each(head, tmp_path):
    with pytest.raises(ConfigError, match="actors is 40, and the cluster has 8 CPUs"):
        built(small(tmp_path, actors=40, num_envs=40, ray_address=head))


PROGRAM = """
import sys
from pathlib import Path
from fastdqn.api import train
from helpers.remote import small
folder = Path(sys.argv[1])
options = dict(actors=2, total_timesteps=10_000_000, env_kwargs={"folder": str(folder / "made")})
train(small(folder, checkpoint_frequency=1_000, **options))
"""


def wait_for(holds, seconds: float = 120.0):
    """Returns what holds() returns as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


def start_program(tmp_path) -> subprocess.Popen:
    (tmp_path / "made").mkdir()
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


def alive(folder: Path) -> list[int]:
    return [pid for pid in produced(folder) if Path(f"/proc/{pid}").exists()]


def test_actors_end_within_seconds_when_the_learner_is_killed(tmp_path):
    learner = start_program(tmp_path)
    wait_for(lambda: sum(produced(tmp_path / "made").values()) > 5_000)
    learner.send_signal(signal.SIGKILL)
    learner.communicate()
    wait_for(lambda: not alive(tmp_path / "made"), 30.0)
    assert alive(tmp_path / "made") == []
    assert learner.returncode == -signal.SIGKILL


def ray_process(parent: int, name: str) -> int:
    """Returns the process of Ray with this name whose parent is a process."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ppid = folder.joinpath("stat").read_text().rpartition(")")[2].split()[1]
            program = folder.joinpath("cmdline").read_bytes().split(b"\0")[0].decode()
        except OSError:  # it has just ended
            continue
        if ppid == str(parent) and Path(program).name == name:
            return int(folder.name)
    raise AssertionError(f"no {name}")


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_cluster_that_goes_ends_the_run_with_one_line_and_a_checkpoint(tmp_path, name):
    learner = start_program(tmp_path)
    wait_for(lambda: sum(produced(tmp_path / "made").values()) > 5_000)
    os.kill(ray_process(learner.pid, name), signal.SIGKILL)
    _, errors = learner.communicate(timeout=120)
    assert learner.returncode == 1
    saved = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    newest = int(saved[-1].name.removeprefix("step-"))
    # Without its raylet, Ray may end the process before the run can say anything.
    if name == "gcs_server" or "is gone: start it again, and resume the run" in errors:
        assert "is gone: start it again, and resume the run" in errors
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert newest == summary["total_steps"]
    assert newest >= 1_000
    wait_for(lambda: not alive(tmp_path / "made"), 60.0)


def test_a_machine_that_goes_is_replaced_by_another(tmp_path):
    with cluster(1) as machines:
        ray.shutdown()
        second = machines.add_node(num_cpus=1)
        ray.init(machines.address, log_to_driver=False)
        try:
            config = small(tmp_path, actors=2, total_timesteps=40_000, ray_address=machines.address)
            gone: list[Any] = []

            def on_step(progress, step):
                if progress.steps > 5_000 and not gone:
                    gone.append(second)
                    machines.remove_node(second)
                    machines.add_node(num_cpus=1)

            _, summary = trained(config, hooks=Hooks(on_step))
            assert gone
            assert summary["restarted_envs"] == 1
            assert summary["exit_reason"] == "budget spent"
        finally:
            ray.shutdown()
