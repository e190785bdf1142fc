"""Values of info at episode ends, from the environments to the files of a run."""

import csv
import json
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList

import fastdqn
from fastdqn.cli.main import main
from fastdqn.config.info_keys import mean
from fastdqn.config.recorded_numbers import info_key_problems, metric_problem
from fastdqn.envs import EnvStream
from fastdqn.envs.sub_env import SubEnv
from fastdqn.training.evaluation import evaluate
from helpers.loop import small

KEYS = ("is_success", "score", "rare")
HUGE = [10**9_000]  # Python does not print it


class Scored(gymnasium.Env):
    """Episodes of 2, 3, 4, ... steps; every second one is a success, and scores its number."""

    observation_space = spaces.Box(0, 100, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, first=0, bonus=0.0):
        self.number, self._bonus = first, bonus

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number, self._steps = self.number + 1, 0
        return np.zeros(1, np.float32), {"score": -1.0}

    def step(self, action):
        self._steps += 1
        ended = self._steps > self.number
        info: dict[str, Any] = {"score": self.number + 0.5}
        if ended:
            info["is_success"] = np.bool_(self.number % 2 == 0)
        if ended and self.number == 3:
            info["rare"] = 7
        return np.zeros(1, np.float32), 1.0 + self._bonus, ended, False, info


def collect(envs, steps=60, keys=KEYS):
    """Returns (environment, length, values) of each episode, and the warnings."""
    stream = EnvStream(envs, info_keys=keys)
    stream.start(seed=1)
    found = []
    for _ in range(steps):
        stream.send(np.zeros(stream.num_lanes, np.int64))
        step = stream.recv()
        if step.info is not None:
            columns = zip(*(step.info[key].tolist() for key in keys), strict=True)
            found += zip(step.ended_lanes.tolist(), step.lengths.tolist(), columns, strict=True)
    warned = stream.warnings
    stream.close()
    return found, warned


@pytest.mark.parametrize("wrap", [lambda envs: envs, DictInfoToList])
@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("make", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.filterwarnings("ignore:info has no number 'rare'")
def test_each_episode_has_the_values_of_its_last_step(make, mode, wrap):
    envs = make([Scored, lambda: Scored(4)], autoreset_mode=mode)
    found, _ = collect(wrap(envs))
    assert len(found) > 10
    assert {lane for lane, *_ in found} == {0, 1}
    for _, length, (success, score, rare) in found:
        number = length - 1
        assert (success, score) == (number % 2 == 0, number + 0.5)
        assert rare == 7 if number == 3 else np.isnan(rare)


def test_a_key_that_is_missing_is_named_once():
    envs = SyncVectorEnv([Scored, Scored])
    with pytest.warns(UserWarning, match="info has no number 'rare' at the end of an episode"):
        _, warned = collect(envs)
    assert len(warned) == 1


@pytest.mark.parametrize("make", [SyncVectorEnv, AsyncVectorEnv])
def test_text_is_no_number(make):
    class Text(Scored):
        def step(self, action) -> Any:
            *rest, info = super().step(action)
            return *rest, info | {"rare": "7"}

    with pytest.warns(UserWarning, match="info has no number 'rare' at the end of an episode"):
        found, _ = collect(make([Text, Text]))
    assert np.isnan([rare for _, _, (_, _, rare) in found]).all()


@pytest.fixture
def run(tmp_path):
    with pytest.warns(UserWarning, match="no number 'rare'"):
        return fastdqn.train(
            small(tmp_path, info_keys=KEYS, eval_frequency=300, vectorization="sync"), Scored
        )


def test_they_are_in_every_record_of_a_run(run):
    with open(run.folder / "episodes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["episode", "steps", "lane", "return", "length", *KEYS]
    for row in rows:
        number = int(row["length"]) - 1
        assert float(row["score"]) == number + 0.5
        assert float(row["is_success"]) == (number % 2 == 0)
        assert row["rare"] == ("7" if number == 3 else "")
    metrics = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in metrics if "rollout/success_rate" in row][-1]
    recent = rows[-100:]
    mean = np.mean([float(row["is_success"]) for row in recent])
    assert last["rollout/success_rate"] == pytest.approx(mean)
    assert last["rollout/score"] == pytest.approx(np.mean([float(r["score"]) for r in recent]))
    evaluations = [json.loads(x) for x in (run.folder / "eval.jsonl").read_text().splitlines()]
    assert evaluations[0]["mean_score"] == 1.5  # the first episodes of two new environments
    assert evaluations[0]["mean_is_success"] == 0.0
    evaluated = [row for row in metrics if "eval/mean_reward" in row]
    assert evaluated[0]["eval/score"] == 1.5
    assert run.summary["eval"]["mean_score"] > 1.5


@pytest.mark.filterwarnings("ignore:info has no number 'rare'")
def test_they_continue_after_resume(tmp_path):
    options = {"info_keys": KEYS, "vectorization": "sync"}
    part = fastdqn.train(small(tmp_path, total_timesteps=400, **options), Scored)
    before = (part.folder / "episodes.csv").read_text()
    rest = fastdqn.resume(part.folder, Scored, total_timesteps=800)
    after = (rest.folder / "episodes.csv").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()[-1].split(",")) == 8


