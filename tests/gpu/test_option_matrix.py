"""Runs on a simulated device, by graphs, have the bits of runs on the CPU without."""

import copy
import json
from fractions import Fraction
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import fastdqn
from fastdqn.bench.policy_speed import measure_acting
from fastdqn.bench.repeats import Effort
from fastdqn.bench.synthetic_data import random_obs
from fastdqn.builders import agent
from fastdqn.checkpoints.network_weights import load_weights
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.networks import Affine, Outputs, StreamsHead
from fastdqn.learning.noisy import NoisyLayers, noise_size
from fastdqn.learning.policy import Policy
from fastdqn.learning.random_inputs import Draw
from helpers.capture import PICTURES, config_of
from helpers.simulated_cuda import simulated_cuda

pytestmark = pytest.mark.slow
BASE = {
    "total_timesteps": 400, "learning_starts": 150, "eval_frequency": 200, "eval_episodes": 2,
    "eval_max_steps": 20, "stop_at_return": None, "num_envs": 8, "train_frequency": 4,
    "batch_size": 16, "hidden_sizes": (16, 16), "target_network_frequency": 50,
    "buffer_size": 300, "log_frequency": 200, "tensorboard": False, "learner": "torch",
}  # fmt: skip
MATRIX = {
    "plain": {},
    "several updates in a launch": {"train_frequency": 1},
    "eager": {"capture": "eager"},
    "prioritized": {"prioritized": True},
    "prioritized without lag": {"prioritized": True, "priority_lag": 0},
    "prioritized, four in a launch": {"prioritized": True, "updates_per_launch": 4},
    "noisy": {"noisy": True},
    "C51": {"value": "categorical", "num_atoms": 11},
    "QR": {"value": "quantile", "num_quantiles": 8},
    "IQN": {"value": "implicit-quantile"},
    "HL-Gauss": {"value": "hl-gauss", "num_atoms": 11},
    "Rainbow": {
        "noisy": True, "prioritized": True, "value": "categorical", "num_atoms": 11, "n_steps": 3,
    },
    "Munchausen, IQN, noisy": {"value": "implicit-quantile", "noisy": True, "munchausen": True},
    "Munchausen": {"munchausen": True},
    "plain DQN": {"double": False, "dueling": False},
    "Polyak": {"tau": 0.01, "target_network_frequency": 4},
    "Polyak, rarely": {"tau": 0.1, "target_network_frequency": 40},
    "no target": {"target_network": False},
    "no replay": {"replay": False, "train_frequency": 16},
    "normalized": {"normalize_observation": True, "normalize_reward": True},
    "clipped": {"loss": "huber", "max_grad_norm": 10.0},
    "RMSprop": {"optimizer": "rmsprop"},
    "ladder": {"exploration": "ladder"},
    "repeats": {"exploration_zeta": 2.0},
    "float32": {"precision": "float32"},
    "second device": {"device": "cuda:1"},
    "second device, eager": {
        "device": "cuda:1", "capture": "eager", "noisy": True, "prioritized": True,
    },
    "second device, IQN": {"device": "cuda:1", "value": "implicit-quantile", "noisy": True},
    "masks": {"env_id": "Taxi-v4"},
    "masks, Munchausen": {"env_id": "Taxi-v4", "munchausen": True, "prioritized": True},
    "one environment": {"num_envs": 1, "train_frequency": 1, "total_timesteps": 300},
    "two updates a step": {"train_frequency": Fraction(1, 2), "total_timesteps": 260},
    "learning rate schedule": {"learning_rate_schedule": "linear"},
}  # fmt: skip


CONVOLUTIONS = {"torso": "nature", "hidden_sizes": (16,), "eval_frequency": 0}


