"""Evaluations that are not requested make no environments."""

import json

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

import fastdqn
from fastdqn import ConfigError
from fastdqn.builders.environments import eval_lanes
from fastdqn.cli import main as cli
from fastdqn.cli.commands import finish
from fastdqn.config.last_weights import COLLAPSED, is_worse
from fastdqn.envs import EnvRecipe, EnvStream
from fastdqn.training.evaluation import evaluate
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
    config = small(tmp_path, final_evaluation=None)
    envs, eval_envs = SyncVectorEnv([Plain] * 4), SyncVectorEnv([Plain] * 2)
    assert fastdqn.train(config, envs, eval_envs=eval_envs).summary["eval"]["episodes"] == 2


def test_the_command_line_reports_in_one_line_that_no_more_can_be_made(tmp_path, capsys):
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


class Pays(gymnasium.Env):
    """Ten steps that pay 1 for an action: action 1, and from step `flips` on action 0."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, flips: float = np.inf):
        self._flips, self._total, self._steps = flips, 0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return np.ones(1, np.float32), {}

    def step(self, action):
        pays = 1 if self._total < self._flips else 0
        self._total, self._steps = self._total + 1, self._steps + 1
        return np.ones(1, np.float32), float(action == pays), self._steps == 10, False, {}


def test_last_weights_that_collapsed_are_reported_beside_the_best(tmp_path, capsys):
    config = small(
        tmp_path, num_envs=1, total_timesteps=1_600, eval_frequency=200, learning_rate=1e-2,
        train_frequency=1, final_evaluation=None, buffer_size=200, target_network_frequency=50,
    )  # fmt: skip
    envs, eval_envs = SyncVectorEnv([lambda: Pays(600)]), SyncVectorEnv([Pays] * 2)
    run = fastdqn.train(config, envs, eval_envs=eval_envs)
    best, last = run.summary["eval"], run.summary["eval_last"]
    assert (best["mean_return"], last["mean_return"]) == (10.0, 0.0)
    assert best["steps_at_eval"] < last["steps_at_eval"] == 1_600
    assert run.summary["warnings"] == [COLLAPSED]
    rows = [json.loads(line) for line in (run.folder / "eval.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows[-2:]] == ["final", "last"]
    finish(run, quiet=False)
    said = capsys.readouterr().out
    last = "of the last weights, of step 1,600: mean return 0, standard deviation 0, over 2 greedy"
    assert last in said
    assert "warning: the last weights are worse than the best" in said


def test_the_last_weights_are_not_evaluated_twice(tmp_path, capsys):
    config = small(tmp_path, eval_frequency=0, final_evaluation=True)
    run = fastdqn.train(config, SyncVectorEnv([Pays] * 4), eval_envs=SyncVectorEnv([Pays] * 2))
    assert run.summary["eval_last"] == run.summary["eval"]
    finish(run, quiet=False)
    assert "final evaluation: mean return" in capsys.readouterr().out


def summary(mean, std, episodes):
    return {"mean_return": mean, "std_return": std, "episodes": episodes}


def test_a_difference_within_chance_is_not_called_worse():
    # The standard error of the difference is sqrt(225 / 25 + 225 / 25) = 4.24, thrice that 12.73.
    assert not is_worse(summary(87.4, 15.0, 25), summary(100.0, 15.0, 25))
    assert is_worse(summary(87.2, 15.0, 25), summary(100.0, 15.0, 25))
    assert not is_worse(summary(5.0, 0.0, 3), summary(5.0, 0.0, 3))


def test_a_drop_below_a_tenth_of_the_return_is_not_called_worse():
    assert not is_worse(summary(91.0, 1.0, 25), summary(100.0, 1.0, 25))
    assert is_worse(summary(89.0, 1.0, 25), summary(100.0, 1.0, 25))
    assert not is_worse(summary(-81.0, 1.0, 25), summary(-75.0, 1.0, 25))
    assert is_worse(summary(-83.0, 1.0, 25), summary(-75.0, 1.0, 25))
    assert is_worse(summary(-1.0, 0.1, 25), summary(0.0, 0.1, 25))


@pytest.mark.parametrize(
    ("vectorization", "episodes", "lanes"),
    [("sync", 20, 10), ("sync", 16, 16), ("sync", 3, 3), ("native", 100, 100), ("async", 20, 7)],
)
def test_the_rounds_of_an_evaluation_are_of_one_size(vectorization, episodes, lanes):
    assert eval_lanes(EnvRecipe("CartPole-v1", vectorization), episodes, 9) == lanes


def test_an_evaluation_does_not_depend_on_the_number_of_environments():
    def play(lanes):
        stream = EnvStream(EnvRecipe("CartPole-v1", "sync").make(lanes))
        found = evaluate(lambda obs: (obs[:, 2] > 0).astype(np.int64), stream, 20, 500, 3)
        return found.returns.tolist()

    assert play(20) == play(10) == play(3)
