"""Each option reaches its object, and nothing is compiled during the measured time."""

import json

import gymnasium
import numpy as np
import pytest
import torch
from numba.core.dispatcher import Dispatcher

import fastdqn
from fastdqn import Config
from fastdqn import session as session_module
from fastdqn.builders import build, devices
from fastdqn.checkpoints.network_weights import load_weights
from fastdqn.envs import env_stream as stream_module
from fastdqn.learning import policy as policy_module
from fastdqn.learning.adam import FusedAdam, PlainAdam
from fastdqn.learning.autograd import AutogradSteps
from fastdqn.learning.bootstrap_targets import DoubleBackup, MaxBackup
from fastdqn.learning.categorical import CategoricalValue
from fastdqn.learning.fused_learner import FusedStep
from fastdqn.learning.graph_capture import eager
from fastdqn.learning.implicit_quantile import ImplicitHead, ImplicitQuantileValue
from fastdqn.learning.munchausen import MunchausenBackup
from fastdqn.learning.networks import DuelingHead, PlainHead
from fastdqn.learning.noisy import NoisyLinear
from fastdqn.learning.quantile import QuantileValue
from fastdqn.learning.random_inputs import LaneNoise
from fastdqn.learning.target_network import HardCopy, NoTarget, PolyakAverage
from fastdqn.learning.value import ScalarValue, huber, squared_error
from fastdqn.logging.console import Silent
from fastdqn.replay import NewestSampler, PrioritizedSampler, UniformSampler
from fastdqn.replay import ring as ring_module
from fastdqn.replay import row_store as rows_module
from fastdqn.replay import uniform_sampler as uniform_module
from fastdqn.seeding import CONFIRM, EVAL, FINAL, TRAIN
from fastdqn.training import loop
from fastdqn.training.evaluation import evaluate
from helpers.loop import small
from helpers.setups import setup_of


def built(tmp_path, **overrides) -> build.Session:
    session = build.build(setup_of(small(tmp_path, **overrides)), lambda _: Silent())
    session.close()
    return session


def head(s):
    return s.run.learner.online.module.head


