"""Environments and DQN arguments for Stable-Baselines3 and SBX."""

# The extra `peers` may not be installed for the type checker.
# pyright: reportMissingImports=false, reportPrivateImportUsage=false

from typing import Any

import gymnasium
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from peers import workload as w
from peers.window import Window
from peers.workload import Task


def make_lanes(num_envs: int) -> DummyVecEnv:
    """Creates environments as make_vec_env() does, without the Monitor wrapper for logging."""
    return DummyVecEnv([lambda: gymnasium.make(w.ENV_ID)] * num_envs)


def settings(task: Task) -> dict[str, Any]:
    """Returns the arguments of DQN that both libraries have.

    train_freq counts steps of all environments at once.
    """
    num_envs, burst = task.lanes
    calls, rest = divmod(burst * task.workload.steps_per_update, num_envs)
    if rest:
        raise ValueError(f"{burst} updates do not match whole steps of {num_envs} environments")
    return {
        "learning_rate": w.LEARNING_RATE,
        "buffer_size": w.BUFFER_SIZE,
        "learning_starts": w.LEARNING_STARTS,
        "batch_size": task.workload.batch_size,
        "tau": 1.0,
        "gamma": w.GAMMA,
        "train_freq": calls,
        "gradient_steps": burst,
        "target_update_interval": w.TARGET_FREQUENCY,
        "exploration_fraction": w.EPSILON_STEPS / task.total_steps,
        "exploration_initial_eps": w.INITIAL_EPSILON,
        "exploration_final_eps": w.FINAL_EPSILON,
        "verbose": 0,
        "seed": task.seed,
        "device": "cpu",
    }


class Ticks(BaseCallback):
    """Callback that reports each step to the window, and ends the run when it is closed."""

    def __init__(self, window: Window):
        super().__init__()
        self._window = window

    def _on_step(self) -> bool:
        return not self._window.tick(self.model.num_timesteps, self.model._n_updates)


def learn(model: Any, task: Task, window: Window) -> None:
    """Trains until the window closes, without logging."""
    window.mark("built")
    model.learn(task.total_steps, callback=Ticks(window), log_interval=None)
