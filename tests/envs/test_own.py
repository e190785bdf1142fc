"""User code: factories, wrappers, arguments and hooks; normalization and the epsilon ladder."""

import json

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import fastdqn
from fastdqn.builders import build
from fastdqn.config.schema import ConfigError
from fastdqn.envs import EnvStream, ReturnStatistics, Step
from fastdqn.logging.console import Silent
from fastdqn.schedules import LadderEpsilon
from helpers.far_env import Far
from helpers.loop import small
from helpers.setups import setup_of


class Shifted(gymnasium.ObservationWrapper):
    def observation(self, observation):
        return observation + 7.0


# -- environments


@pytest.mark.slow
@pytest.mark.parametrize("vectorization", ["auto", "sync", "workers", "async"])
def test_a_factory_makes_training_and_evaluation_environments(tmp_path, vectorization):
    config = small(tmp_path, vectorization=vectorization, env_kwargs={"offset": 10.0})
    run = fastdqn.train(config, Far, num_envs=2)
    assert run.summary["env_id"] == "Far"
    assert run.summary["eval"]["episodes"] == 2
    written = json.loads((run.folder / "config.json").read_text())
    assert written["vectorization"] == vectorization.replace("auto", "sync")


def test_arguments_and_wrappers_reach_every_environment(tmp_path):
    config = small(tmp_path, env_kwargs={"offset": 0.0}, wrapper=("test_own:Shifted",) * 2)
    seen = []
    fastdqn.train(config, Far, on_step=lambda _, step: seen.extend(step.next_obs[:, 1]))
    assert np.mean(seen) == pytest.approx(14 - 3, abs=0.1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"wrapper": ("no_such_module_here:W",)}, "cannot import 'no_such_module_here'"),
        ({"wrapper": ("FlatenObservation",)}, "did you mean FlattenObservation"),
        ({"wrapper": ("test_own:pytest",)}, "is a module, not a class or function"),
        ({"wrapper": ("TimeLimit",)}, "cannot be made: TypeError"),
        ({"wrapper": ("JaxToNumpy",)}, "wrapper 'JaxToNumpy': "),
        ({"env_kwargs": {"size": 3}}, "cannot be made: TypeError"),
        ({"env_kwargs": {"a": object()}}, "env_kwargs is"),
        ({"env_kwargs": {"a": 10**5000}}, "env_kwargs is"),
        ({"env_kwargs": {"a": [np.inf]}}, "env_kwargs is"),
        ({"wrapper": "FrameStackObservation"}, "wrapper FrameStackObservation: .*a function of"),
        ({"exploration": "ladder", "num_envs": 1}, "num_envs is 1"),
        ({"vectorization": "native"}, "no vector environment"),
        ({"exploration": "ladder", "exploration_decay": 0.9}, "leave one of them out"),
        ({"vectorization": "async", "env_batch_size": 5}, "num_envs only 4"),
    ],
)
def test_an_environment_that_cannot_be_made_is_one_line(tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says) as caught:
        fastdqn.train(small(tmp_path, **changes), Far)
    assert len(caught.value.lines) == 1


def test_an_object_that_is_not_an_environment_is_rejected(tmp_path):
    with pytest.raises(ConfigError, match="a function that makes one environment"):
        fastdqn.train(small(tmp_path), Far())  # pyright: ignore[reportArgumentType]


def test_given_environments_reject_constructor_arguments(tmp_path):
    with pytest.raises(ConfigError, match="pass a function that makes one"):
        fastdqn.train(small(tmp_path, wrapper=("TimeLimit",)), SyncVectorEnv([Far] * 4))


