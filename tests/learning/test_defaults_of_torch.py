"""Settings of the program before training: torch's default dtype, lazy modules, empty batches."""

import numpy as np
import pytest
import torch
from torch import nn

import fastdqn
from helpers.loop import small

SETTINGS = [
    {},
    {"value": "categorical", "noisy": True, "prioritized": True},
    {"value": "implicit-quantile", "munchausen": True, "normalize_observation": True},
    {"value": "quantile", "learner": "torch", "tau": 0.1, "normalize_reward": True},
]


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def bits(folder, **changes):
    run = fastdqn.train(small(folder, total_timesteps=300, **changes), run_dir=str(folder / "run"))
    return run.folder, (run.folder / "policy.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_the_default_type_of_tensors_changes_nothing(tmp_path, double, changes):
    run, learned = bits(tmp_path / "double", **changes)
    policy, obs = fastdqn.load_policy(run), np.zeros((3, 4), np.float32)
    actions = policy(obs)
    assert torch.get_default_dtype() == torch.float64
    assert fastdqn.resume(run, total_timesteps=400).summary["total_steps"] >= 400
    torch.set_default_dtype(torch.float32)
    assert bits(tmp_path / "single", **changes)[1] == learned
    np.testing.assert_array_equal(actions, policy(obs))


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(6))


@pytest.mark.slow
def test_lazy_modules_of_a_torso_get_their_sizes_from_the_observations(tmp_path):
    torso = lazy()
    run = fastdqn.train(small(tmp_path, total_timesteps=300), torso=torso)
    assert all(map(nn.parameter.is_lazy, torso.parameters()))  # it is copied
    for given in (lazy(), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6))):
        policy = fastdqn.load_policy(run.folder, torso=given)
        assert policy(np.zeros((2, 4), np.float32)).shape == (2,)
    again = fastdqn.resume(run.folder, torso=lazy(), total_timesteps=400)
    assert again.summary["total_steps"] >= 400


def test_equal_seeds_give_lazy_modules_equal_weights(tmp_path):
    def weights(name):
        config = small(tmp_path, total_timesteps=100, run_dir=str(tmp_path / name))
        run = fastdqn.train(config, torso=lazy())
        return (run.folder / "policy.safetensors").read_bytes()

    assert weights("a") == weights("b")


@pytest.mark.slow
@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_no_observations_give_no_actions(tmp_path, changes):
    policy = fastdqn.load_policy(bits(tmp_path, **changes)[0])
    none = np.zeros((0, 4), np.float32)
    for mask in (None, np.zeros((0, 2), np.bool_)):
        actions = policy(none, mask)  # pyright: ignore[reportCallIssue]
        assert (actions.shape, actions.dtype) == ((0,), np.int64)
    assert policy.expected(none).shape == (0, 2)  # pyright: ignore[reportFunctionMemberAccess]
