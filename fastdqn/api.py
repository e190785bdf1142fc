"""The Python interface: train, load a policy, evaluate it; resume is in resuming.py."""

import contextlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from torch import nn

from fastdqn import build, checks, parts
from fastdqn.acting import (
    EnvRecipe,
    EnvStream,
    Factory,
    Step,
    answers_for,
    limit_of,
    read_facts,
)
from fastdqn.atari import PROTOCOLS
from fastdqn.config import Config, ConfigError
from fastdqn.engine.evaluate import Evaluation
from fastdqn.engine.evaluate import evaluate as run_episodes
from fastdqn.engine.local import Hooks
from fastdqn.engine.progress import Progress
from fastdqn.presets import PRESETS, defaults_of
from fastdqn.record.console import make_display
from fastdqn.replay import Batch
from fastdqn.resolve import EVAL_MAX_STEPS
from fastdqn.seeds import AUDIT, env_seed
from fastdqn.session import run_session
from fastdqn.streams import EVAL_LANES
from fastdqn.timing import usable_cores


class Trained(NamedTuple):
    """folder of the run, and what its summary.json holds."""

    folder: Path
    summary: dict[str, Any]


def train(
    config: Config | str,
    envs: VectorEnv | Factory | str | None = None,
    *,
    eval_envs: VectorEnv | None = None,
    torso: nn.Module | None = None,
    on_step: Callable[[Progress, Step], Any] | None = None,
    on_update: Callable[[Progress, Batch, Any], Any] | None = None,
    on_evaluation: Callable[[int, str, Evaluation], Any] | None = None,
    quiet: bool = True,
    imports_seconds: float = 0.0,
    **overrides,
) -> Trained:
    """Train an agent and write its run folder.

    config  a Config, the name of a preset, or the id of a registered environment
    envs    in place of config.env_id: another id; a function that makes one environment (its
            lanes are made as for an id, env_kwargs and wrapper included); or a VectorEnv, which
            is evaluated only on eval_envs, if you give some, and which you close
    torso   nn.Module from observations [B, *] float32 to features [B, F], in place of the MLP;
            bytes that span 0 to 255 reach it scaled to [0, 1], so it must not divide again;
            it is copied, must be all float32 (no BatchNorm: its counter is not), and must not
            write to its input
    on_step        called with (progress, step) after each delivery of the environments: progress
                   counts .steps .episodes .updates, step is a Step; returning False ends the run
    on_update      called with (progress, batch, priority) after each update: Batch of tensors,
                   absolute errors [B]
    on_evaluation  called with (steps, kind, evaluation) after each: kind is eval, confirm, final
    quiet   False: show progress
    overrides  options of Config by name: num_envs=64, seed=2

    What hooks are given is lent: it is overwritten afterwards. The time of the first two is the
    phase 'hooks', that of on_evaluation a part of 'evaluate'.
    Raises ConfigError with all mistakes, a line each; EnvError where an environment raises or
    dies, NonFiniteError and DivergedError where numbers stop being finite, with the run's record
    complete up to there.
    """
    if isinstance(envs, str):
        overrides["env_id"], envs = envs, None
    if lines := _not_what_is_asked(config, envs, eval_envs, torso):
        raise ConfigError(lines)
    config = preset(config) if isinstance(config, str) else config
    facts, lines = None, []
    if isinstance(envs, VectorEnv):
        overrides = _as_made(envs, config, overrides)
    config = config.replace(**overrides)
    if isinstance(envs, VectorEnv):
        lines = _given_problems(config, envs, eval_envs)
        try:
            facts = read_facts(envs)
        except ValueError as error:
            raise ConfigError([*config.problems(), *lines, str(error)]) from None
    factory = None if isinstance(envs, VectorEnv) else envs
    if lines := [*lines, *checks.check(config, facts, factory)]:
        raise ConfigError(lines)
    config = _labelled(config, envs)

    def display(resolved: Config):
        return make_display(f"fastdqn  {resolved.env_id}  {resolved.preset}", quiet)

    hooks = Hooks(on_step, on_update, on_evaluation)
    session = build.build(config, display, envs, eval_envs, torso, hooks)
    session.startup.totals["imports"] = imports_seconds
    with contextlib.closing(session):
        return Trained(session.recorder.folder, run_session(session))


