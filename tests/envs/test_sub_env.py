"""SubEnv: results of user environments get one form."""

import json
import random
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import FrameStackObservation, TimeLimit

import fastdqn
from fastdqn import ConfigError, EnvError
from fastdqn.cli import main as cli
from fastdqn.envs import EnvRecipe, EnvStream, limit_of
from helpers.loop import small
from helpers.sub_env import Plain, run_steps

# -- one object for several sub-environments


@pytest.mark.parametrize("vectorization", ["sync", "workers", "async"])
def test_a_function_that_returns_one_object_twice_is_rejected(tmp_path, vectorization):
    env = Plain()
    with pytest.raises(ConfigError, match=r"the same Plain object twice.*`lambda: MyEnv") as caught:
        fastdqn.train(small(tmp_path, vectorization=vectorization), lambda: env)
    assert len(caught.value.lines) == 1


def test_one_object_for_training_and_evaluation_is_rejected(tmp_path):
    env = Plain()
    config = small(tmp_path, num_envs=1, eval_frequency=100, buffer_size=100)
    with pytest.raises(ConfigError, match="the same Plain object twice"):
        fastdqn.train(config, lambda: env)


def test_a_function_may_return_an_object_again_that_was_closed():
    env = Plain()
    for _ in range(2):
        assert fastdqn.evaluate(lambda obs: np.zeros(len(obs)), lambda: env, episodes=1).cut == 0


def test_given_environments_over_one_object_are_rejected(tmp_path):
    env = Plain()
    envs = SyncVectorEnv([lambda: env] * 3)
    with pytest.raises(ConfigError, match=r"env 0 and env 1 are the same object"):
        fastdqn.train(small(tmp_path, num_envs=3), envs)
    with pytest.raises(ValueError, match="are the same object"):
        fastdqn.evaluate(lambda obs: np.zeros(len(obs)), envs, episodes=3)


def test_a_late_binding_loop_is_rejected(tmp_path):
    made = [Plain() for _ in range(3)]
    envs = SyncVectorEnv([lambda: env for env in made])  # noqa: B023
    with pytest.raises(ConfigError, match=r"env=env: env for env"):
        fastdqn.train(small(tmp_path, num_envs=3), envs)


def test_evaluation_environments_shared_with_training_are_rejected(tmp_path):
    shared = Plain()
    envs, eval_envs = SyncVectorEnv([Plain, lambda: shared]), SyncVectorEnv([lambda: shared])
    with pytest.raises(ConfigError, match="env 1 and env 0 of the evaluation are the same object"):
        fastdqn.train(small(tmp_path, num_envs=2), envs, eval_envs=eval_envs)


def test_environments_that_were_made_are_closed_where_a_later_one_fails():
    made: list[Plain] = []

    class Last(Plain):
        def __init__(self):
            super().__init__()
            if len(made) == 2:
                raise RuntimeError("no more")
            made.append(self)

        def close(self):
            self.closed = True

    with pytest.raises(ValueError, match="RuntimeError: no more"):
        EnvRecipe(Last).make(3)
    assert [env.closed for env in made] == [True, True]


# -- arguments of constructors


@pytest.mark.slow
def test_a_constructor_cannot_change_the_arguments_of_the_next_one(tmp_path):
    class Greedy(Plain):
        def __init__(self, goals, sizes):
            assert goals == [1, 2, {"at": 3}]
            assert sizes == {"width": 4}
            super().__init__()
            goals.pop().clear()
            sizes.pop("width")

    kwargs = {"goals": [1, 2, {"at": 3}], "sizes": {"width": 4}}
    run = fastdqn.train(small(tmp_path, env_kwargs=kwargs, eval_frequency=300), Greedy)
    assert kwargs == {"goals": [1, 2, {"at": 3}], "sizes": {"width": 4}}
    from fastdqn.files.run_folder import read_config

    assert read_config(run.folder).env_kwargs == kwargs


