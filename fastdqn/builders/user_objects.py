"""Validation of environments and torsos that are passed from Python."""

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, VectorEnv
from torch import nn

from fastdqn.builders import preflight
from fastdqn.checkpoints.network_weights import load_weights
from fastdqn.config.atari_protocols import PROTOCOLS
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import (
    EnvFacts,
    EnvStream,
    Factory,
    answers_for,
    count_problem,
    read_facts,
    shared_sub_env,
)
from fastdqn.files.run_folder import HandedIn, name_of


def checked(
    config: Config,
    envs: VectorEnv | Factory | None,
    eval_envs: VectorEnv | None,
    overrides: dict[str, Any],
) -> Config:
    """The options with what is overridden, and a name for environments that were handed in.

    Raises ConfigError with all that keeps a run from starting, a line each.
    """
    if eval_envs is not None and config.final_evaluation is None:  # they are there to be used
        overrides = {"final_evaluation": True, **overrides}
    if not isinstance(envs, VectorEnv):
        config = config.replace(**overrides)
        if lines := preflight.check(config, None, envs, eval_envs=eval_envs):
            raise ConfigError(lines)
        return _labelled(config, envs)
    config = config.replace(**_as_made(envs, config, overrides))
    lines = _given_problems(config, envs, eval_envs)
    try:
        facts = read_facts(envs)
    except ValueError as error:
        raise ConfigError([*config.problems(), *lines, str(error)]) from None
    if lines := [*lines, *preflight.check(config, facts, eval_envs=eval_envs)]:
        raise ConfigError(lines)
    return _labelled(config, envs)


def resumed_problems(
    config: Config, envs: VectorEnv | Factory | None, eval_envs: VectorEnv | None, folder: Path
) -> list[str]:
    """What of the environments that resume() is given contradicts a run's options, as checked()
    finds it for train(), or the weights in its folder."""
    if envs is None and eval_envs is None:
        return []
    try:
        if isinstance(envs, VectorEnv):
            facts, lines = read_facts(envs), _given_problems(config, envs, eval_envs)
        else:
            facts, lines = preflight.look_at(config, envs), []
    except ValueError as error:
        return [str(error)]
    return [
        *lines,
        *_unlike_weights(folder, facts),
        *preflight.evaluation_problems(facts, eval_envs),
    ]


def _unlike_weights(folder: Path, facts: EnvFacts) -> list[str]:
    """A line where a run's weights, if there are any yet, are for other spaces."""
    try:
        description = load_weights(folder / "policy.safetensors")[1]
        learned = (tuple(description["obs_shape"]), description["num_actions"])
    except (OSError, ValueError, KeyError, TypeError):  # the checkpoint is what counts
        return []
    if learned == (facts.obs_shape, facts.num_actions):
        return []
    return [
        f"envs have observations {facts.obs_shape} and {facts.num_actions} actions; the run was "
        f"trained on {learned[0]} and {learned[1]}"
    ]


def torso_problems(handed_in: HandedIn | None, torso: nn.Module | None) -> list[str]:
    """A line where resume() lacks the torso that a run was given, or is given one too many."""
    if handed_in is None:
        return []
    if handed_in.torso is not None and torso is None:
        return [
            f"the run's torso was handed in ({handed_in.torso}): hand it in again, "
            "fastdqn.resume(run, torso=...)"
        ]
    if handed_in.torso is None and torso is not None:
        return [f"torso is {name_of(torso)}, and the run was given none: leave it out"]
    return []


def _as_made(envs: VectorEnv, config: Config, overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides, with what ready environments say of themselves where nobody else does."""
    said: dict[str, Any] = {"num_envs": _whole(envs.num_envs)}
    if isinstance(envs, AsyncVectorEnv):
        said["vectorization"] = "async"
    elif overrides.get("env_batch_size", config.env_batch_size) == answers_for(envs):
        overrides = overrides | {"env_batch_size": None}  # it is how they were made
    return said | overrides


def _whole(number: Any) -> Any:
    """A whole number of NumPy's as one of Python's; what is none comes back as it is."""
    return int(number) if isinstance(number, np.integer) else number


def not_what_is_asked(config: Any, envs: Any, eval_envs: Any, torso: Any) -> list[str]:
    """What was handed in as options, environments or torso and is none."""
    lines = []
    if not isinstance(config, Config | str):
        lines.append(
            f"the first argument is a Config, a preset or an id, not {type(config).__name__}: "
            "environments come second, as in train(Config(), lambda: MyEnv())"
        )
    if torso is not None and not isinstance(torso, nn.Module):
        lines.append(f"torso is no nn.Module but {torso!r}: give an instance, MyTorso()")
    if isinstance(envs, str):  # train() takes an id, and has made an option of it
        lines.append(f"envs is the id {envs!r}: a run goes on with its own, so leave it out")
    elif envs is not None and not isinstance(envs, VectorEnv) and not callable(envs):
        lines.append(
            f"envs is no VectorEnv but {type(envs).__name__}: give one, or a function that makes "
            "one environment, such as lambda: MyEnv()"
        )
    if eval_envs is not None and not isinstance(eval_envs, VectorEnv):
        lines.append(
            f"eval_envs is no VectorEnv but {type(eval_envs).__name__}: "
            "gymnasium.vector.SyncVectorEnv([lambda: MyEnv()]) makes one"
        )
    given = [each for each in (envs, eval_envs) if isinstance(each, VectorEnv)]
    lines += [line for each in given if (line := count_problem(each)) is not None]
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
    elif line := shared_sub_env(envs, *([] if eval_envs is None else [eval_envs])):
        lines.append(line)
    if config.restart_envs:
        lines.append(
            f"restart_envs is {config.restart_envs}: hand in a function that makes one "
            "environment; lanes of given envs are not ours to restart"
        )
    if config.env_batch_size is not None:
        try:
            EnvStream(envs, config.env_batch_size)
        except ValueError as error:
            lines.append(str(error))
    if eval_envs is None and config.stop_at_return is not None:
        lines.append(
            f"stop_at_return is {config.stop_at_return}, but given envs are evaluated only on "
            "eval_envs: pass some, or stop_at_return=None"
        )
    return lines
