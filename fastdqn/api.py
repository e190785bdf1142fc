"""Python interface: train(), load_policy() and evaluate(). resume() is in resuming.py."""

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
from fastdqn.builders.environments import eval_lanes
from fastdqn.builders.parts import UserParts, find_part
from fastdqn.builders.rank_share import rank_seed
from fastdqn.builders.user_object_checks import argument_problems, located, parts_of, prepared
from fastdqn.checkpoints.network_weights import weights_path
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
from fastdqn.files.run_folder import working_folder
from fastdqn.logging.console import run_display
from fastdqn.ranks.process_group import joined
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
    torso: nn.Module | str | None = None,
    on_step: Callable[[Progress, Step], Any] | None = None,
    on_update: Callable[[Progress, Batch, Any], Any] | None = None,
    on_evaluation: Callable[[int, str, Evaluation], Any] | None = None,
    quiet: bool = True,
    resume: Literal["never", "auto"] = "never",
    imports_seconds: float = 0.0,
    seed_globals: bool = False,
    **overrides,
) -> Trained:
    """Trains an agent and writes its run folder.

    In the main thread, SIGINT, SIGTERM and SIGHUP stop the run after a checkpoint. Afterwards they
    have their usual effect: SIGINT raises KeyboardInterrupt, SIGTERM ends the process, and other
    handlers are called.

    Args:
        config: A Config, the name of a preset, or the id of a registered environment.
        envs: Replaces config.env_id: another id, a function that makes one environment, or a
            VectorEnv. A function is vectorized like an id, with env_kwargs and wrapper. A VectorEnv
            stays open, and is evaluated only on eval_envs.
        eval_envs: A VectorEnv for evaluations.
        torso: Module from observations float32[B, *] to features [B, F] that replaces the MLP. It
            is copied. uint8 observations in [0, 255] arrive scaled to [0, 1]. All its state must
            be float32, which excludes BatchNorm. It must not modify its input. A name module:Name
            is an option.
        on_step: Called with (progress, step) after each step of the environments. progress has
            .steps, .episodes and .updates. Returning False stops the run.
        on_update: Called with (progress, batch, priority) after each update, with a Batch of
            tensors and absolute TD errors float32[B]. Both are copies, which it may keep.
        on_evaluation: Called with (steps, kind, evaluation) after each evaluation. kind is eval,
            confirm, final or last.
        quiet: False prints progress.
        resume: auto continues the run in run_dir from its last checkpoint, or starts it. A
            finished run is returned unchanged. Of the options only total_timesteps may differ
            from those of the run, and only increase.
        imports_seconds: Time of the imports, for the startup times in the summary.
        seed_globals: Seeds the global generators of Python, NumPy and torch, which some
            environments use, as the command line does.
        **overrides: Options of Config, such as num_envs=64. Those that name a part (value, loss,
            backup, sampler, optimizer, learning_rate_schedule, exploration) also take a class, a
            function or an object, which is copied.

    Arguments of callbacks are overwritten after the call: copy what you keep. The first two count
    as phase hooks, on_evaluation as part of evaluate.

    Raises:
        ConfigError: All errors in the arguments, a line each.
        EnvError: An environment raises or dies.
        NonFiniteError, DivergedError: Observations, rewards or the loss are not finite. The run
            folder is complete up to there.
    """
    if isinstance(envs, str):
        overrides["env_id"], envs = envs, None
    if isinstance(overrides.get("run_dir"), os.PathLike):
        overrides["run_dir"] = os.fspath(overrides["run_dir"])
    if lines := argument_problems(config, envs, eval_envs, torso):
        raise ConfigError(lines)
    config = preset(config) if isinstance(config, str) else config
    own, overrides = parts_of(torso, overrides)
    overrides = located(config, overrides, working_folder())
    hooks = Hooks(on_step, on_update, on_evaluation)
    base = working_folder()  # an environment may change the working directory
    if resume == "auto":
        from fastdqn.auto_resume import train_or_resume

        return train_or_resume(
            config, envs, eval_envs, own, hooks, overrides, quiet, imports_seconds, seed_globals
        )
    if resume != "never":
        raise ConfigError([f"resume is {resume!r}: it must be never or auto"])
    with passed_on(), joined() as ranks:
        setup = ranks.together(lambda: prepared(config, envs, eval_envs, overrides, own))
        setup = setup.placed_in(ranks.folder(base / setup.config.run_dir))
        if seed_globals:
            seed_global_generators(rank_seed(setup.config.seed, ranks.index))
        display = run_display(quiet or ranks.index > 0)
        session = build.build(setup, display, envs, eval_envs, hooks, ranks=ranks)
        return run_session(session, imports_seconds)