def test_a_torso_of_ones_own_is_learned_by_torch_and_the_start_says_so(tmp_path):
    torso = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh())
    session = build.build(setup_of(small(tmp_path), torso=torso), lambda _: Silent())
    session.close()
    assert session.config.learner == "torch"
    assert session.notes == ["learner torch: not fused: the torso is not one of fastdqn's"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "value", "read", "expected"),
    [
        ("double", True, lambda s: type(s.run.learner.backup), DoubleBackup),
        ("double", False, lambda s: type(s.run.learner.backup), MaxBackup),
        ("dueling", True, lambda s: type(head(s)), DuelingHead),
        ("dueling", False, lambda s: type(head(s)), PlainHead),
        ("loss", "mse", lambda s: s.run.learner.value.element_loss, squared_error),
        ("loss", "huber", lambda s: s.run.learner.value.element_loss, huber),
        ("learner", "auto", lambda s: type(s.run.learner._step), FusedStep),
        ("learner", "torch", lambda s: type(s.run.learner._step), AutogradSteps),
        ("tau", 1.0, lambda s: type(s.run.learner.target_update), HardCopy),
        ("tau", 0.5, lambda s: type(s.run.learner.target_update), PolyakAverage),
        ("tau", 0.5, lambda s: s.run.learner.target_update.tau, 0.5),
        ("target_network_frequency", 30, lambda s: s.run.learner.target_update.every, 30 / 4),
        ("max_grad_norm", 3.0, lambda s: s.run.learner.max_grad_norm, 3.0),
        ("max_grad_norm", None, lambda s: s.run.learner.max_grad_norm, None),
        ("learning_rate", 0.25, lambda s: s.run.learner.optimizer.learning_rate.item(), 0.25),
        ("capture", "eager", lambda s: type(s.run.learner.optimizer), FusedAdam),
        ("n_steps", 3, lambda s: s.run.replay.n_steps, 3),
        ("gamma", 0.5, lambda s: s.run.replay.gamma, 0.5),
        ("buffer_size", 404, lambda s: s.run.replay.ring.rows, 102),
        ("batch_size", 17, lambda s: len(s.run.staging.host.index), 17),
        ("num_envs", 3, lambda s: s.run.stream.num_lanes, 3),
        ("prioritized", False, lambda s: type(s.run.replay.sampler), UniformSampler),
        ("prioritized", True, lambda s: type(s.run.replay.sampler), PrioritizedSampler),
        ("replay", False, lambda s: type(s.run.replay.sampler), NewestSampler),
        ("replay", False, lambda s: len(s.run.staging.host.index), 4),
        ("target_network", False, lambda s: type(s.run.learner.target_update), NoTarget),
        ("value", "scalar", lambda s: type(s.run.learner.value), ScalarValue),
        ("value", "categorical", lambda s: type(s.run.learner.value), CategoricalValue),
        ("value", "categorical", lambda s: [*s.run.followers], ["range"]),
        ("value", "categorical", lambda s: head(s).shape.unflattened_size, (51, 3)),
        ("value", "quantile", lambda s: head(s).shape.unflattened_size, (32, 3)),
        ("value", "quantile", lambda s: type(s.run.learner.value), QuantileValue),
        ("value", "implicit-quantile", lambda s: type(head(s)), ImplicitHead),
        ("value", "implicit-quantile", lambda s: type(s.run.policy.value), ImplicitQuantileValue),
        ("munchausen", True, lambda s: type(s.run.learner.backup), MunchausenBackup),
        ("noisy", True, lambda s: type(head(s).streams), NoisyLinear),
        ("noisy", True, lambda s: type(s.run.policy._noise), LaneNoise),
        ("noisy", True, lambda s: [s.run.epsilon(0, 0), s.run.epsilon(10**9, 0)], [0.0, 0.0]),
        ("noisy", False, lambda s: [s.run.epsilon(0, 0), s.run.epsilon(10**9, 0)], [1.0, 0.05]),
        ("hidden_sizes", (5, 6), lambda s: head(s).streams.weight.shape[1], 6),
        ("exploration_initial_eps", 0.8, lambda s: s.run.epsilon(0, 0), 0.8),
        ("exploration_final_eps", 0.02, lambda s: s.run.epsilon(10**9, 0), 0.02),
        ("exploration_fraction", 1.0, lambda s: s.run.epsilon(350, 0), 0.525),
        ("exploration_decay", 0.5, lambda s: s.run.epsilon(0, 2), 0.25),
        ("total_timesteps", 900, lambda s: s.run.budget.total_steps, 900),
        ("total_episodes", 9, lambda s: s.run.budget.total_episodes, 9),
        ("learning_starts", 60, lambda s: s.run.cadence.updates_due(0, 64), 1),
        ("train_frequency", 2, lambda s: s.run.cadence.updates_due(50, 60), 5),
        ("log_frequency", 77, lambda s: s.run.cadence.log_frequency, 77),
        ("eval_frequency", 0, lambda s: s.best_weights, None),
        ("eval_episodes", 7, lambda s: s.evaluations._episodes, 7),
        ("eval_max_steps", 11, lambda s: s.evaluations._max_steps, 11),
        ("exploration", "ladder", lambda s: s.run.epsilon(0, 0)[0], 0.4),
        ("normalize_observation", True, lambda s: [*s.run.followers], ["normalizer"]),
        ("normalize_observation", False, lambda s: s.run.followers, {}),
        ("normalize_reward", True, lambda s: [*s.run.followers], ["normalizer"]),
        ("wrapper", ("TimeAwareObservation",), lambda s: s.run.stream.facts.obs_shape, (5,)),
        ("env_kwargs", {"render_mode": None}, lambda s: s.run.stream.num_lanes, 4),
        ("vectorization", "sync", lambda s: type(s.run.stream.envs).__name__, "SyncVectorEnv"),
        ("vectorization", "auto", lambda s: type(s.run.stream.envs).__name__, "CompiledVectorEnv"),
    ],
)  # fmt: skip
def test_an_option_reaches_its_object(tmp_path, option, value, read, expected):
    assert read(built(tmp_path, **{option: value})) == expected


def test_compile_takes_the_optimizer_that_a_compiler_can_see_through(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "compiled", eager)
    assert type(built(tmp_path, capture="compile").run.learner.optimizer) is PlainAdam