class Pictures(gymnasium.Env):
    """Random pictures, four in a stack; action 1 is rewarded."""

    observation_space = gymnasium.spaces.Box(0, 255, (4, 36, 36), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._left = 12
        return self._obs(), {}

    def step(self, action):
        self._left -= 1
        return self._obs(), float(action == 1), self._left == 0, False, {}

    def _obs(self):
        return self.np_random.integers(0, 256, (4, 36, 36), dtype=np.uint8)


def trained(folder, *args, on_update=None, **options):
    """Trains. Returns weights by name, and the resolved options."""
    config = fastdqn.PRESETS["cartpole"].replace(**BASE, run_dir=str(folder)).replace(**options)
    run = fastdqn.train(config, *args, on_update=on_update)
    assert run.summary["updates"] > 10
    return load_weights(folder / "policy.safetensors")[0], json.loads(
        (folder / "config.json").read_text()
    )


def on_device(folder, *args, **options):
    with simulated_cuda() as machine:
        found = trained(folder, *args, **{"device": "cuda"} | options)
    assert machine.problems == []
    return found


def assert_equal(weights, others):
    assert weights.keys() == others.keys()
    for name, values in weights.items():
        np.testing.assert_array_equal(values, others[name], name)


@pytest.mark.parametrize("options", MATRIX.values(), ids=MATRIX.keys())
def test_a_run_by_graphs_has_the_bits_of_one_on_the_cpu(tmp_path, options):
    weights, config = on_device(tmp_path / "device", **options)
    assert config["capture"] == options.get("capture", "graph")
    same = {name: config[name] for name in ("updates_per_launch", "priority_lag")}
    cpu = {**options, **same, "device": "cpu", "capture": "eager", "precision": "float32"}
    assert_equal(weights, trained(tmp_path / "cpu", **cpu)[0])


@pytest.mark.parametrize(
    ("make_env", "options"),
    [
        ((Pictures,), {**CONVOLUTIONS, "store": "rows"}),
        ((Pictures,), {**CONVOLUTIONS, "precision": "bf16"}),
        ((Pictures,), {**CONVOLUTIONS, "noisy": True, "n_steps": 3}),
        ((), {"optimizer": "adamw"}),
    ],
)
def test_a_run_by_graphs_has_the_bits_of_an_eager_one(tmp_path, make_env, options):
    """Layout, precision, and the step of an optimizer of torch differ from those of the CPU."""
    options = {**options, "total_timesteps": 240, "eval_frequency": 0}
    weights, config = on_device(tmp_path / "graph", *make_env, **options)
    assert config["capture"] == "graph"
    assert_equal(weights, on_device(tmp_path / "eager", *make_env, capture="eager", **options)[0])


class _Frame(gymnasium.Env):
    """Random frames in episodes of random lengths."""

    observation_space = gymnasium.spaces.Box(0, 255, (36, 36), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._left = int(self.np_random.integers(3, 12))
        return self._obs(), {}

    def step(self, action):
        self._left -= 1
        ends = self._left == 0
        return self._obs(), float(action == 1), ends and action == 0, ends, {}

    def _obs(self):
        return self.np_random.integers(0, 256, (36, 36), dtype=np.uint8)


def frames(**_):
    return gymnasium.wrappers.FrameStackObservation(_Frame(), 4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prioritized": True, "n_steps": 3},
        {"num_envs": 5, "train_frequency": 2, "updates_per_launch": 4},
        {"capture": "eager", "noisy": True},
        {"device": "cuda:1", "munchausen": True},
    ],
    ids=str,
)
@pytest.mark.parametrize(("make_env", "store"), [(frames, "frames"), (Pictures, "rows")])
def test_a_replay_on_the_device_has_the_bits_of_one_on_the_host(tmp_path, make_env, store, options):
    """Rows are overwritten several times, and episodes are cut."""
    options = {"total_timesteps": 260, "buffer_size": 80, **CONVOLUTIONS} | options
    weights, config = on_device(tmp_path / "device", make_env, store="device", **options)
    assert (config["store"], config["torso"]) == ("device", "nature")
    host, config = on_device(tmp_path / "host", make_env, store=store, **options)
    assert config["store"] == store
    assert_equal(weights, host)


@pytest.mark.parametrize("capture", ["graph", "eager"])
@pytest.mark.parametrize("make_env", [frames, Pictures])
def test_acting_reads_observations_that_the_replay_has_on_the_device(
    tmp_path, monkeypatch, make_env, capture
):
    """They are uploaded once, when they are stored."""
    acted, act = [], Policy.act

    def checked(self, obs, epsilon, mask=None, lanes=None, slots=None):
        assert slots is not None
        found = self._observations(torch.from_numpy(slots).to(self.device))
        np.testing.assert_array_equal(found.cpu().numpy(), obs)
        acted.append(len(obs))
        return act(self, np.full_like(obs, 255), epsilon, mask, lanes, slots)

    options = {"total_timesteps": 260, "buffer_size": 80, "capture": capture, **CONVOLUTIONS}
    plain, _ = on_device(tmp_path / "plain", make_env, store="device", **options)
    monkeypatch.setattr(Policy, "act", checked)
    weights, _ = on_device(tmp_path / "checked", make_env, store="device", **options)
    assert len(acted) > 20
    assert_equal(weights, plain)


def test_pictures_are_on_the_device_by_default(tmp_path):
    config = on_device(tmp_path, frames, train_frequency=1)[1]
    assert (config["store"], config["updates_per_launch"]) == ("device", 8)
    config = on_device(tmp_path / "host", frames, train_frequency=1, store="frames")[1]
    assert config["updates_per_launch"] == 2


def test_a_run_with_its_replay_on_the_device_resumes_exactly(tmp_path):
    """The same as with a replay on the host: these environments begin new episodes."""
    options = {"total_timesteps": 300, "buffer_size": 80, "n_steps": 2, **CONVOLUTIONS}
    found = []
    for store in ("device", "frames"):
        folder = tmp_path / store
        with simulated_cuda() as machine:
            config = fastdqn.PRESETS["cartpole"].replace(
                **BASE | {"device": "cuda", "run_dir": str(folder), "store": store} | options,
                updates_per_launch=2,
            )
            fastdqn.train(config, frames, on_step=lambda progress, step: progress.steps < 220)
        with simulated_cuda() as second:
            fastdqn.resume(folder, frames)
        assert machine.problems == second.problems == []
        found.append(load_weights(folder / "policy.safetensors")[0])
    assert_equal(*found)


def test_a_replay_that_was_on_the_device_is_read_without_one(tmp_path):
    on_device(tmp_path / "device", frames, total_timesteps=240, **CONVOLUTIONS)
    config = fastdqn.PRESETS["cartpole"].replace(
        **BASE | CONVOLUTIONS | {"prefill": (str(tmp_path / "device"),), "total_timesteps": 60},
        run_dir=str(tmp_path / "cpu"), device="cpu",
    )  # fmt: skip
    sizes = []
    fastdqn.train(
        config, frames, on_step=lambda progress, step: sizes.append(len(progress.replay)) or True
    )
    assert sizes[0] > 150


def test_on_update_receives_observations_of_a_replay_on_the_device(tmp_path):
    shapes = set()
    with simulated_cuda():
        trained(
            tmp_path, frames, device="cuda", total_timesteps=240, eval_frequency=0,
            on_update=lambda progress, batch, priority: shapes.add(tuple(batch.next_obs.shape)),
        )  # fmt: skip
    assert shapes == {(16, 4, 36, 36)}


@pytest.mark.parametrize(
    "options",
    [
        {"prioritized": True, "noisy": True, "value": "categorical", "num_atoms": 11},
        {"updates_per_launch": 4, "train_frequency": 1, "tau": 0.05, "target_network_frequency": 2},
    ],
    ids=["prioritized", "launches"],
)
def test_a_run_resumed_on_a_device_has_the_bits_of_an_uninterrupted_one(tmp_path, options):
    whole, _ = on_device(tmp_path / "whole", **options)
    with simulated_cuda() as machine:
        config = fastdqn.PRESETS["cartpole"].replace(
            **BASE | {"device": "cuda", "run_dir": str(tmp_path / "parts")} | options
        )
        fastdqn.train(config, on_step=lambda progress, step: progress.steps < 220)
    with simulated_cuda() as second:
        fastdqn.resume(tmp_path / "parts")
    assert machine.problems == second.problems == []
    assert_equal(load_weights(tmp_path / "parts" / "policy.safetensors")[0], whole)


def test_joined_layers_compute_what_separate_ones_do():
    """On a device, hidden layers of both streams are one product; gradients agree, too."""
    torch.manual_seed(0)
    for layers, noise in ((Affine, None), (NoisyLayers(0.5), torch.randn(1, 200))):
        head = StreamsHead(7, Outputs(3, 2), layers, (6, 5), 0.5)
        features = torch.rand(4, 7)
        draw = Draw(None if noise is None else noise[:, : noise_size(head) or 1])
        with simulated_cuda():
            flat = FlatParameters(copy.deepcopy(head), torch.device("cuda"))
            module: Any = flat.module
            assert len(module.joined) == 2
            moved = Draw(None if draw.noise is None else draw.noise.cuda())
            output = flat.module(features.cuda(), moved)
            flat.take_gradient(output.square().sum(), torch.ones((), device="cuda"))
            found, gradient = output.detach().cpu(), flat.gradient.cpu()
        expected = FlatParameters(head, torch.device("cpu"))
        assert head.joined == []
        output = expected.module(features, draw)
        output.square().sum().backward()
        torch.testing.assert_close(found, output.detach())
        torch.testing.assert_close(gradient, expected.gradient)


def test_a_torso_that_is_cast_once_computes_what_autocast_does():
    with simulated_cuda():
        config = config_of(device="cuda", precision="bf16", **CONVOLUTIONS)
        flat, _ = agent.make_online(config, PICTURES)
        network: Any = flat.module
        obs = torch.from_numpy(random_obs(np.random.default_rng(0), 6, (4, 36, 36), np.uint8))
        results = []
        for _ in range(2):
            assert (network.cast is None) == bool(results)
            output = network(obs.cuda())
            flat.take_gradient(output.square().sum(), torch.ones((), device="cuda"))
            results.append((output.detach().cpu(), flat.gradient.cpu()))
            network.cast = None  # from here on by autocast
            flat._leaves, flat._sources = flat._gradient_sources()
            network.torso.requires_grad_(True)
    for once, each_time in zip(*results, strict=True):
        torch.testing.assert_close(once, each_time, rtol=0.02, atol=0.02)
    assert results[0][1][:8192].abs().max() > 0


def test_weights_of_a_cast_torso_follow_the_updates():
    with simulated_cuda():
        config = config_of(device="cuda", precision="bf16", **CONVOLUTIONS)
        flat, _ = agent.make_online(config, PICTURES)
        network: Any = flat.module
        flat.weights.mul_(2.0)
        (source, copied), *_ = network.cast.pairs()
        assert not torch.equal(copied.float().cpu(), source.bfloat16().float().cpu())
        network.cast.refresh()
        assert torch.equal(copied.float().cpu(), source.bfloat16().float().cpu())
        assert flat.eval_alias().cast is None  # pyright: ignore[reportAttributeAccessIssue]


def test_a_copy_of_a_network_on_a_device_computes_with_its_own_weights():
    """The final evaluation loads other weights into a copy of the policy's network."""
    with simulated_cuda():
        config = config_of(device="cuda", precision="bf16", **CONVOLUTIONS)
        flat, _ = agent.make_online(config, PICTURES)
        copied: Any = copy.deepcopy(flat.eval_alias())
        obs = torch.from_numpy(random_obs(np.random.default_rng(0), 3, (4, 36, 36), np.uint8))
        with torch.no_grad():
            assert not torch.equal(copied(obs.cuda()).cpu(), torch.zeros(3, 3))
            for parameter in copied.parameters():
                parameter.zero_()
            assert torch.equal(copied(obs.cuda()).cpu(), torch.zeros(3, 3))


def test_acting_is_measured_with_observations_of_the_device_as_in_training(monkeypatch):
    given, act = [], Policy.act

    def recorded(self, obs, epsilon, mask=None, lanes=None, slots=None):
        given.append(slots)
        return act(self, obs, epsilon, mask, lanes, slots)

    monkeypatch.setattr(Policy, "act", recorded)
    with simulated_cuda() as machine:
        config = config_of(device="cuda", store="device", buffer_size=100, **CONVOLUTIONS)
        measure_acting(config, PICTURES, Effort(0.001, 1, 0.0))
    assert machine.problems == []
    assert given
    assert all(slots is not None and len(slots) == config.num_envs for slots in given)