def preset(name: str) -> Config:
    """Returns the options of a preset, or the default options of an environment id.

    train() checks whether the environment exists.
    """
    return PRESETS.get(name) or defaults_of(name)


def load_policy(
    run: str | Path,
    *,
    weights: str = "best",
    torso: nn.Module | None = None,
    value: Any = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """Loads the greedy policy of a run folder or a .safetensors file.

    Args:
        run: Run folder or weights file.
        weights: best is the best in evaluation, or the last without evaluations. last is the last.
        torso: A module of the same architecture, if the run was trained with a torso of yours.
        value: The value of the run, if it was an object of yours, or for a file without its run
            folder. A class, an object, or module:Name.

    Returns:
        A function from observations [N, *] to actions int64[N], counted from 0. Add the start of
        the Discrete space if it is not 0.

    Raises:
        WeightsError: The file cannot be used.
        ConfigError: A part is missing or cannot be made.
    """
    if torso is not None and not isinstance(torso, nn.Module):
        raise ConfigError([f"torso is {torso!r}, not an nn.Module: pass an instance, MyTorso()"])
    objects = {}
    if value is not None:
        objects["value"] = find_part("value", value) if isinstance(value, str) else value
    return agent.load_policy(weights_path(run, weights), UserParts(torso, objects))[0]


def evaluate(
    policy: Callable[..., np.ndarray],
    env: str | VectorEnv | Factory,
    *,
    episodes: int = 100,
    max_steps: int | None = None,
    seed: int = 0,
    **env_kwargs,
) -> Evaluation:
    """Runs greedy episodes in parallel, without a bias towards short ones.

    Args:
        policy: Function from observations [N, *] to actions [N], counted from 0. If it takes a
            second argument, that is the action mask bool[N, A], or None.
        env: Registered id, function that makes one environment, or VectorEnv, which stays open.
        episodes: Number of episodes.
        max_steps: Maximum steps of an episode. None: the environment's own limit, else 27,000.
        seed: Seed of the first episode.
        **env_kwargs: Arguments of the environment's constructor.
    """
    if not isinstance(env, str | VectorEnv) and not callable(env):
        raise ConfigError(
            [f"env is of type {type(env).__name__}: pass an id, a VectorEnv, or a "
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
    started: Callable[[int, int], None] = lambda episodes, max_steps: None,
) -> Evaluation:
    """As evaluate(), on environments of a recipe. With a render_mode, one episode at a time.

    Args:
        started: Receives the number of episodes and the step limit of each before the first one.
        patience: Timeout in seconds of a step and of making environments. None: no timeout.

    Raises:
        EnvError: An environment fails or times out.
    """
    with watch_making(str(recipe), patience):
        if render_mode is not None:
            envs = SyncVectorEnv([lambda: recipe.make_one(render_mode=render_mode)])
        else:
            # Many worker processes cost memory.
            lanes = eval_lanes(recipe, episodes, 2 * usable_cores())
            envs = recipe.for_scores().make(lanes, seed=env_seed(seed, AUDIT))
    stream = EnvStream(envs, info_keys=recipe.info_keys)
    with watch(stream.env_calls, patience):  # close() may hang too
        try:
            limit = max_steps or limit_of(envs, recipe.max_episode_steps())
            started(episodes, limit or EVAL_MAX_STEPS)
            return _evaluate(policy, stream, episodes, limit, seed)
        finally:
            stream.close()


def _evaluate(policy, stream: EnvStream, episodes: int, limit: int | None, seed: int) -> Evaluation:
    if stream.num_ready < stream.num_lanes:
        raise ValueError(
            f"a step returns {stream.num_ready} of {stream.num_lanes} environments: an evaluation "
            "needs all of them together"
        )
    takes_masks = _takes_masks(policy)

    def act(obs, mask=None):
        return policy(obs, mask) if takes_masks else policy(obs)

    return run_episodes(act, stream, episodes, limit or EVAL_MAX_STEPS, env_seed(seed, AUDIT))


def _takes_masks(policy: Callable[..., np.ndarray]) -> bool:
    """Returns whether a policy can be called with (obs, mask)."""
    try:
        inspect.signature(policy).bind(None, None)
    except (TypeError, ValueError):
        return False
    return True