# -- time limits


def longer(env):
    """MountainCar with 1,000 steps in place of the registered 200."""
    return TimeLimit(env.unwrapped, 1_000)


@pytest.mark.slow
@pytest.mark.parametrize("vectorization", ["sync", "workers", "async"])
def test_the_limit_of_the_environment_overrides_the_registered_one(vectorization):
    recipe = EnvRecipe("MountainCar-v0", vectorization, wrappers=("test_sub_env:longer",))
    envs = recipe.make(1)
    assert limit_of(envs, recipe.max_episode_steps()) == 1_000
    envs.close()


@pytest.mark.slow
def test_a_raised_limit_holds_in_evaluations(tmp_path, capsys):
    config = small(
        tmp_path, env_id="MountainCar-v0", wrapper=("test_sub_env:longer",), eval_frequency=400,
        eval_episodes=1, eval_max_steps=None, total_timesteps=800,
    )  # fmt: skip
    run = fastdqn.train(config)
    assert cli.main(["eval", str(run.folder), "--episodes", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert run.summary["eval"]["mean_length"] > 200
    assert (told["mean_length"] > 200, told["cut_episodes"]) == (True, 0)


def test_a_limit_removed_by_a_wrapper_is_no_limit():
    envs = SyncVectorEnv([lambda: gymnasium.make("MountainCar-v0").unwrapped])
    assert limit_of(envs, 200) is None


def test_the_smaller_of_two_limits_applies():
    envs = SyncVectorEnv([lambda: TimeLimit(TimeLimit(Plain(), 7), 1_000)])
    assert limit_of(envs) == 7


# -- global generators


class Global(Plain):
    """Rewards from the global generators of Python, NumPy and torch."""

    def step(self, action):
        obs, _, *ends = super().step(action)
        drawn = random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002
        return obs, sum(drawn), *ends


@pytest.mark.slow
def test_worker_processes_draw_different_numbers_from_the_global_generators():
    def rewards(seed):
        stream = EnvStream(EnvRecipe(Global, "async").make(3, seed=seed))
        return np.array([step.reward for step in run_steps(stream, 2)])

    first = rewards(5)
    assert len(np.unique(first[0])) == 3
    np.testing.assert_array_equal(first, rewards(5))
    assert (first != rewards(6)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [["train", "Global-v0", "--learning-starts", "50"], ["tabular", "Global-v0", "--bins", "9"]],
)
def test_the_command_line_seeds_the_global_generators(tmp_path, asked):
    """Runs of one seed are alike although the environment draws from them; a call is not seeded."""
    gymnasium.register("Global-v0", lambda **_: Global())
    told = []
    try:
        for seed, name in ((1, "a"), (1, "b"), (2, "c")):
            folder = tmp_path / name
            words = f"--total-timesteps 200 --num-envs 4 --seed {seed} --quiet --run-dir {folder}"
            assert cli.main([*asked, *words.split()]) == 0
            told.append((folder / "episodes.csv").read_text())
    finally:
        del gymnasium.registry["Global-v0"]
    assert told[0] == told[1]
    assert told[0] != told[2]


# -- forms of results


class Odd(Plain):
    """Results in every form that people give them."""

    metadata: Any = None

    def step(self, action):
        self.t += 1
        info = {"winner": [1, None, "nobody", 1 << 80][self.t % 4], "path": np.zeros(self.t)}
        return self.observe(), np.array([0.5]), np.int64(self.t == 10), np.array([0]), info


@pytest.mark.parametrize("vectorization", ["sync", "workers", "async"])
def test_rewards_flags_and_infos_of_any_type_are_accepted(vectorization):
    steps = run_steps(EnvStream(EnvRecipe(Odd, vectorization).make(2)), 10)
    assert [step.reward.tolist() for step in steps] == [[0.5, 0.5]] * 10
    assert steps[-1].returns.tolist() == [5.0, 5.0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("result", "says"),
    [
        ((np.array([1.0, 2.0]), False, False, {}), r"reward is array\(\[1\., 2\.\]\) \(ndarray\)"),
        ((None, False, False, {}), r"reward is None \(NoneType\): expected one number"),
        ((1.0, "no", False, {}), r"terminated is 'no' \(str\)"),
        ((1.0, False, False, [{}]), "info is list: expected a dict"),
        ((1.0, False, False, {"action_mask": [1, 0, 1]}), r"\(3,\): expected one entry for each"),
        ((1.0, False, False, {"action_mask": [0, -np.inf]}), "contains -inf.*return mask == 0"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("vectorization", ["sync", "workers", "async"])
def test_an_invalid_result_is_named(vectorization, result, says):
    class Wrong(Plain):
        def reset(self, *, seed=None, options=None):
            return self.observe(), {"action_mask": [1, 1]}

        def step(self, action):
            return self.observe(), *result

    stream = EnvStream(EnvRecipe(Wrong, vectorization).make(2))
    stream.start(0)
    stream.send(np.zeros(2, np.int64))
    with pytest.raises(EnvError, match=rf"^env 0, step 1 .*{says}"):
        stream.recv()
    stream.close()


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: SyncVectorEnv([Plain]), "returned a VectorEnv .*: pass the VectorEnv itself"),
        (lambda: None, "returned NoneType, not a gymnasium.Env"),
        (lambda: Plain, "returned ABCMeta|returned type, not a gymnasium.Env"),
    ],
)
def test_a_function_that_makes_no_environment_is_rejected(tmp_path, made, says):
    with pytest.raises(ConfigError, match=says) as caught:
        fastdqn.train(small(tmp_path), made)
    assert len(caught.value.lines) == 1


@pytest.mark.slow
@pytest.mark.parametrize("vectorization", ["sync", "workers", "async"])
def test_a_number_beyond_float32_is_shown_as_returned(vectorization):
    class Huge(Plain):
        observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)

        def observe(self):
            return np.array([1e300 if self.t == 2 else 0.0])

    stream = EnvStream(EnvRecipe(Huge, vectorization).make(2))
    with pytest.raises(fastdqn.NonFiniteError, match=r"is 1e\+300, which exceeds .* float32"):
        run_steps(stream, 3)
    stream.close()


class Reused(Plain):
    """Returns one array, of all its objects, and writes into it at each step."""

    buffer = np.zeros(1, np.float32)

    def observe(self):
        self.buffer[0] = self.t + 10 * self.own
        return self.buffer


@pytest.mark.slow
@pytest.mark.parametrize("vectorization", ["sync", "workers", "async"])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_an_array_that_is_reused_is_copied_in_time(mode, vectorization):
    made = iter(range(100))
    recipe = EnvRecipe(lambda: Reused(own=next(made) % 2), vectorization)
    stream = EnvStream(recipe.make(2, autoreset_mode=mode))
    assert stream.warnings == []
    stream.start(0)
    terminated = np.zeros(2, np.bool_)
    for t in range(1, 11):
        stream.send(np.zeros(2, np.int64))
        step = stream.recv()
        terminated = step.terminated
        own = step.next_obs[:, 0] - t
        assert set(own.tolist()) <= {0.0, 10.0}
        assert vectorization != "sync" or own.tolist() == [0.0, 10.0]
    assert terminated.all()
    stream.close()


def test_a_stack_of_one_repeated_array_causes_a_warning():
    recipe = EnvRecipe(lambda: FrameStackObservation(Reused(own=0), 3))
    stream = EnvStream(recipe.make(1))
    with pytest.warns(UserWarning, match="the same array at each step.*obs.copy"):
        run_steps(stream, 3)


def test_a_stack_of_copies_causes_no_warning():
    with warnings.catch_warnings(record=True) as warned:
        run_steps(EnvStream(EnvRecipe(lambda: FrameStackObservation(Plain(), 3)).make(1)), 12)
    assert not warned


def test_an_overwritten_last_observation_causes_a_warning():
    made = iter(range(100))
    envs = SyncVectorEnv([lambda: Reused(own=next(made))], autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.warns(UserWarning, match="final_obs.*contains the first observation of the next"):
        run_steps(EnvStream(envs), 12)


def test_equal_last_and_first_observations_cause_a_warning_after_a_few_ends():
    class Dense(Counted):
        mode = AutoresetMode.SAME_STEP

        def ends(self, info):
            return info | {"final_obs": self.obs()}

    with pytest.warns(UserWarning, match="final_obs.*contains the first observation of the next"):
        run_steps(EnvStream(Dense()), 40)


# -- autoreset modes that are not declared, or in other words


class Counted(VectorEnv):
    """Two environments that terminate together after ten steps."""

    num_envs = 2
    single_observation_space = Plain.observation_space
    observation_space = spaces.Box(0.0, 99.0, (2, 1), np.float32)
    single_action_space = spaces.Discrete(2)
    action_space = spaces.MultiDiscrete([2, 2])
    mode: Any = None

    def __init__(self):
        self.metadata = {} if self.mode is None else {"autoreset_mode": self.mode}
        self.t, self.over = 0, False

    def obs(self):
        return np.full((2, 1), self.t, np.float32)

    def reset(self, *, seed=None, options=None):
        self.t, self.over = 0, False
        return self.obs(), {}

    def step(self, actions) -> Any:
        self.t += 1
        over, info = np.full(2, self.t == 10), {}
        if over[0]:
            self.t = 0
            info = self.ends(info)
        return self.obs(), np.ones(2), over, np.zeros(2, np.bool_), info

    def ends(self, info):
        return info


class OldName(Counted):
    def ends(self, info):
        return {"final_observation": np.full((2, 1), 10.0)}


@pytest.mark.filterwarnings("ignore:Counted declares|OldName declares")
@pytest.mark.parametrize(
    ("envs", "says"),
    [
        (Counted, "the call after an episode end returned a reward"),
        (
            OldName,
            r"came with infos\['final_observation'\].*The key that is read is infos\['final_obs'\]",
        ),
    ],
)
def test_a_reset_in_the_same_step_is_detected_without_a_declared_mode(envs, says):
    with pytest.raises(EnvError, match=says):
        run_steps(EnvStream(envs()), 12)


@pytest.mark.slow
def test_an_undeclared_mode_causes_a_recorded_warning(tmp_path):
    class Silent(Counted):
        def step(self, actions):
            if self.over:
                return self.reset()[0], np.zeros(2), *np.zeros((2, 2), np.bool_), {}
            self.t += 1
            self.over = self.t == 10
            return self.obs(), np.ones(2), np.full(2, self.over), np.zeros(2, np.bool_), {}

    with pytest.warns(UserWarning, match="Silent declares no autoreset mode.*NEXT_STEP"):
        run = fastdqn.train(small(tmp_path, num_envs=2), Silent())
    assert [line for line in run.summary["warnings"] if "declares no autoreset mode" in line]


@pytest.mark.parametrize("word", ["same_step", "SameStep", "SAME_STEP", "AutoresetMode.SAME_STEP"])
def test_a_mode_may_be_declared_as_a_string(word):
    envs = Counted()
    envs.metadata = {"autoreset_mode": word}
    assert EnvStream(envs).autoreset_mode is AutoresetMode.SAME_STEP


@pytest.mark.parametrize("word", ["sometimes", True, 3])
def test_an_unknown_mode_is_rejected_in_one_line(word):
    envs = Counted()
    envs.metadata = {"autoreset_mode": word}
    with pytest.raises(ValueError, match=rf"is {word!r}, must be one of .*NEXT_STEP"):
        EnvStream(envs)


@pytest.mark.filterwarnings("ignore:Boxed declares")
def test_rewards_of_given_environments_may_have_an_axis_of_one_and_flags_be_numbers():
    class Boxed(Counted):
        mode = AutoresetMode.DISABLED

        def step(self, actions):
            obs, reward, over, cut, info = super().step(actions)
            return obs, reward[:, None] * 2, over.astype(np.int64), cut.astype(np.float32), info

    steps = run_steps(EnvStream(Boxed()), 9)
    assert [step.reward.tolist() for step in steps] == [[2.0, 2.0]] * 9


def test_a_single_reward_for_all_environments_is_rejected():
    class One(Counted):
        mode = AutoresetMode.NEXT_STEP

        def step(self, actions):
            return self.obs(), np.ones(1), np.zeros(2, np.bool_), np.zeros(2, np.bool_), {}

    with pytest.raises(EnvError, match=r"reward has dtype float64 and shape \(1,\): .*\(2,\)"):
        run_steps(EnvStream(One()), 1)


# -- environments with a wrong unwrapped, and errors without a message


class Outer(gymnasium.Wrapper):
    """Says that it is the innermost environment."""

    @property
    def unwrapped(self):
        return self


def test_one_object_inside_wrappers_is_rejected(tmp_path):
    env = Plain()
    with pytest.raises(ConfigError, match="the same Plain object twice"):
        fastdqn.train(small(tmp_path), lambda: Outer(env))
    with pytest.raises(ConfigError, match="are the same object"):
        fastdqn.train(small(tmp_path, num_envs=2), SyncVectorEnv([lambda: Outer(env)] * 2))


class Speechless(BaseException):
    def __str__(self):
        raise self


@pytest.mark.slow
@pytest.mark.parametrize("vectorization", ["sync", "workers", "async"])
@pytest.mark.parametrize(
    ("obs", "says"),
    [
        ([1.0, [2.0, 3.0]], "cannot be converted to an array: ValueError"),
        (
            torch.zeros(1, requires_grad=True),
            "cannot be converted to an array: RuntimeError",
        ),
        (Speechless(), "Speechless"),
    ],
)
def test_an_observation_that_is_no_array_is_named_by_its_environment(vectorization, obs, says):
    class Odd(Plain):
        def step(self, action):
            if isinstance(obs, Speechless):
                raise obs
            return obs, 0.0, False, False, {}

    stream = EnvStream(EnvRecipe(Odd, vectorization).make(2))
    stream.start(0)
    stream.send(np.zeros(2, np.int64))
    with pytest.raises(EnvError, match=f"^env 0, step 1 .*{says}"):
        stream.recv()
    stream.close()


@pytest.mark.parametrize("flag", [np.nan, 2])
def test_an_invalid_flag_is_rejected(flag):
    class Undecided(Plain):
        def step(self, action):
            return self.observe(), 0.0, flag, False, {}

    stream = EnvStream(EnvRecipe(Undecided).make(1))
    stream.start(0)
    stream.send(np.zeros(1, np.int64))
    with pytest.raises(EnvError, match=f"terminated is {flag}: expected true or false"):
        stream.recv()


@pytest.mark.parametrize("count", ["2", 2.0, True, 0])
def test_an_invalid_number_of_environments_is_rejected(tmp_path, count):
    envs = Counted()
    envs.mode, envs.num_envs = AutoresetMode.NEXT_STEP, count
    with pytest.raises(ConfigError, match="num_envs"):
        fastdqn.train(small(tmp_path), envs)


def test_an_unknown_mode_prevents_a_run(tmp_path):
    envs = Counted()
    envs.metadata = {"autoreset_mode": "sometimes"}
    with pytest.raises(ConfigError, match="the autoreset mode is 'sometimes'"):
        fastdqn.train(small(tmp_path, num_envs=2), envs)