@pytest.mark.slow
def test_a_run_is_evaluated_as_it_was_trained(tmp_path, capsys):
    gymnasium.register("Far-v0", lambda **given: Far(**given), max_episode_steps=50)
    try:
        config = small(
            tmp_path, env_id="Far-v0", env_kwargs={"offset": 1.0}, wrapper=("TimeAwareObservation",)
        )
        run = fastdqn.train(config.replace(total_timesteps=300))
        assert fastdqn.load_policy(run.folder)(np.zeros((1, 3), np.float32)).shape == (1,)
        from fastdqn.cli import main as cli

        assert cli.main(["eval", str(run.folder), "--episodes", "2", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["mean_length"] == 10
    finally:
        del gymnasium.registry["Far-v0"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (((lambda: Far()),), "the first argument is a Config"),
        ((Far(),), "the first argument is a Config"),
        ((fastdqn.Config(), 3), "envs is of type int"),
    ],
)
def test_swapped_arguments_are_detected(given, says):
    with pytest.raises(ConfigError, match=says):
        fastdqn.train(*given)


@pytest.mark.parametrize(
    ("torso", "says"),
    [
        (torch.nn.Linear, "pass an instance"),
        (torch.nn.Linear(9, 4), r"float32 \[B, 2\]: mat1"),
        (torch.nn.Unflatten(1, (2, 1)), r"float32 features \[B, F\]"),
        (torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)), "must be float32"),
    ],
)
def test_an_unsuitable_torso_is_rejected_with_its_input_shape(tmp_path, torso, says):
    with pytest.raises(ValueError, match=says):
        fastdqn.train(small(tmp_path), Far, torso=torso)


@pytest.mark.slow
def test_an_id_may_be_passed_as_environments(tmp_path):
    run = fastdqn.train(small(tmp_path).replace(total_timesteps=300), "MountainCar-v0")
    assert run.summary["env_id"] == "MountainCar-v0"


@pytest.mark.slow
def test_a_policy_has_a_repr_and_evaluate_accepts_a_factory(tmp_path):
    run = fastdqn.train(small(tmp_path).replace(total_timesteps=300), Far)
    policy = fastdqn.load_policy(run.folder)
    with pytest.raises(
        ValueError, match=r"have shape \(2,\), must be \('N', 2\)\. Use obs\[None\]"
    ):
        policy(np.zeros(2, np.float32))
    assert fastdqn.evaluate(policy, Far, episodes=3).lengths.tolist() == [10] * 3


