"""Comparison with Stable-Baselines3: same environment, network, batch and replay ratio."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

from gymnasium import spaces

from fastdqn.bench.measured_budget import MOST_RANDOM_SECONDS
from fastdqn.bench.repeats import Clock, Effort, Rate
from fastdqn.bench.results import Figure
from fastdqn.bench.training_speed import MOST_RANDOM_STEPS, measure_training
from fastdqn.builders.preflight import recipe
from fastdqn.config.atari_protocols import PROTOCOLS
from fastdqn.config.registry import WORDS
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts


class PeerError(RuntimeError):
    """Raised if Stable-Baselines3 is missing or fails. The message is one line."""


def measure_by_turns(
    config: Config, effort: Effort, run_peer: Callable[[], float], clock: Clock = time.perf_counter
) -> list[Figure]:
    """Measures steps/s of fastdqn and of Stable-Baselines3, in turns.

    Args:
        config: Resolved options.
        effort: Duration of each measurement.
        run_peer: Function from sb3_peer().
        clock: Returns seconds.
    """
    once = replace(effort, repeats=1)
    ours, theirs = [], []
    for _ in range(effort.repeats):
        ours.append(measure_training(config, once, clock=clock).figure.rate.median)
        theirs.append(run_peer())
    of = {"samples_per_step": float(config.batch_size / config.train_frequency)}
    return [
        Figure("train", "train_steps_per_second", Rate.over(rates, len(rates)),
               {"program": program, **of})
        for program, rates in (("fastdqn", ours), ("sb3", theirs))
    ]  # fmt: skip


@contextlib.contextmanager
def sb3_peer(
    config: Config, effort: Effort, clock: Clock = time.perf_counter
) -> Iterator[Callable[[], float]]:
    """Yields a function that trains for effort.seconds and returns steps/s, after burn-in.

    Args:
        config: Resolved options.
        effort: Duration of burn-in and of each call.
        clock: Returns seconds.

    Raises:
        PeerError: Stable-Baselines3 is missing or fails. The function raises it, too.
    """
    with contextlib.ExitStack() as ended:
        with _one_line_errors():
            learn = _make_sb3(config, ended, clock)
            learn(effort.burn_in)

        def run() -> float:
            with _one_line_errors():
                return learn(effort.seconds)

        yield run


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of the library, or of an environment
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PeerError(f"Stable-Baselines3 cannot train this: {reason}") from error


def _make_sb3(
    config: Config, ended: contextlib.ExitStack, clock: Clock
) -> Callable[[float], float]:
    """Returns a function that trains for given seconds, at least to the first update."""
    from stable_baselines3 import DQN  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.callbacks import BaseCallback  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.vec_env import DummyVecEnv  # pyright: ignore[reportMissingImports]

    class Stopwatch(BaseCallback):
        """Ends learn() when the time is over, but not before the first update."""

        def __init__(self, seconds: float):
            super().__init__()
            self.seconds, self.began, self.ended, self.first = seconds, 0.0, 0.0, 0

        def _on_training_start(self) -> None:
            self.began, self.first = clock(), self.num_timesteps

        def _on_step(self) -> bool:
            self.ended = clock()
            model: Any = self.model
            if self.ended - self.began >= MOST_RANDOM_SECONDS:  # as in measured_budget.py
                model.learning_starts = min(model.learning_starts, self.num_timesteps)
            return self.ended - self.began < self.seconds or not model._n_updates

    how = recipe(config)
    envs = DummyVecEnv([how.make_one] * config.num_envs)
    ended.callback(_close, envs)
    model = DQN(_policy_of(envs.observation_space), envs, **sb3_options(config))

    def learn(seconds: float) -> float:
        watch = Stopwatch(seconds)
        model.learn(1 << 40, callback=watch, log_interval=None, reset_num_timesteps=False)  # pyright: ignore[reportArgumentType]
        return (watch.num_timesteps - watch.first) / (watch.ended - watch.began)

    return learn


def _close(envs: Any) -> None:
    with contextlib.suppress(Exception):  # an error of the environment after the measurement
        envs.close()


def _policy_of(space: spaces.Space) -> str:
    return "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"


def sb3_options(config: Config) -> dict[str, Any]:
    """Converts options to arguments of Stable-Baselines3, with equal samples per step."""
    # train_freq counts steps of all environments at once.
    ratio = Fraction(config.train_frequency) / config.num_envs
    total = config.total_timesteps or 100_000
    assert config.hidden_sizes is not None
    return {
        "learning_rate": config.learning_rate,
        "buffer_size": config.buffer_size,
        "learning_starts": min(config.learning_starts, MOST_RANDOM_STEPS),
        "batch_size": config.batch_size,
        "tau": config.tau,
        "gamma": config.gamma,
        "n_steps": config.n_steps,
        "train_freq": ratio.numerator,
        "gradient_steps": ratio.denominator,
        "target_update_interval": config.target_network_frequency,
        "exploration_fraction": min(1.0, config.exploration_fraction * total / (1 << 40)),
        "exploration_initial_eps": config.exploration_initial_eps,
        "exploration_final_eps": config.exploration_final_eps,
        "max_grad_norm": config.max_grad_norm or 1e9,
        "policy_kwargs": {
            "net_arch": list(config.hidden_sizes),
            "optimizer_kwargs": {"eps": config.adam_epsilon},
        },
        "device": config.device,
        "seed": config.seed,
    }


def refusal(config: Config, facts: EnvFacts) -> str | None:
    """Returns a line on what Stable-Baselines3 cannot do, with flags that turn it off, or None.

    Its measurement would be one of other work: other networks, losses or samples.

    Args:
        config: Resolved options.
        facts: Spaces of the environment.
    """
    lacking = {
        "no Double (--no-double)": config.double and not config.munchausen,
        "no Dueling (--no-dueling)": config.dueling,
        f"the maximum, not {config.backup}": config.backup not in WORDS["backup"],
        "only the Huber loss (--loss huber)": config.loss != "huber",
        f"Adam, not {config.optimizer} (--optimizer adam)": config.optimizer != "adam",
        "a constant learning rate (--learning-rate-schedule constant)": (
            config.learning_rate_schedule != "constant"
        ),
        f"ReLU, not {config.hidden_activation} (--hidden-activation relu)": (
            config.hidden_activation != "relu"
        ),
        "always a replay buffer (--replay)": not config.replay,
        "always a target network (--target-network)": not config.target_network,
        "no prioritized replay (--no-prioritized)": config.prioritized,
        f"uniform samples, not {config.sampler}": (
            config.sampler not in ("auto", "uniform", "prioritized", "newest")
        ),
        f"scalar values, not {config.value} (--value scalar)": config.value != "scalar",
        "no Munchausen (--no-munchausen)": config.munchausen,
        "no noisy layers (--no-noisy)": config.noisy,
        "no normalization of observations (--no-normalize-observation)": (
            config.normalize_observation
        ),
        "no normalization of rewards (--no-normalize-reward)": config.normalize_reward,
        f"other convolutions than {config.torso}": config.torso not in ("auto", "mlp"),
        "other layers for pixels": config.torso in ("auto", "mlp") and len(facts.obs_shape) > 1,
        f"no protocol {config.atari_protocol}": config.atari_protocol in PROTOCOLS,
        "no action masks (a --wrapper that removes them, if every action can be taken)": (
            facts.has_masks
        ),
        "one epsilon for all environments, not a ladder (--exploration schedule)": (
            config.exploration == "ladder"
        ),
        f"a linear decay of epsilon, not {config.exploration}": (
            config.exploration not in WORDS["exploration"]
        ),
        "epsilon decays by steps, not by episodes": config.exploration_decay is not None,
        "no repeated random actions": config.exploration_zeta is not None,
        "a new network and an empty buffer (no --init-weights, --from, --prefill, --offline)": (
            config.init_weights is not None
            or config.from_run is not None
            or bool(config.prefill)
            or config.offline
        ),
        f"all environments waited for, not {config.env_batch_size}": (
            config.env_batch_size not in (None, config.num_envs)
        ),
    }
    found = [text for text, holds in lacking.items() if holds]
    if not found:
        return None
    return f"Stable-Baselines3 cannot do the same work: {', '.join(found)}"


def note(config: Config) -> str:
    """Returns a line that lists the differences of Stable-Baselines3, for resolved options.

    They change how the same work is done, see refusal() for the others.
    """
    n, every = config.num_envs, config.target_network_frequency
    theirs = max(every // n, 1) * n
    differences = {
        "gradient norm computed, though not clipped": (config.max_grad_norm is None),
        "one random decision to explore for all environments": n > 1,
        "no forward pass for a random action": True,
        "environments stepped in sequence in a DummyVecEnv": True,
        "updates not compiled": config.capture != "eager",
        f"its own precision, not {config.precision}": (config.precision not in ("auto", "float32")),
        "one update per launch": config.updates_per_launch not in (None, 1),
        "updates by autograd, not by one kernel": config.learner == "fused",
        f"target every {theirs} steps": theirs != every,
    }
    return "Stable-Baselines3: " + ", ".join(text for text, holds in differences.items() if holds)
