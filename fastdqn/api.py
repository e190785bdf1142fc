"""The Python interface: train, load a policy, evaluate it."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv
from torch import nn

from fastdqn import build, checks
from fastdqn.acting import (
    EnvStream,
    find_spec,
    make_envs,
    nearest,
    read_spaces,
    registered,
)
from fastdqn.config import Config, ConfigError
from fastdqn.engine.evaluate import Evaluation
from fastdqn.engine.evaluate import evaluate as run_episodes
from fastdqn.presets import PRESETS
from fastdqn.record.console import make_display
from fastdqn.seeds import AUDIT, env_seed
from fastdqn.session import run_session


class Trained(NamedTuple):
    """folder of the run, and what its summary.json holds."""

    folder: Path
    summary: dict[str, Any]


def train(
    config: Config | str,
    envs: VectorEnv | None = None,
    *,
    eval_envs: VectorEnv | None = None,
    torso: nn.Module | None = None,
    quiet: bool = True,
    imports_seconds: float = 0.0,
    **overrides,
) -> Trained:
    """Train an agent and write its run folder.

    config  a Config, the name of a preset, or the id of a registered environment
    envs    a VectorEnv of yours in place of config.env_id, which then only labels the run;
            it is evaluated only on eval_envs, if you give some. The caller closes both.
    torso   nn.Module from observations [B, *] float32 to features [B, F], in place of the MLP;
            bytes that span 0 to 255 reach it scaled to [0, 1], so it must not divide again;
            it is copied, must be all float32 (no BatchNorm: its counter is not), and must not
            write to its input
    overrides  options of Config by name: num_envs=64, seed=2

    Raises ConfigError with all mistakes, a line each; NonFiniteError and DivergedError where
    numbers stop being finite, with the run's record complete up to there.
    """
    config = preset(config) if isinstance(config, str) else config
    for name, given in (("envs", envs), ("eval_envs", eval_envs)):
        if given is not None and not isinstance(given, VectorEnv):
            raise ConfigError(
                [f"{name} is no VectorEnv: gymnasium.vector.SyncVectorEnv([lambda: env]) makes one"]
            )
    if envs is not None:
        overrides.setdefault("num_envs", envs.num_envs)
    config = config.replace(**overrides)
    contradictions = _given_problems(config, envs, eval_envs)
    spaces = None
    try:
        if envs is not None:
            spaces = read_spaces(envs.single_observation_space, envs.single_action_space)
    except ValueError as error:
        raise ConfigError([*config.problems(), *contradictions, str(error)]) from None
    if lines := [*contradictions, *checks.check(config, spaces)]:
        raise ConfigError(lines)

    def display(resolved: Config):
        return make_display(f"fastdqn  {resolved.env_id}  {resolved.preset}", quiet)

    session = build.build(config, display, envs, eval_envs, torso)
    session.startup.totals["imports"] = imports_seconds
    with contextlib.closing(session):
        return Trained(session.recorder.folder, run_session(session))


def _given_problems(
    config: Config, envs: VectorEnv | None, eval_envs: VectorEnv | None
) -> list[str]:
    """What contradicts the environments that were handed in."""
    if envs is None:
        return []
    lines = []
    if config.num_envs != envs.num_envs:
        lines.append(f"num_envs is {config.num_envs}, but the given envs are {envs.num_envs}")
    if eval_envs is not None and eval_envs.unwrapped is envs.unwrapped:
        lines.append("eval_envs are the envs: evaluating would reset the training's episodes")
    if eval_envs is not None and (
        eval_envs.single_observation_space != envs.single_observation_space
        or eval_envs.single_action_space != envs.single_action_space
    ):
        lines.append("eval_envs have other spaces than envs: both must have the same")
    if eval_envs is None and config.stop_at_return is not None:
        lines.append(
            f"stop_at_return is {config.stop_at_return}, but given envs are evaluated only on "
            "eval_envs: pass some, or stop_at_return=None"
        )
    return lines


def preset(name: str) -> Config:
    """The settings of a preset, or the defaults for an environment id.

    Raises ConfigError with the nearest names where it is neither.
    """
    if name in PRESETS:
        return PRESETS[name]
    try:
        find_spec(name)
    except ValueError as error:
        near = " or ".join(filter(None, (nearest(name, PRESETS), nearest(name, registered()))))
        if ":" in name or not near:
            raise ConfigError([str(error)]) from None
        line = f"no preset or environment is called {name!r}: did you mean {near}?"
        raise ConfigError([line]) from None
    return Config(env_id=name)


def load_policy(
    run: str | Path, *, weights: str = "best", torso: nn.Module | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Load the greedy policy of a run folder, or of a .safetensors file.

    It takes obs [N, *] and gives actions [N] int64 counted from 0: where an environment's
    Discrete space starts elsewhere, add its start.
    weights  best: by evaluation, the last if there was none · last
    torso    a module of the shape that the run was trained with, if it was one of yours
    Raises WeightsError, one line, where the file cannot be used.
    """
    return build.load_policy(weights_path(run, weights), torso)[0]


def weights_path(run: str | Path, weights: str = "best") -> Path:
    """The weights file of a run folder; weights is best or last, else ValueError."""
    path = Path(run)
    if path.is_file() or path.suffix == ".safetensors":
        return path
    if weights not in ("best", "last"):
        raise ValueError(f"weights is {weights!r}: it must be best or last")
    best = path / "best.safetensors"
    return best if weights == "best" and best.exists() else path / "policy.safetensors"


def evaluate(
    policy: Callable[[np.ndarray], np.ndarray],
    env: str | VectorEnv,
    *,
    episodes: int = 100,
    max_steps: int | None = None,
    seed: int = 0,
    **env_kwargs,
) -> Evaluation:
    """Run greedy episodes in parallel, none favoured for being short.

    policy     obs [N, *] to actions [N], counted from 0
    env        a registered id, or a VectorEnv, which stays open
    max_steps  cap on an episode; None: the environment's own limit, else 27,000
    """
    if isinstance(env, str):
        lanes = 1 if "render_mode" in env_kwargs else min(episodes, build.EVAL_LANES)
        envs = make_envs(env, lanes, "sync" if lanes == 1 else "auto", **env_kwargs)
        limit = find_spec(env).max_episode_steps
    else:
        envs, limit = env, getattr(env.spec, "max_episode_steps", None)
    try:
        return run_episodes(
            policy, EnvStream(envs), episodes, max_steps or limit or build.EVAL_MAX_STEPS,
            env_seed(seed, AUDIT),
        )  # fmt: skip
    finally:
        if isinstance(env, str):
            envs.close()
