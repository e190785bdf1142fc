"""Given: environments and torsos that are handed in, held against the options."""

from typing import Any

from gymnasium.vector import AsyncVectorEnv, VectorEnv
from torch import nn

from fastdqn import checks
from fastdqn.acting import EnvStream, Factory, answers_for, read_facts, shared_sub_env
from fastdqn.atari import PROTOCOLS
from fastdqn.config import Config, ConfigError


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
        if lines := checks.check(config, None, envs):
            raise ConfigError(lines)
        return _labelled(config, envs)
    config = config.replace(**_as_made(envs, config, overrides))
    lines = _given_problems(config, envs, eval_envs)
    try:
        facts = read_facts(envs)
    except ValueError as error:
        raise ConfigError([*config.problems(), *lines, str(error)]) from None
    if lines := [*lines, *checks.check(config, facts)]:
        raise ConfigError(lines)
    return _labelled(config, envs)


def _as_made(envs: VectorEnv, config: Config, overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides, with what ready environments say of themselves where nobody else does."""
    said: dict[str, Any] = {"num_envs": envs.num_envs}
    if isinstance(envs, AsyncVectorEnv):
        said["vectorization"] = "async"
    elif overrides.get("env_batch_size", config.env_batch_size) == answers_for(envs):
        overrides = overrides | {"env_batch_size": None}  # it is how they were made
    return said | overrides


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
    if envs is not None and not isinstance(envs, VectorEnv) and not callable(envs):
        lines.append(
            f"envs is no VectorEnv but {type(envs).__name__}: give one, or a function that makes "
            "one environment, such as lambda: MyEnv()"
        )
    if eval_envs is not None and not isinstance(eval_envs, VectorEnv):
        lines.append(
            f"eval_envs is no VectorEnv but {type(eval_envs).__name__}: "
            "gymnasium.vector.SyncVectorEnv([lambda: MyEnv()]) makes one"
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
    elif line := shared_sub_env(envs, *([] if eval_envs is None else [eval_envs])):
        lines.append(line)
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
