"""Weights files of every kind of network: loaded policies, and false descriptions."""

# torch types every attribute of a Module as Tensor | Module, which no test of one can satisfy.
# pyright: reportAttributeAccessIssue=false

import itertools
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fastdqn
from fastdqn import Config
from fastdqn.builders import agent
from fastdqn.builders.parts import UserParts
from fastdqn.checkpoints.network_weights import WeightsError, save_weights
from fastdqn.config.registry import WORDS
from fastdqn.envs import EnvFacts
from helpers.setups import resolved
from helpers.switches import paired

FACTS = EnvFacts((3, 2), np.dtype(np.float32), 1.0, 4, 0)
VALUES = list(WORDS["value"])
OBS = np.random.default_rng(0).normal(size=(200, 3, 2)).astype(np.float32)


def saved(tmp_path, torso=None, **options):
    """Returns a policy and its weights file. No number of the description is a default."""
    asked = Config(
        hidden_sizes=(16, 8), device="cpu", learner="torch", num_atoms=11, v_min=-3.0, v_max=4.0,
        num_quantiles=6, num_policy_fractions=9, num_target_fractions=3, noisy_sigma=0.7, **options,
    )  # fmt: skip
    config = resolved(asked, FACTS, own=UserParts(torso))
    online, description = agent.make_online(config, FACTS, UserParts(torso))
    online.weights.normal_(generator=torch.Generator().manual_seed(0))
    value = agent.make_learner(config, online).value
    path = tmp_path / "policy.safetensors"
    save_weights(path, online.named_tensors(), description)
    return agent.make_policy(config, online, value, FACTS), path


@pytest.mark.parametrize(
    ("value", "noisy", "dueling"),
    list(itertools.product(VALUES, [False, True], [False, True])),
)
def test_a_loaded_policy_acts_as_the_saved_one(tmp_path, value, noisy, dueling):
    policy, path = saved(tmp_path, value=value, noisy=noisy, dueling=dueling)
    loaded, description = agent.load_policy(path)
    assert (description["value"], description["noisy"]) == (value, noisy)
    with torch.no_grad():
        ours, theirs = (
            each.value.expected(each.network(torch.from_numpy(OBS))) for each in (policy, loaded)
        )
    assert torch.equal(ours, theirs)
    assert ours.std(0).min() > 0.01
    for _ in range(2):
        np.testing.assert_array_equal(loaded(OBS), policy(OBS))
        np.testing.assert_array_equal(loaded.act(OBS, 0.0), policy(OBS))  # it has no noise


def test_the_description_contains_what_the_weights_do_not(tmp_path):
    _, path = saved(tmp_path, value="categorical", noisy=True)
    loaded, description = agent.load_policy(path)
    assert description["noisy_sigma"] == 0.7
    atoms = loaded.value.atoms.tolist()
    assert (len(atoms), atoms[0], atoms[-1]) == (11, -3.0, 4.0)
    assert atoms[5] == pytest.approx(0.5)


@pytest.mark.parametrize("value", VALUES)
def test_a_custom_torso_is_restored_under_a_noisy_head_of_any_value(tmp_path, value):
    torso = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 5), torch.nn.Tanh())
    policy, path = saved(tmp_path, torso, value=value, noisy=True)
    loaded, _ = agent.load_policy(path, UserParts(torso))
    np.testing.assert_array_equal(loaded(OBS), policy(OBS))
    with pytest.raises(ValueError, match="a custom torso"):
        agent.load_policy(path)


@pytest.mark.slow
def test_a_noisy_run_is_evaluated_by_its_means(tmp_path):
    run = fastdqn.train(paired(tmp_path, "noisy", "categorical"))
    policy = fastdqn.load_policy(run.folder)
    first, second = (fastdqn.evaluate(policy, "CartPole-v1", episodes=4) for _ in range(2))
    np.testing.assert_array_equal(first.returns, second.returns)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"value": "c51"}, "value of its network is 'c51'"),
        ({"value": ["scalar"]}, "value of its network is"),
        ({"value": None}, "value of its network is None"),
        ({"num_atoms": 1 << 40}, "num_atoms of its network is 1099511627776"),
        ({"num_atoms": 1}, "num_atoms of its network is 1"),
        ({"num_atoms": 11.0}, "num_atoms of its network is 11.0"),
        ({"v_min": float("nan")}, "v_min of its network is nan"),
        ({"v_max": float("inf")}, "v_max of its network is inf"),
        ({"v_max": "4"}, "v_max of its network is '4'"),
        ({"v_min": 4.0}, "v_min is 4.0, not below v_max 4.0"),
        ({"v_min": 5.0, "v_max": -5.0}, "v_min is 5.0, not below v_max -5.0"),
        ({"num_quantiles": 0}, "num_quantiles of its network is 0"),
        ({"num_policy_fractions": 1 << 30}, "num_policy_fractions of its network is"),
        ({"num_target_fractions": True}, "num_target_fractions of its network is True"),
        ({"noisy": 1}, "noisy of its network is 1"),
        ({"noisy_sigma": float("nan")}, "noisy_sigma of its network is nan"),
        # What could be, but is not what the file holds:
        ({"num_atoms": 1 << 16}, r"has shape \[44\], expected \[262144\]"),
        ({"num_actions": 1 << 31}, "has shape"),
        ({"num_actions": (1 << 32) - 1, "dueling": True}, "larger than any memory"),
        ({"hidden_sizes": [1 << 31, 1 << 31]}, "hidden_sizes of its network is"),
        ({"hidden_sizes": [1 << 20] * 3}, "lacks head|has shape|lacks torso"),
        ({"obs_shape": [1 << 31] * 3}, "larger than any memory"),
        ({"noisy": True}, "lacks head"),
        ({"value": "scalar"}, "has shape"),
        ({"value": "implicit-quantile"}, "lacks head"),
    ],
)
def test_a_false_description_is_a_one_line_error_without_allocation(tmp_path, changes, says):
    _, path = saved(tmp_path, value="categorical", dueling=False)
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        description = json.loads(file.metadata()["fastdqn"])
    description["network"] |= changes
    safetensors.torch.save_file(tensors, path, {"fastdqn": json.dumps(description)})
    with pytest.raises(WeightsError, match=says) as caught, Allocations() as made:
        agent.load_policy(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert made.largest < 1 << 20


class Allocations(TorchDispatchMode):
    """Records the tensors that are allocated.

    largest  bytes of the largest tensor that was made in memory meanwhile
    """

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.device.type != "meta":
            self.largest = max(self.largest, made.untyped_storage().nbytes())
        return made


def test_an_allocation_is_detected():
    with Allocations() as made:
        torch.zeros(1 << 20)
        torch.zeros(1 << 40, device="meta")
    assert made.largest == 4 << 20
