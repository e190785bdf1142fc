"""The newest observation of an environment in the replay is the one that its action is chosen for.

A replay on a device relies on it: acting reads the observations there. Here it is checked with
replays of the host.
"""

import gymnasium
import numpy as np
import pytest

import fastdqn
from fastdqn.learning.policy import Policy
from fastdqn.replay import Replay
from fastdqn.replay.row_store import HostStore


class Stacked(gymnasium.Env):
    """Random frames in episodes of random lengths, some cut and some terminated."""

    observation_space = gymnasium.spaces.Box(0, 255, (5, 5), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._left = int(self.np_random.integers(1, 9))
        return self._obs(), {}

    def step(self, action):
        self._left -= 1
        ends = self._left == 0
        return self._obs(), 0.0, ends and action == 0, ends, {}

    def _obs(self):
        return self.np_random.integers(0, 256, (5, 5), dtype=np.uint8)


def stacks():
    return gymnasium.wrappers.FrameStackObservation(Stacked(), 4)


@pytest.fixture
def acted(monkeypatch):
    """Compares the observations of all calls of the policy with the replay's. Yields counts."""
    newest, act = {}, Policy.act
    counts = []
    monkeypatch.setattr(HostStore, "on_device", True)
    whole = Replay.newest

    def remembered(self, lanes):
        newest["replay"] = self
        return whole(self, lanes)

    def compared(self, obs, epsilon, mask=None, lanes=None, slots=None):
        assert slots is not None
        store = newest["replay"].store
        found = np.empty((len(slots), *store.obs_shape), store.obs_dtype)
        store.gather(slots, found)
        np.testing.assert_array_equal(found, obs)
        counts.append(len(obs))
        return act(self, obs, epsilon, mask, lanes)

    monkeypatch.setattr(Replay, "newest", remembered)
    monkeypatch.setattr(Policy, "act", compared)
    return counts


OPTIONS = {
    "num_envs": 4, "total_timesteps": 400, "learning_starts": 50, "train_frequency": 8,
    "batch_size": 8, "hidden_sizes": (8,), "learner": "torch", "capture": "eager",
    "buffer_size": 60, "n_steps": 2, "eval_frequency": 0, "tensorboard": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("make_env", "options"),
    [
        (None, {"env_id": "CartPole-v1"}),
        (None, {"env_id": "CartPole-v1", "vectorization": "sync"}),
        (None, {"env_id": "Taxi-v4"}),
        (stacks, {"torso": "mlp"}),
        (stacks, {"torso": "mlp", "vectorization": "async", "env_batch_size": 2}),
        (stacks, {"torso": "mlp", "vectorization": "workers", "workers": 2}),
    ],
    ids=["compiled", "sync", "masks", "stacks", "async, two at a time", "workers"],
)
def test_actions_are_chosen_for_the_newest_observations(tmp_path, acted, make_env, options):
    config = fastdqn.Config(**OPTIONS, **options, run_dir=str(tmp_path / "run"))
    given = () if make_env is None else (make_env,)
    fastdqn.train(config, *given, on_step=lambda progress, step: progress.steps < 200)
    before = sum(acted)
    assert before >= 190
    fastdqn.resume(tmp_path / "run", *given)
    assert sum(acted) >= before + 190