def test_hooks_log_numbers_and_keep_the_parts_of_the_run(tmp_path):
    kept, rows = {}, []

    def on_step(progress, step):
        progress.log("my/steps", progress.steps)
        kept.update(policy=progress.policy, replay=progress.replay, learner=progress.learner)

    run = fastdqn.train(small(tmp_path, log_frequency=100), Scored, on_step=on_step)
    text = (run.folder / "metrics.jsonl").read_text()
    rows = [row for row in map(json.loads, text.splitlines()) if "my/steps" in row]
    assert rows[0]["my/steps"] == pytest.approx((4 + rows[0]["step"]) / 2, abs=4)
    assert rows[1]["my/steps"] > rows[0]["step"] - 4  # the mean since the last row
    assert kept["policy"](np.zeros((3, 1), np.float32)).shape == (3,)
    assert len(kept["replay"]) > 0
    assert kept["learner"].updates == run.summary["updates"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("", 1, "it must be a text"), ("a\nb", 1, "it must be a text"), (3, 1, "it must be a text"),
     ("x", "much", "must be a finite number"), ("x", np.nan, "must be a finite number"),
     ("x", 10**400, "must be a finite number"), ("x", HUGE, "x is a huge number: it must"),
     *((name, 1, f"name is '{name}', a metric that the run records itself") for name in (
         "step", "losses/td_loss", "rollout/ep_rew_mean", "time/fps", "time/share/learn",
         "eval/mean_reward", "rollout/success_rate", "eval/score"))],
)  # fmt: skip
def test_what_cannot_be_logged_is_refused(name, value, said):
    with pytest.raises(ValueError, match=said):
        fastdqn.training.progress.Progress(info_keys=("is_success", "score")).log(name, value)


def test_every_name_in_the_rows_of_a_run_is_one_that_users_cannot_take(run):
    text = (run.folder / "metrics.jsonl").read_text()
    names = {name for row in map(json.loads, text.splitlines()) for name in row}
    assert len(names) > 20
    assert [name for name in sorted(names) if metric_problem(name, KEYS) is None] == []
    evaluations = (run.folder / "eval.jsonl").read_text().splitlines()
    means = {name for row in map(json.loads, evaluations) for name in row if "mean_" in name}
    free = {f"mean_{key}{of}" for key in KEYS for of in ("", "_episodes")}
    taken = [(name.removeprefix("mean_"),) for name in means - free]
    assert taken
    assert all(info_key_problems(keys) for keys in taken)