def test_seeds_reach_weights_sampling_and_exploration(tmp_path):
    one, two = built(tmp_path / "1", seed=1).run, built(tmp_path / "2", seed=2).run
    assert not torch.equal(one.learner.online.weights, two.learner.online.weights)
    assert (one.replay.sampler.rng != two.replay.sampler.rng).all()  # pyright: ignore
    assert (one.policy.rng != two.policy.rng).all()
    assert (one.policy.rng != one.replay.sampler.rng).all()  # pyright: ignore


def test_byte_observations_are_scaled(tmp_path):
    envs = gymnasium.vector.SyncVectorEnv([ByteEnv] * 4)
    session = build.build(setup_of(small(tmp_path), envs), lambda _: Silent(), envs)
    session.close()
    assert session.run.learner.online.module.obs_scale == 1 / 255
    assert session.run.staging.host.obs.dtype == np.uint8


class ByteEnv(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 255, (3,), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.uint8), {}

    def step(self, action):
        return np.zeros(3, np.uint8), 0.0, False, False, {}


def kernels() -> dict[str, Dispatcher]:
    modules = (ring_module, rows_module, uniform_module, stream_module, policy_module)
    return {
        f"{module.__name__}.{name}": value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, Dispatcher)
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {"num_envs": 1},
        {"num_envs": 4, "n_steps": 3},
        {"vectorization": "sync"},
        {"gamma": 1, "exploration_initial_eps": 1},
    ],
)
def test_nothing_compiles_inside_the_timed_loop(tmp_path, overrides):
    session = build.build(setup_of(small(tmp_path, **overrides)), lambda _: Silent())
    before = {name: len(kernel.signatures) for name, kernel in kernels().items()}
    loop.train(session.run)
    session.close()
    assert {name: len(kernel.signatures) for name, kernel in kernels().items()} == before


def test_training_evaluating_confirming_and_judging_use_seeds_of_their_own(tmp_path, monkeypatch):
    used = []
    start = stream_module.EnvStream.start
    monkeypatch.setattr(
        stream_module.EnvStream,
        "start",
        lambda self, seed=None: used.append(seed) or start(self, seed),
    )
    fastdqn.train(
        small(tmp_path, eval_frequency=100, stop_at_return=1.0, eval_episodes=2, num_envs=2)
    )
    assert [seed >> 28 for seed in used if seed] == [TRAIN, EVAL, CONFIRM, FINAL]


def test_the_final_evaluation_is_of_the_best_weights_not_the_last(tmp_path, monkeypatch):
    """The evaluations of a short run are not monotone, so the best is not the last."""
    evaluated = []

    def noting(policy, *rest):
        evaluated.append(policy.network.head.streams.weight.clone().numpy())
        return evaluate(policy, *rest)

    monkeypatch.setattr(session_module, "evaluate", noting)
    run = fastdqn.train(
        small(tmp_path, total_timesteps=3_000, eval_frequency=300, eval_episodes=10, seed=3)
    )
    best, last = (load_weights(run.folder / f"{n}.safetensors")[0] for n in ("best", "policy"))
    assert not np.array_equal(best["head.streams.weight"], last["head.streams.weight"])
    np.testing.assert_array_equal(evaluated[-2], best["head.streams.weight"])
    np.testing.assert_array_equal(evaluated[-1], last["head.streams.weight"])


def test_a_call_leaves_torchs_threads_as_they_were(tmp_path):
    before = torch.get_num_threads()
    fastdqn.train(small(tmp_path, threads=before + 1))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"num_envs": 5}, "num_envs is 5, but envs has 4"),
        ({"stop_at_return": 9.0}, "stop_at_return is 9.0, but a VectorEnv is evaluated only on"),
    ],
)
def test_options_that_contradict_given_environments_are_refused(tmp_path, overrides, line):
    envs = gymnasium.make_vec("CartPole-v1", 4)
    with pytest.raises(fastdqn.ConfigError, match=line):
        fastdqn.train(small(tmp_path, eval_frequency=100), envs, **overrides)
    assert not list(tmp_path.iterdir())


def test_the_last_row_of_metrics_holds_no_rate_of_nothing(tmp_path):
    run = fastdqn.train(small(tmp_path, log_frequency=100))
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(row.get("time/fps", 1) > 0 for row in rows)
    assert len({row["step"] for row in rows}) == len(rows)


def test_whole_numbers_in_real_options_are_real():
    assert type(Config(gamma=1).gamma) is float
    assert type(Config(stop_at_return=475).stop_at_return) is float
