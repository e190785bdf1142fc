"""The Python interface: train, load a policy, evaluate it; resume is in resuming.py."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv
from torch import nn

from fastdqn.builders import agent, build
from fastdqn.builders.auto_options import EVAL_MAX_STEPS
from fastdqn.builders.environments import EVAL_LANES
from fastdqn.builders.user_objects import checked, not_what_is_asked
from fastdqn.config.presets import PRESETS, defaults_of
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import (
    EnvRecipe,
    EnvStream,
    Factory,
    Step,
    limit_of,
)
from fastdqn.envs.watchdog import watch, watch_making
from fastdqn.files.run_folder import default_run_dir, working_folder
from fastdqn.logging.console import run_display
from fastdqn.replay import Batch
from fastdqn.seeding import AUDIT, env_seed, seed_global_generators
from fastdqn.session import Trained, run_session
from fastdqn.system.cpu_limits import usable_cores
from fastdqn.system.signals import passed_on
from fastdqn.training.evaluation import Evaluation
from fastdqn.training.evaluation import evaluate as run_episodes
from fastdqn.training.loop import Hooks
from fastdqn.training.progress import Progress


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
    resume: Literal["never", "auto"] = "never",
    imports_seconds: float = 0.0,
    seed_globals: bool = False,
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
    seed_globals  seed the global generators of Python, NumPy and torch first, as the command line
            does: environments that draw from them then give the same in each run
    resume  auto: go on with the run in run_dir if there is one, from its last checkpoint, else
            begin it; a finished run is returned as it is. Other options than the run's are a
            ConfigError, but for a larger total_timesteps
    overrides  options of Config by name: num_envs=64, seed=2

    SIGINT, SIGTERM and SIGHUP end the run in order, where it runs in the main thread; then they do
    what they would have done without it: SIGINT raises KeyboardInterrupt, SIGTERM ends the process,
    or the handlers that were there before are called.
    What hooks are given is lent: it is overwritten afterwards. The time of the first two is the
    phase 'hooks', that of on_evaluation a part of 'evaluate'.
    Raises ConfigError with all mistakes, a line each; EnvError where an environment raises or
    dies, NonFiniteError and DivergedError where numbers stop being finite, with the run's record
    complete up to there.
    """
    if isinstance(envs, str):
        overrides["env_id"], envs = envs, None
    if isinstance(overrides.get("run_dir"), os.PathLike):
        overrides["run_dir"] = os.fspath(overrides["run_dir"])
    if lines := not_what_is_asked(config, envs, eval_envs, torso):
        raise ConfigError(lines)
    config = preset(config) if isinstance(config, str) else config
    base = working_folder()  # an environment may change it
    if resume == "auto":
        from fastdqn.auto_resume import train_or_resume

        return train_or_resume(
            config, envs, eval_envs, torso, Hooks(on_step, on_update, on_evaluation), overrides,
            quiet, imports_seconds, seed_globals,
        )  # fmt: skip
    if resume != "never":
        raise ConfigError([f"resume is {resume!r}: it must be never or auto"])
    config = checked(config, envs, eval_envs, overrides)
    config = config.replace(run_dir=str(base / (config.run_dir or default_run_dir(config))))

    hooks = Hooks(on_step, on_update, on_evaluation)
    if seed_globals:
        seed_global_generators(config.seed)
    with passed_on():
        session = build.build(config, run_display(quiet), envs, eval_envs, torso, hooks)
        return run_session(session, imports_seconds)


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
    return agent.load_policy(weights_path(run, weights), torso)[0]


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
    if not isinstance(env, str | VectorEnv) and not callable(env):
        raise ConfigError(
            [f"env is no VectorEnv but {type(env).__name__}: give an id, a VectorEnv, or a "
             "function that makes one environment, such as lambda: MyEnv()"]
        )  # fmt: skip
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
    patience: float | None = None,
) -> Evaluation:
    """As evaluate(), on environments made by a recipe; with a render_mode, one after another.

    patience  seconds that making them or a step may take, None: for ever
    Raises EnvError where an environment fails, or takes longer.
    """
    with watch_making(str(recipe), patience):
        if render_mode is not None:
            envs = SyncVectorEnv([lambda: recipe.make_one(render_mode=render_mode)])
        else:
            # A process for each lane is dear.
            most = 2 * usable_cores() if recipe.vectorization == "async" else EVAL_LANES
            envs = recipe.for_scores().make(min(episodes, most), seed=env_seed(seed, AUDIT))
    stream = EnvStream(envs)
    with watch(stream.asking, patience):  # closing is a call as well
        try:
            limit = max_steps or limit_of(envs, recipe.max_episode_steps())
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