def test_the_mean_of_logged_numbers_does_not_overflow():
    progress = fastdqn.training.progress.Progress()
    for value in (1e308, 1e308, -1e308, -1e308):
        progress.log("my/large", value)
    progress.log("my/small", 3.0)
    progress.log("my/small", 5.0)
    assert progress.take_logged() == {"my/large": pytest.approx(0.0, abs=1e293), "my/small": 4.0}
    assert mean([1e308] * 100) == pytest.approx(1e308)
    assert mean([0.1] * 10) == 0.1


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["k", "k_episodes"], "'k_episodes', the name for the number of episodes of 'k'"),
        (["return"], "'return', and the run records its own column return in episodes.csv"),
        (["steps"], "'steps', and the run records its own column steps in episodes.csv"),
        (["length"], "'length', and the run records its own column length in episodes.csv"),
        (["predicted"], "'predicted', and the run records its own mean_predicted of an evaluation"),
        (["ep_rew_mean"], "'ep_rew_mean', and the run records its own metric rollout/ep_rew_mean"),
        (["mean_reward"], "'mean_reward', and the run records its own metric eval/mean_reward"),
        (["score", "score"], "'score' more than once: name it once"),
        (["is_success", "success_rate"], "both recorded as rollout/success_rate: leave one out"),
        (["a,b"], "'a,b': a key must be without commas and quotes"),
        (['"a'], """'"a': a key must be without commas and quotes"""),
        (["a\nb"], "it must be a text of one line, such as is_success"),
        ([""], "info_keys has '': it must be a text of one line"),
    ],
)
def test_keys_that_cannot_be_recorded_under_their_name_are_refused(keys, said, capsys):
    assert main(["train", "CartPole-v1", "--dry-run", "--info-keys", *keys]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


class RaisingFloat:
    def __float__(self):
        raise RuntimeError("no number")


@pytest.mark.parametrize("make", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize(
    ("value", "said"),
    [(10**400, "info has no number 'odd'"), (RaisingFloat(), "info has no number 'odd'"),
     (np.nan, "info has nan as 'odd' .* needs finite numbers"),
     (-np.inf, "info has -inf as 'odd' .* needs finite numbers")],
    ids=("huge", "raises", "nan", "inf"),
)  # fmt: skip
def test_a_value_that_is_no_finite_number_is_missing(make, value, said):
    class Odd(Scored):
        def step(self, action):
            obs, reward, terminated, truncated, info = super().step(action)
            return obs, reward, terminated, truncated, info | {"odd": value}

    keys = ("odd", "score")
    envs = make([lambda: SubEnv(Odd(), info_keys=keys)])
    with pytest.warns(UserWarning, match=said):
        found, warned = collect(envs, 9, keys)
    assert len(warned) == 1
    assert [score for *_, (_, score) in found] == [1.5, 2.5]
    assert all(np.isnan(odd) for *_, (odd, _) in found)


@pytest.mark.slow
@pytest.mark.parametrize(("words", "lines"), [([], 1), (["--quiet"], 0)])
def test_a_warning_of_the_command_line_is_one_line_without_source(tmp_path, words, lines):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "fastdqn", "train", "CartPole-v1", "--info-keys", "odd"]
    command += ["--run-dir", str(folder), "--total-timesteps", "600", "--hidden-sizes", "8"]
    command += ["--eval-frequency", "0", "--learning-starts", "100", "--vectorization", "sync"]
    result = subprocess.run([*command, *words], capture_output=True, text=True, check=True)
    shown = [line for line in result.stderr.splitlines() if "'odd'" in line]
    assert len(shown) == lines
    assert all(line.startswith("warning: info has no number 'odd'") for line in shown)
    assert ".py" not in result.stderr
    assert len(json.loads((folder / "summary.json").read_text())["warnings"]) == 1


def test_snapshots_are_kept_and_used(tmp_path, capsys):
    gymnasium.register("Scored-v0", lambda **kwargs: Scored(**kwargs))
    try:
        config = small(tmp_path, env_id="Scored-v0", snapshot_frequency=200, total_timesteps=700)
        run = fastdqn.train(config)
        files = sorted(path.name for path in (run.folder / "snapshots").iterdir())
        assert len(files) == 3
        weights = str(run.folder / "snapshots" / files[0])
        assert main(["eval", weights, "--episodes", "2", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["mean_return"] == 2.0
        words = ["--episodes", "2", "--json", "--env-kwargs", "bonus=0.5"]
        assert main(["eval", weights, *words]) == 0
        assert json.loads(capsys.readouterr().out)["mean_return"] == 3.0
        again = config.replace(run_dir=str(tmp_path / "again"), init_weights=weights)
        assert fastdqn.train(again).summary["total_steps"] >= 700
        name = fastdqn.resume(run.folder, total_timesteps=1_100).folder / "snapshots"
        assert len(list(name.iterdir())) == 5
    finally:
        del gymnasium.registry["Scored-v0"]


def test_an_evaluation_takes_keys_that_the_run_did_not_record(tmp_path, capsys):
    gymnasium.register("Scored-v0", lambda **kwargs: Scored(**kwargs))
    try:
        folder = str(fastdqn.train(small(tmp_path, env_id="Scored-v0")).folder)
        words = ["eval", folder, "--episodes", "2", "--json"]
        assert main([*words, "--info-keys", "score"]) == 0
        assert json.loads(capsys.readouterr().out)["mean_score"] == 1.5
        assert main([*words, "--info-keys", "score", "score"]) == 2
        assert "'score' more than once: name it once" in capsys.readouterr().err
    finally:
        del gymnasium.registry["Scored-v0"]


@pytest.mark.filterwarnings("ignore:info has no number")
def test_an_evaluation_with_keys_needs_no_compiled_environment(tmp_path, capsys):
    run = fastdqn.train(small(tmp_path, env_id="CartPole-v1", vectorization="compiled"))
    assert main(["eval", str(run.folder), "--episodes", "2", "--info-keys", "score"]) == 0
    assert "score: no episode has 'score' in info at its end" in capsys.readouterr().out


def test_a_reward_shaping_wrapper_can_be_left_out_of_an_evaluation(tmp_path, capsys):
    wrapper = "gymnasium.wrappers:NormalizeReward"
    config = small(tmp_path, env_id="CartPole-v1", wrapper=(wrapper,), vectorization="sync")
    folder = str(fastdqn.train(config).folder)
    returns = []
    for words in ([], ["--no-wrapper"], ["--wrapper", wrapper]):
        assert main(["eval", folder, "--episodes", "2", "--json", *words]) == 0
        result = json.loads(capsys.readouterr().out)
        returns.append((result["mean_return"], result["mean_length"]))
    assert returns[1][0] == returns[1][1]  # one for each step
    assert returns[0] == returns[2]
    assert returns[0][0] != returns[0][1]


@pytest.mark.parametrize("vectorization", ["compiled", "native", "sync"])
def test_an_evaluation_takes_wrappers_and_arguments_that_the_run_did_not_have(
    tmp_path, capsys, vectorization
):
    config = small(tmp_path, env_id="CartPole-v1", vectorization=vectorization)
    folder = str(fastdqn.train(config).folder)
    found = []
    wrapper = "gymnasium.wrappers:NormalizeReward"
    for words in (["--wrapper", wrapper], ["--env-kwargs", "max_episode_steps=5"]):
        assert main(["eval", folder, "--episodes", "2", "--json", *words]) == 0
        result = json.loads(capsys.readouterr().out)
        found.append((result["mean_return"], result["mean_length"]))
    assert found[0][0] != found[0][1]
    assert found[1] == (5.0, 5.0)


class Stepped(gymnasium.Wrapper):
    """Adds the key `taken` to info."""

    def reset(self, **kwargs):
        self._steps = 0
        return super().reset(**kwargs)

    def step(self, action) -> Any:
        self._steps += 1
        *rest, info = super().step(action)
        return *rest, info | {"taken": self._steps}


@pytest.mark.parametrize("more", [[], ["--env-id", "CartPole-v1"]])
def test_an_evaluation_takes_keys_arguments_and_wrappers_at_once(tmp_path, capsys, more):
    config = small(tmp_path, env_id="CartPole-v1", vectorization="compiled")
    words = ["eval", str(fastdqn.train(config).folder), "--episodes", "2", "--json", *more]
    words += ["--env-kwargs", "max_episode_steps=5", "--info-keys", "taken"]
    assert main([*words, "--wrapper", f"{__name__}:Stepped"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["mean_length"], result["mean_taken"]) == (5.0, 5.0)


class Goal(gymnasium.Env):
    """Episodes of number % 4 + 1 steps: the fourth is a success, and others end without the key.

    Args:
        endless: Whether only every fourth episode ends at all.
        first: Number of the first episode.
    """

    observation_space = spaces.Box(0, 100, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, endless=False, first=0):
        self.number, self._endless = first - 1, endless

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number, self._steps = self.number + 1, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self._steps += 1
        at_goal, over = self.number % 4 == 3, self._steps > self.number % 4
        info = {"is_success": True, "score": 8.0} if at_goal and over else {}
        ended = over and (at_goal or not self._endless)
        return np.zeros(1, np.float32), 1.0, ended and at_goal, ended and not at_goal, info


@pytest.mark.filterwarnings("ignore:info has no number")
def test_a_training_episode_without_the_key_is_no_success(tmp_path):
    keys = ("is_success", "score")
    config = small(tmp_path, num_envs=1, info_keys=keys, vectorization="sync", log_frequency=100)
    folder = fastdqn.train(config, Goal, final_evaluation=False).folder
    with open(folder / "episodes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    cells = [row["is_success"] for row in rows]
    assert cells[:8] == ["", "", "", "1", "0", "0", "0", "1"]  # unknown before the first
    assert [row["score"] for row in rows[:8]] == ["", "", "", "8", "", "", "", "8"]
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["rollout/success_rate"] == 0.25
    assert "rollout/success_rate_episodes" not in metrics[-1]
    assert (metrics[-1]["rollout/score"], metrics[-1]["rollout/score_episodes"]) == (8.0, 25)


def test_an_episode_that_is_cut_in_an_evaluation_is_no_success():
    envs = SyncVectorEnv([lambda: Goal(endless=True)] * 4)
    for env, number in zip(envs.envs, (1, 2, 3, 7), strict=True):
        env.unwrapped.number = number - 1  # pyright: ignore[reportAttributeAccessIssue]
    stream = EnvStream(envs, info_keys=("is_success", "score"))
    found = evaluate(lambda obs: np.zeros(len(obs), np.int64), stream, 4, 30, 0)
    assert found.info["is_success"].tolist() == [0.0, 0.0, 1.0, 1.0]
    summary = found.summary()
    assert (summary["cut_episodes"], summary["mean_is_success"]) == (2, 0.5)
    assert "mean_is_success_episodes" not in summary
    assert (summary["mean_score"], summary["mean_score_episodes"]) == (8.0, 2)


@pytest.mark.filterwarnings("ignore:info has no number")
def test_eval_prints_the_keys_of_the_run(tmp_path, capsys):
    gymnasium.register("Goal-v0", lambda **kwargs: Goal(first=3, **kwargs))
    try:
        keys = ("is_success", "score", "rare")
        config = small(tmp_path, env_id="Goal-v0", info_keys=keys, vectorization="sync")
        folder = str(fastdqn.train(config).folder)
        assert main(["eval", folder, "--episodes", "4"]) == 0
        assert capsys.readouterr().out.splitlines()[1:4] == [
            "success rate 1", "score 8",
            "rare: no episode has 'rare' in info at its end",
        ]  # fmt: skip
    finally:
        del gymnasium.registry["Goal-v0"]


@pytest.mark.parametrize(("known", "rate"), [((), None), (("is_success",), 0.0)])
def test_an_evaluation_whose_episodes_are_all_cut_has_no_success_once_the_key_is_known(known, rate):
    stream = EnvStream(SyncVectorEnv([lambda: Goal(endless=True)]), info_keys=("is_success",))
    policy = lambda obs: np.zeros(len(obs), np.int64)  # noqa: E731
    found = evaluate(policy, stream, 2, 30, 0, known_info=known)
    assert found.summary().get("mean_is_success") == rate


@pytest.mark.filterwarnings("ignore:info has no number")
def test_evaluations_know_the_keys_of_training_also_after_resume(tmp_path):
    """Training episodes end at the goal, and every evaluation is cut before."""
    config = small(
        tmp_path, info_keys=("is_success",), vectorization="sync", num_envs=1, eval_frequency=300,
        eval_max_steps=1, eval_episodes=1,
    )  # fmt: skip
    part = fastdqn.train(config, Goal)
    assert part.summary["eval"]["mean_is_success"] == 0.0
    text = (part.folder / "eval.jsonl").read_text()
    rates = [json.loads(line)["mean_is_success"] for line in text.splitlines()]
    assert rates == [0.0] * 4  # at 300 and 600 steps, of the best and of the last weights
    rest = fastdqn.resume(part.folder, Goal, total_timesteps=800)
    with open(rest.folder / "episodes.csv", newline="") as file:
        assert [row["is_success"] for row in csv.DictReader(file)].count("") == 3
