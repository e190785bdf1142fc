"""Against: the same environment, network, batch and ratio through Stable-Baselines3, in turns."""

import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

from gymnasium import spaces

from fastdqn.checks import recipe
from fastdqn.config import Config
from fastdqn.measure.figures import Figure
from fastdqn.measure.repeat import Clock, Effort, Rate
from fastdqn.measure.training import measure_training

PEERS = ("sb3",)
# Said beside the figures: what Stable-Baselines3 has no option for.
NOTE = (
    "Stable-Baselines3: plain DQN (no Double, no Dueling), Huber loss, environments one after "
    "another in a DummyVecEnv, one exploration coin for all of them"
)


def measure_against_sb3(
    config: Config, effort: Effort, clock: Clock = time.perf_counter
) -> list[Figure]:
    """Steps/s of ours and of Stable-Baselines3, repeat by repeat in turns.

    config  resolved; raises ImportError where Stable-Baselines3 is not installed
    """
    once = replace(effort, repeats=1)
    run_peer = _sb3_runner(config, effort, clock)
    ours, theirs = [], []
    for _ in range(effort.repeats):
        ours.append(measure_training(config, once, clock=clock).figure.rate.median)
        theirs.append(run_peer())
    of = {"samples_per_step": float(config.batch_size / config.train_frequency)}
    return [
        Figure(
            "train",
            "train_steps_per_second",
            Rate.over(ours, len(ours)),
            {"program": "fastdqn", **of},
        ),
        Figure(
            "train",
            "train_steps_per_second",
            Rate.over(theirs, len(theirs)),
            {"program": "sb3", **of},
        ),
    ]


def _sb3_runner(config: Config, effort: Effort, clock: Clock) -> Callable[[], float]:
    """A call that trains for effort.seconds and returns steps/s; warm already."""
    from stable_baselines3 import DQN  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.callbacks import BaseCallback  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.vec_env import DummyVecEnv  # pyright: ignore[reportMissingImports]

    class Stopwatch(BaseCallback):
        """Ends learn() when the time is over, at the earliest after the first update."""

        def __init__(self, seconds: float):
            super().__init__()
            self.seconds, self.began, self.ended, self.first = seconds, 0.0, 0.0, 0

        def _on_training_start(self) -> None:
            self.began, self.first = clock(), self.num_timesteps

        def _on_step(self) -> bool:
            self.ended = clock()
            return self.ended - self.began < self.seconds or not self.model._n_updates  # pyright: ignore[reportAttributeAccessIssue]

    how = recipe(config)
    envs = DummyVecEnv([how.make_one] * config.num_envs)
    model = DQN(_policy_of(envs.observation_space), envs, **sb3_options(config))

    def learn(seconds: float) -> float:
        watch = Stopwatch(seconds)
        model.learn(1 << 40, callback=watch, log_interval=None, reset_num_timesteps=False)  # pyright: ignore[reportArgumentType]
        return (watch.num_timesteps - watch.first) / (watch.ended - watch.began)

    learn(effort.burn_in)
    return lambda: learn(effort.seconds)


def _policy_of(space: spaces.Space) -> str:
    return "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"


def sb3_options(config: Config) -> dict[str, Any]:
    """Our options in Stable-Baselines3's words: the same samples per step, exactly."""
    # Every `calls` calls of all environments, `updates` updates.
    ratio = Fraction(config.train_frequency) / config.num_envs
    total = config.total_timesteps or 100_000
    return {
        "learning_rate": config.learning_rate,
        "buffer_size": config.buffer_size,
        "learning_starts": config.learning_starts,
        "batch_size": config.batch_size,
        "tau": config.tau,
        "gamma": config.gamma,
        "train_freq": ratio.numerator,
        "gradient_steps": ratio.denominator,
        "target_update_interval": config.target_network_frequency,
        "exploration_fraction": min(1.0, config.exploration_fraction * total / (1 << 40)),
        "exploration_initial_eps": config.exploration_initial_eps,
        "exploration_final_eps": config.exploration_final_eps,
        "max_grad_norm": config.max_grad_norm or 1e9,
        "policy_kwargs": {"net_arch": list(config.hidden_sizes)},
        "device": config.device,
        "seed": config.seed,
    }
