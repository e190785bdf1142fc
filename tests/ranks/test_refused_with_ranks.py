"""What several ranks cannot do, in one line each."""

import gymnasium
import pytest

from fastdqn import Config, ConfigError
from fastdqn.builders.changed_options import unchangeable
from fastdqn.builders.parts import NO_PARTS
from fastdqn.builders.preflight import resume_problems
from fastdqn.builders.user_object_checks import prepared
from fastdqn.cli.commands import describe
from fastdqn.session import Trained
from helpers.command_line import SUMMARY, refused

ONE = "ranks is 2, and "
CASES = {
    "num_envs": (
        {"num_envs": 15}, "num_envs is 15, which 2 ranks cannot divide: use a "
        "multiple of 2",
    ),
    "batch_size": ({"batch_size": 33}, "batch_size is 33, which 2 ranks cannot divide"),
    "buffer_size": ({"buffer_size": 999}, "buffer_size is 999, which 2 ranks cannot divide"),
    "workers": (
        {"vectorization": "workers", "workers": 3}, "workers is 3, which 2 ranks cannot divide"
    ),
    "env_batch_size": (
        {"vectorization": "async", "env_batch_size": 5}, "env_batch_size is 5, which 2 ranks"
    ),
    "offline": (
        {"offline": True, "prefill": ("a.npz",)}, f"{ONE}offline, prefill and the replay of"
    ),
    "prefill": ({"prefill": ("a.npz",)}, f"{ONE}offline, prefill and the replay of from_run"),
    "from_run": ({"from_run": "runs/a"}, f"{ONE}offline, prefill and the replay of from_run"),
    "replay": ({"replay": False}, f"{ONE}without replay the transitions of an update have one"),
    "normalize_observation": (
        {"normalize_observation": True, "normalize_reward": True},
        f"{ONE}normalize_observation and normalize_reward would keep statistics of one rank only",
    ),
    "on_disk_error": (
        {"on_disk_error": "continue"}, f"{ONE}on_disk_error continue could leave a checkpoint that"
    ),
    "capture": (
        {"capture": "graph"}, f"{ONE}capture graph is not tested with the exchange of gradients"
    ),
    "device": ({"device": "cuda:1"}, f"{ONE}device cuda:1 is that of one rank"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_options_that_ranks_cannot_have(name):
    changes, line = CASES[name]
    (found,) = Config(ranks=2).replace(**changes).problems()
    assert found.startswith(line)
    assert not [each for each in Config().replace(**changes).problems() if "rank" in each]


def test_the_weights_of_another_run_are_no_replay():
    config = Config(ranks=2, from_run="runs/a", from_parts=("weights", "optimizer"))
    assert config.problems() == []


def test_the_number_of_ranks_is_that_of_the_processes():
    assert refused("train cartpole --ranks 2") == [
        "ranks is 2, and 1 process was started: use torchrun --nproc-per-node 2 -m fastdqn"
    ]


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("train cartpole --seeds 1-2", "fastdqn train --seeds"),
        ("tabular FrozenLake-v1", "fastdqn tabular"),
        ("bench env", "fastdqn bench"),
        ("sweep cartpole", "fastdqn sweep"),
        ("eval runs/a", "fastdqn eval"),
    ],
)
def test_commands_of_one_process(command, what, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert refused(command) == [
        f"2 processes were started, and {what} is one: start it without torchrun"
    ]


def test_a_vector_environment_from_python_cannot_be_divided(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    envs = gymnasium.make_vec("CartPole-v1", 4)
    with pytest.raises(ConfigError, match="envs is a VectorEnv, which 2 ranks cannot divide"):
        prepared(Config(), envs, None, {}, NO_PARTS)
    envs.close()


def test_a_run_of_ranks_is_resumed_by_as_many():
    config = Config(ranks=2, vectorization="sync")
    (line,) = resume_problems(config, None, None, 0, False)
    assert line.startswith("ranks is 2, and 1 process was started: use torchrun --nproc-per-node 2")


def test_the_number_of_environments_stays_when_ranks_resume():
    assert unchangeable(Config(ranks=2), ["num_envs"]) == [
        "num_envs cannot change when a run of several ranks is resumed: start a new run"
    ]
    assert unchangeable(Config(ranks=2), ["learning_rate"]) == []


def test_commands_to_resume_start_as_many_processes(tmp_path, monkeypatch):
    trained = Trained(tmp_path / "run", SUMMARY | {"exit_reason": "interrupted"})
    assert f"\n  fastdqn resume {tmp_path / 'run'}\n" in describe(trained)
    monkeypatch.setenv("WORLD_SIZE", "4")
    text = describe(trained)
    assert f"\n  torchrun --nproc-per-node 4 -m fastdqn resume {tmp_path / 'run'}\n" in text
    assert f"\n  fastdqn eval {tmp_path / 'run'}\n" in text
