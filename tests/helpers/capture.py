"""For tests of captured calls: every kind of update, small learners and batches."""

import numpy as np
import torch
from torch import nn

from fastdqn import Config
from fastdqn.bench.synthetic_data import random_obs
from fastdqn.builders import agent
from fastdqn.builders.parts import UserParts
from fastdqn.envs import EnvFacts
from fastdqn.learning.graph_capture import Graphs, eager
from fastdqn.learning.learner import Learner
from fastdqn.replay.batch import Batch
from helpers.graphs import TracedRecorder

CPU = torch.device("cpu")
FACTS = EnvFacts((5,), np.dtype(np.float32), 1.0, 3, 0)
PICTURES = EnvFacts((4, 36, 36), np.dtype(np.uint8), 1 / 255, 3, 0)
VALUES = {
    "scalar": {},
    "huber": {"loss": "huber"},
    "categorical": {"value": "categorical", "num_atoms": 7},
    "quantile": {"value": "quantile", "num_quantiles": 5},
    "implicit": {
        "value": "implicit-quantile", "num_fractions": 3, "num_target_fractions": 4,
        "num_policy_fractions": 5,
    },
    "hl-gauss": {"value": "hl-gauss", "num_atoms": 7},
}  # fmt: skip
OTHERS = {
    "plain": {"dueling": False, "double": False},
    "dueling": {},
    "noisy": {"noisy": True},
    "polyak": {"tau": 0.1, "target_network_frequency": 4},
    "no-target": {"target_network": False},
    "munchausen": {"munchausen": True},
}
EVERY = [
    {**value, **other}
    for name, value in VALUES.items()
    for kind, other in OTHERS.items()
    if (name, kind) != ("categorical", "munchausen")
]


class Reads(nn.Module):
    """A torso that reads a value on the host, or uses one as a shape."""

    def __init__(self, how: str):
        super().__init__()
        self.layer, self.how = nn.Linear(5, 4), how

    def forward(self, obs):
        x = self.layer(obs)
        if self.how == "item":
            return x * obs.sum().item()
        if self.how == "branch":
            return x if obs.sum() > -1e9 else -x
        if self.how == "numpy":
            return x + float(obs.detach().numpy().sum())
        x[obs[:, :4].detach().abs() < -1.0].sum()
        return x


def config_of(**options) -> Config:
    asked = {
        "device": "cpu", "learner": "torch", "capture": "eager", "batch_size": 6,
        "hidden_sizes": (9, 8), "target_network_frequency": 40, "torso": "mlp",
        "learning_rate": 0.01,
    }  # fmt: skip
    return Config().replace(**(asked | options))


def learner_of(capture=eager, facts=FACTS, torso=None, way="eager", **options) -> Learner:
    config = config_of(**options, capture=way)
    online, _ = agent.make_online(config, facts, UserParts(torso))
    return agent.make_learner(config, online, capture)


def batches_of(count: int, seed: int = 0, facts=FACTS, size: int = 6) -> list[Batch]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        obs, next_obs = random_obs(rng, 2 * size, facts.obs_shape, facts.obs_dtype).reshape(
            2, size, *facts.obs_shape
        )
        arrays = Batch(
            obs, rng.integers(facts.num_actions, size=size), rng.normal(size=size),
            np.full(size, 0.9), next_obs, rng.random(size), np.arange(size),
        )  # fmt: skip
        made.append(Batch(*map(torch.from_numpy, map(_single, arrays[:7]))))
    return made


def _single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float64 else array


def graphs(said=None) -> Graphs:
    return Graphs(TracedRecorder(), [].append if said is None else said.append)
