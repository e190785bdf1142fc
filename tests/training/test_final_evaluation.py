"""Evaluations that are not requested make no environments."""

import json

import pytest

import fastdqn
from fastdqn import ConfigError
from fastdqn.cli import main as cli
from helpers.loop import small
from helpers.sub_env import Plain


class Licensed(Plain):
    """A simulator of which one may run at a time."""

    running = 0

    def __init__(self):
        super().__init__()
        if Licensed.running:
            raise RuntimeError("one licence, in use")
        Licensed.running += 1

    def close(self):
        Licensed.running -= 1


@pytest.mark.slow
@pytest.mark.parametrize("off", [{"final_evaluation": None}, {"final_evaluation": False}])
def test_without_evaluations_one_set_of_environments_is_made(tmp_path, off):
    config = small(tmp_path, num_envs=1, eval_frequency=0, **off)
    run = fastdqn.train(config, Licensed)
    assert run.summary["eval"] is None
    assert json.loads((run.folder / "config.json").read_text())["final_evaluation"] is False
    assert (run.folder / "policy.safetensors").exists()
    assert Licensed.running == 0


def test_evaluation_environments_that_cannot_be_made_are_one_line(tmp_path):
    config = small(tmp_path, num_envs=1, eval_frequency=300)
    with pytest.raises(ConfigError, match="one licence, in use") as caught:
        fastdqn.train(config, Licensed)
    assert len(caught.value.lines) == 1
    assert not (tmp_path / "run").exists()
    assert Licensed.running == 0


@pytest.mark.slow
def test_a_final_evaluation_may_stand_alone_or_be_left_out(tmp_path):
    alone = fastdqn.train(small(tmp_path / "alone", eval_frequency=0, final_evaluation=True), Plain)
    assert alone.summary["eval"]["episodes"] == 2
    out = small(tmp_path / "out", eval_frequency=300, final_evaluation=False)
    run = fastdqn.train(out, Plain)
    assert run.summary["eval"] is None
    assert (run.folder / "best.safetensors").exists()


def test_given_evaluation_environments_are_used(tmp_path):
    from gymnasium.vector import SyncVectorEnv

    config = small(tmp_path, final_evaluation=None)
    envs, eval_envs = SyncVectorEnv([Plain] * 4), SyncVectorEnv([Plain] * 2)
    assert fastdqn.train(config, envs, eval_envs=eval_envs).summary["eval"]["episodes"] == 2


def test_the_command_line_reports_in_one_line_that_no_more_can_be_made(tmp_path, capsys):
    import gymnasium

    gymnasium.register("Licensed-v0", lambda **_: Licensed())
    try:
        code = cli.main(["train", "Licensed-v0", "--run-dir", str(tmp_path / "run"), "--quiet"])
    finally:
        del gymnasium.registry["Licensed-v0"]
    assert code == 2
    assert capsys.readouterr().err == (
        "error: Licensed-v0 cannot be made: RuntimeError: one licence, in use\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", ["bench env", "bench train", "eval RUN --env-id", "tabular"])
def test_every_command_reports_in_one_line_that_not_all_can_be_made(tmp_path, capsys, command):
    import gymnasium

    run = fastdqn.train(small(tmp_path), Plain)
    capsys.readouterr()
    gymnasium.register("Licensed-v0", lambda **_: Licensed())
    words = [str(run.folder) if word == "RUN" else word for word in command.split()]
    try:
        code = cli.main([*words, "Licensed-v0"])
    finally:
        del gymnasium.registry["Licensed-v0"]
    said = capsys.readouterr().err.splitlines()
    said = [line for line in said if not line.startswith("measuring ")]  # progress of bench
    assert (code, said) == (
        2, ["error: Licensed-v0 cannot be made: RuntimeError: one licence, in use"]
    )  # fmt: skip
    assert Licensed.running == 0