def _as_made(envs: VectorEnv, config: Config, overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides, with what ready environments say of themselves where nobody else does."""
    said: dict[str, Any] = {"num_envs": envs.num_envs}
    if isinstance(envs, AsyncVectorEnv):
        said["vectorization"] = "async"
    elif overrides.get("env_batch_size", config.env_batch_size) == answers_for(envs):
        overrides = overrides | {"env_batch_size": None}  # it is how they were made
    return said | overrides


def _not_what_is_asked(config: Any, envs: Any, eval_envs: Any, torso: Any) -> list[str]:
    """What was handed in as options, environments or torso and is none."""
    lines = []
    if not isinstance(config, Config | str):
        lines.append(
            f"the first argument is a Config, a preset or an id, not {type(config).__name__}: "
            "environments come second, as in train(Config(), lambda: env)"
        )
    if torso is not None and not isinstance(torso, nn.Module):
        lines.append(f"torso is no nn.Module but {torso!r}: give an instance, MyTorso()")
    if envs is not None and not isinstance(envs, VectorEnv) and not callable(envs):
        lines.append(
            f"envs is no VectorEnv but {type(envs).__name__}: give one, or a function that makes "
            "one environment, such as lambda: env"
        )
    if eval_envs is not None and not isinstance(eval_envs, VectorEnv):
        lines.append(
            f"eval_envs is no VectorEnv but {type(eval_envs).__name__}: "
            "gymnasium.vector.SyncVectorEnv([lambda: env]) makes one"
        )
    return lines


def _labelled(config: Config, envs: VectorEnv | Factory | None) -> Config:
    """The default id would be a lie about environments that were handed in: take their name."""
    if envs is None or config.env_id != Config.env_id:
        return config
    if isinstance(envs, VectorEnv):
        spec_id = getattr(envs.spec, "id", None)
        return config.replace(env_id=spec_id or type(envs.unwrapped).__name__)
    return config.replace(env_id=getattr(envs, "__name__", type(envs).__name__).strip("<>"))


def _given_problems(config: Config, envs: VectorEnv, eval_envs: VectorEnv | None) -> list[str]:
    """What contradicts the environments that were handed in."""
    lines = []
    if config.num_envs != envs.num_envs:
        lines.append(f"num_envs is {config.num_envs}, but the given envs are {envs.num_envs}")
    if config.wrapper or config.env_kwargs or config.atari_protocol in PROTOCOLS:
        lines.append(
            "wrapper, env_kwargs and atari_protocol are for environments that are made here: hand "
            "in a function that makes one, or wrap the given envs yourself"
        )
    if eval_envs is not None and eval_envs.unwrapped is envs.unwrapped:
        lines.append("eval_envs are the envs: evaluating would reset the training's episodes")
    if config.restart_lanes:
        lines.append(
            f"restart_lanes is {config.restart_lanes}: hand in a function that makes one "
            "environment; lanes of given envs are not ours to restart"
        )
    if config.env_batch_size is not None:
        try:
            EnvStream(envs, config.env_batch_size)
        except ValueError as error:
            lines.append(str(error))
    if eval_envs is not None and answers_for(eval_envs) < eval_envs.num_envs:
        lines.append(
            f"eval_envs answer for {answers_for(eval_envs)} of {eval_envs.num_envs} lanes at a "
            "time: an evaluation needs all of them together, so make them without a batch_size"
        )
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
    """The settings of a preset, or those that an environment id starts from.

    Whether there is such an environment is looked at by train().
    """
    return PRESETS.get(name) or defaults_of(name)


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
    return parts.load_policy(weights_path(run, weights), torso)[0]


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
    policy: Callable[..., np.ndarray],
    env: str | VectorEnv | Factory,
    *,
    episodes: int = 100,
    max_steps: int | None = None,
    seed: int = 0,
    **env_kwargs,
) -> Evaluation:
    """Run greedy episodes in parallel, none favoured for being short.

    policy     obs [N, *] to actions [N], counted from 0; where the environment gives action
               masks and the policy takes a second argument, it is the mask [N, A] bool
    env        a registered id, a function that makes one, or a VectorEnv, which stays open
    max_steps  cap on an episode; None: the environment's own limit, else 27,000
    env_kwargs of the environment's constructor
    """
    if isinstance(env, VectorEnv):
        return _evaluate(policy, EnvStream(env), episodes, max_steps or limit_of(env), seed)
    render = env_kwargs.pop("render_mode", None)
    return evaluate_recipe(
        policy, EnvRecipe(env, kwargs=env_kwargs), episodes=episodes, max_steps=max_steps,
        seed=seed, render_mode=render,
    )  # fmt: skip


def evaluate_recipe(
    policy: Callable[..., np.ndarray],
    recipe: EnvRecipe,
    *,
    episodes: int,
    max_steps: int | None,
    seed: int,
    render_mode: str | None = None,
) -> Evaluation:
    """As evaluate(), on environments made by a recipe; with a render_mode, one after another."""
    if render_mode is not None:
        envs = SyncVectorEnv([lambda: recipe.make_one(render_mode=render_mode)])
    else:
        # A process for each lane is dear.
        most = 2 * usable_cores() if recipe.vectorization == "async" else EVAL_LANES
        envs = recipe.for_scores().make(min(episodes, most), seed=env_seed(seed, AUDIT))
    stream = EnvStream(envs)
    try:
        limit = max_steps or recipe.max_episode_steps() or limit_of(envs)
        return _evaluate(policy, stream, episodes, limit, seed)
    finally:
        stream.close()


def _evaluate(policy, stream: EnvStream, episodes: int, limit: int | None, seed: int) -> Evaluation:
    if stream.num_ready < stream.num_lanes:
        raise ValueError(
            f"the environments answer for {stream.num_ready} of {stream.num_lanes} lanes at a "
            "time: an evaluation needs all of them together"
        )
    takes_masks = _takes_masks(policy)

    def act(obs, mask=None):
        return policy(obs, mask) if takes_masks else policy(obs)

    return run_episodes(act, stream, episodes, limit or EVAL_MAX_STEPS, env_seed(seed, AUDIT))


def _takes_masks(policy: Callable[..., np.ndarray]) -> bool:
    """Whether a policy of anyone's can be called with (obs, mask)."""
    try:
        inspect.signature(policy).bind(None, None)
    except (TypeError, ValueError):
        return False
    return True