class Scalar(Far):
    """Observes one number without a dimension."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(-np.inf, np.inf, (), np.float32)

    def _observe(self):
        return np.float32(self.np_random.normal(1e6, 2.0))


@pytest.mark.slow
def test_scalar_observations_are_normalized_saved_and_loaded(tmp_path):
    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(1.0))

        def forward(self, obs):
            return (self.gain * obs)[:, None]

    run = fastdqn.train(small(tmp_path, normalize_observation=True), Scalar, torso=Flat())
    policy = fastdqn.load_policy(run.folder, torso=Flat())
    statistics = policy.network.get_submodule("statistics")  # pyright: ignore[reportFunctionMemberAccess]
    assert statistics.obs_deviation.item() == pytest.approx(2.0, rel=0.1)


# -- hooks


def test_hooks_are_called_with_the_documented_arguments(tmp_path):
    steps, updates, evaluations = [], [], []
    run = fastdqn.train(
        small(tmp_path, eval_frequency=350),
        on_step=lambda progress, step: steps.append((progress.steps, len(step.lanes))),
        on_update=lambda progress, batch, priority: updates.append(
            (progress.updates, batch.obs.shape, priority.shape)
        ),
        on_evaluation=lambda at, kind, evaluation: evaluations.append(
            (at, kind, len(evaluation.returns))
        ),
    )
    assert [at for at, _ in steps] == np.cumsum([made for _, made in steps]).tolist()
    assert steps[-1][0] == run.summary["total_steps"]
    assert updates == [(n + 1, (16, 4), (16,)) for n in range(run.summary["updates"])]
    kinds = [kind for _, kind, _ in evaluations if kind != "last"]
    assert kinds == ["eval"] * (len(kinds) - 1) + ["final"]
    assert {count for *_, count in evaluations} == {2}


@pytest.mark.parametrize("stays", [bool, np.bool_])
def test_a_hook_that_returns_false_ends_the_run(tmp_path, stays):
    run = fastdqn.train(small(tmp_path), on_step=lambda progress, _: stays(progress.steps < 200))
    assert run.summary["exit_reason"] == "stopped by on_step"
    assert 200 <= run.summary["total_steps"] < 208
    assert (run.folder / "policy.safetensors").exists()


def test_hooks_have_their_own_phase(tmp_path):
    run = fastdqn.train(small(tmp_path), on_step=lambda *_: None)
    assert run.summary["phase_seconds"]["hooks"] > 0
    without = fastdqn.train(small(tmp_path, run_dir=str(tmp_path / "without")))
    assert "hooks" not in without.summary["phase_seconds"]


def test_hooks_change_nothing_that_is_learned(tmp_path):
    def weights(name, **hooks):
        run = fastdqn.train(small(tmp_path), run_dir=str(tmp_path / name), **hooks)
        return (run.folder / "policy.safetensors").read_bytes()

    assert weights("a") == weights("b", on_step=lambda *_: None, on_update=lambda *_: None)


def test_a_hook_cannot_change_the_best_weights(tmp_path):
    def boast(steps, kind, evaluation):
        evaluation.returns[:] = 1e9

    config = small(tmp_path, eval_frequency=300, stop_at_return=1e8)
    assert fastdqn.train(config, on_evaluation=boast).summary["solved"] is None


# -- normalisation

NORMAL = {"normalize_observation": True, "normalize_reward": True}


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_network_sees_normalized_numbers_and_the_replay_true_ones(tmp_path, mode):
    envs = SyncVectorEnv([Far] * 4, autoreset_mode=mode)
    session = build.build(setup_of(small(tmp_path, **NORMAL), envs), lambda _: Silent(), envs)
    from fastdqn.training import loop

    loop.train(session.run)
    session.close()
    batch = session.run.staging.host
    assert abs(batch.obs[:, 0].mean() - 500) < 30
    network = session.run.policy.network
    normal = network.get_submodule("statistics")(torch.from_numpy(batch.obs))
    assert normal.mean(0).abs().max() < 1.0
    assert (normal.std(0) - 1.0).abs().max() < 0.6
    assert session.run.replay.ring.reward.max() == 1000.0
    deviation = session.run.followers["normalizer"]._returns.deviation  # pyright: ignore[reportAttributeAccessIssue]
    assert batch.reward.max() == pytest.approx(1000.0 / deviation, rel=1e-3)


@pytest.mark.slow
def test_statistics_are_saved_with_the_weights_and_loaded_with_them(tmp_path):
    run = fastdqn.train(small(tmp_path, **NORMAL), Far)
    policy = fastdqn.load_policy(run.folder)
    statistics = policy.network.get_submodule("statistics")  # pyright: ignore[reportFunctionMemberAccess]
    assert statistics.obs_mean[0].item() == pytest.approx(500, abs=10)
    assert statistics.obs_deviation.tolist() == pytest.approx([20, 0.01], rel=0.2)
    assert statistics.return_deviation.item() > 100


@pytest.mark.slow
def test_far_observations_and_large_rewards_are_learned_from_when_they_are_normalised(tmp_path):
    config = small(tmp_path, total_timesteps=3_000, learning_rate=1e-3, gamma=0.5, **NORMAL)
    run = fastdqn.train(config, Far)
    assert run.summary["eval"]["mean_return"] == 10_000  # always the action that pays


def test_return_statistics_are_those_of_gymnasium():
    rng = np.random.default_rng(1)
    ours = ReturnStatistics(3, gamma=0.9)
    rewards = rng.normal(size=(50, 3)).astype(np.float32)
    theirs = gymnasium.wrappers.utils.RunningMeanStd(shape=())
    total = np.zeros(3)
    nothing, lanes = np.zeros(0, np.int64), np.arange(3)
    for t, reward in enumerate(rewards):
        over = np.array([t % 7 == 6, False, t % 5 == 4])
        total = total * 0.9 + reward
        theirs.update(total)
        total[over] = 0.0
        empty = np.zeros(3)
        ours.follow(
            Step(lanes, lanes, reward, over, over, empty, nothing, empty[:0], lanes[over], empty,
                 lanes)
        )  # fmt: skip
    assert ours.deviation == pytest.approx(np.sqrt(theirs.var + 1e-8))


@pytest.mark.slow
def test_the_target_network_normalises_by_the_same_statistics_from_the_first_step(tmp_path):
    envs = SyncVectorEnv([Far] * 4)
    session = build.build(setup_of(small(tmp_path, **NORMAL), envs), lambda _: Silent(), envs)
    from fastdqn.training import loop

    assert session.run.start is not None
    session.run.followers["normalizer"].follow(session.run.start)
    learner = session.run.learner
    assert learner.target.buffers.abs().sum() > 100
    assert torch.equal(learner.target.buffers, learner.online.buffers)
    loop.train(session.run)
    assert torch.equal(learner.target.buffers, learner.online.buffers)
    session.close()


# -- exploration


def test_the_ladder_decreases_from_the_first_to_the_last_environment():
    epsilon = LadderEpsilon(0.4, 7.0, 8)(0, 0)
    assert epsilon == pytest.approx([0.4 ** (1 + i) for i in range(8)])
    assert LadderEpsilon(0.4, 7.0, 1)(10, 10).tolist() == [0.4]


@pytest.mark.slow
def test_environments_explore_with_their_own_epsilon(tmp_path):
    """Far pays for every action, so an environment with epsilon 0 repeats its greedy action."""
    config = small(
        tmp_path, exploration="ladder", ladder_epsilon=1.0, ladder_alpha=0.0, total_timesteps=2_000
    )
    taken = []
    fastdqn.train(config, Far, on_step=lambda _, step: taken.extend(step.action))
    assert np.bincount(taken) / len(taken) == pytest.approx([1 / 3] * 3, abs=0.05)


@pytest.mark.slow
def test_epsilon_belongs_to_the_environment_that_acts(tmp_path, monkeypatch):
    from fastdqn.learning.policy import Policy

    given, act = [], Policy.act

    def noting(self, obs, epsilon, *rest):
        given.append(np.array(epsilon))
        return act(self, obs, epsilon, *rest)

    monkeypatch.setattr(Policy, "act", noting)
    lanes, send = [], EnvStream.send

    def sending(self, action):
        lanes.append(self.lanes.copy())
        send(self, action)

    monkeypatch.setattr(EnvStream, "send", sending)
    config = small(
        tmp_path, exploration="ladder", vectorization="async", env_batch_size=2, total_timesteps=60
    )
    fastdqn.train(config.replace(learning_starts=10), Far)
    ladder = LadderEpsilon(0.4, 7.0, 4)(0, 0)
    for epsilon, at in zip(given, lanes, strict=False):
        assert epsilon == pytest.approx(ladder[at])


# -- every environment of Gymnasium's own


def discrete_ids() -> list[str]:
    """One version of each id of Gymnasium's with Discrete actions that needs no more than the dev
    extra. Where others' packages have registered theirs, those have tests of their own."""
    from fastdqn.envs import find_supported_envs, registered

    own = [name for name in registered() if _is_gymnasiums(name)]
    entries = [entry for name in own for entry in find_supported_envs(name) if entry.env_id == name]
    return [entry.env_id for entry in entries if entry.vectorization]


def _is_gymnasiums(env_id: str) -> bool:
    return str(gymnasium.spec(env_id).entry_point).startswith("gymnasium.envs.")


DISCRETE_IDS = discrete_ids()


def test_the_catalogue_has_the_common_environments():
    assert set(DISCRETE_IDS) >= {
        "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "LunarLander-v3", "FrozenLake-v1",
        "FrozenLake8x8-v1", "Taxi-v4", "CliffWalking-v1", "Blackjack-v1",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is out of date")
@pytest.mark.parametrize("env_id", DISCRETE_IDS)
def test_every_environment_with_discrete_actions_trains(tmp_path, env_id):
    run = fastdqn.train(
        small(tmp_path, env_id=env_id, total_timesteps=500, eval_episodes=1, eval_max_steps=50)
    )
    assert run.summary["total_steps"] >= 500
    assert run.summary["updates"] > 100
    assert run.summary["eval"]["episodes"] == 1
