"""Validation of environments and parts that are passed from Python."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, VectorEnv
from torch import nn

from fastdqn.builders import preflight
from fastdqn.builders.parts import PART_OPTIONS, UserParts, importable_name
from fastdqn.builders.preflight import Setup
from fastdqn.checkpoints.network_weights import load_weights
from fastdqn.config.atari_protocols import PROTOCOLS
from fastdqn.config.registry import CUSTOM
from fastdqn.config.schema import Config, ConfigError
from fastdqn.datasets.minari_dataset import PREFIX as MINARI_PREFIX
from fastdqn.envs import (
    EnvFacts,
    EnvStream,
    Factory,
    count_problem,
    limit_of,
    read_facts,
    ready_count,
    shared_sub_env,
)
from fastdqn.files.run_folder import HandedIn, name_of
from fastdqn.ranks.torchrun import world_size


def prepared(
    config: Config,
    envs: VectorEnv | Factory | None,
    eval_envs: VectorEnv | None,
    overrides: dict[str, Any],
    own: UserParts,
) -> Setup:
    """Validates and resolves the options with overrides, and objects from Python.

    Raises:
        ConfigError: All errors, a line each.
    """
    if eval_envs is not None and config.final_evaluation is None:  # they were passed to be used
        overrides = {"final_evaluation": True, **overrides}
    if not isinstance(envs, VectorEnv):
        config = config.replace(**overrides)
        facts, lines, factory = None, [], envs
    else:
        config = config.replace(**_as_made(envs, config, overrides))
        facts, lines, factory = None, _given_problems(config, envs, eval_envs), None
        try:
            facts = read_facts(envs)._replace(max_episode_steps=limit_of(envs))
        except ValueError as error:
            raise ConfigError([*config.problems(), *lines, str(error)]) from None
    setup, more = preflight.prepare(
        _labelled(config, envs), facts, factory, bool(lines), eval_envs, own
    )
    if lines or setup is None:
        raise ConfigError([*lines, *more])
    return setup


def prepared_to_resume(
    config: Config,
    envs: VectorEnv | Factory | None,
    eval_envs: VectorEnv | None,
    folder: Path,
    own: UserParts,
    lines: list[str],
) -> Setup:
    """As prepared(), for a run that is resumed: environments must fit its options and weights.

    Args:
        config: Options of the run.
        envs: As passed to resume().
        eval_envs: As passed to resume().
        folder: Run folder.
        own: Objects from Python.
        lines: Errors found before.
    """
    facts, factory = None, None
    if isinstance(envs, VectorEnv):
        try:
            facts = read_facts(envs)._replace(max_episode_steps=limit_of(envs))
            lines = [*lines, *_given_problems(config, envs, eval_envs)]
        except ValueError as error:
            raise ConfigError([*lines, str(error)]) from None
    else:
        factory = envs
    if lines:
        raise ConfigError(lines)
    setup, more = preflight.prepare_validated(config, facts, factory, own, [])
    lines = [*lines, *more]
    if setup is not None and (envs is not None or eval_envs is not None):
        lines += _unlike_weights(folder, setup.facts)
        lines += preflight.evaluation_problems(setup.facts, eval_envs)
    if lines or setup is None:
        raise ConfigError(lines)
    return setup


def _unlike_weights(folder: Path, facts: EnvFacts) -> list[str]:
    """Returns a message if the run's weights, if there are any, are for other spaces."""
    try:
        description = load_weights(folder / "policy.safetensors")[1]
        learned = (tuple(description["obs_shape"]), description["num_actions"])
    except (OSError, ValueError, KeyError, TypeError):  # the checkpoint is checked later
        return []
    if learned == (facts.obs_shape, facts.num_actions):
        return []
    return [
        f"envs have observations {facts.obs_shape} and {facts.num_actions} actions, and the run "
        f"was trained on {learned[0]} and {learned[1]}"
    ]


def own_problems(handed_in: HandedIn | None, own: UserParts) -> list[str]:
    """Returns a message for each object passed to resume() that is missing or unexpected."""
    if handed_in is None:
        return []
    names = {"torso": handed_in.torso, **handed_in.parts}
    given = {"torso": own.torso, **own.objects}
    lines = [
        f"the run's {option} was passed from Python ({name}): pass it again, "
        f"fastdqn.resume(run, {option}=...)"
        for option, name in names.items()
        if name is not None and given.get(option) is None
    ]
    return lines + [
        f"{option} is {name_of(part)}, and the run had none: leave it out"
        for option, part in given.items()
        if part is not None and names.get(option) is None
    ]


def parts_of(torso: Any, overrides: dict[str, Any]) -> tuple[UserParts, dict[str, Any]]:
    """Separates objects from options. Returns (objects, options).

    A class or function that another process can import becomes its name, module:Name. Any other
    object stays one, and its option is custom.

    Args:
        torso: As passed to train().
        overrides: Options by name, some of which may be parts.
    """
    objects: dict[str, Any] = {}
    options = dict(overrides)
    for name in PART_OPTIONS:
        part = options.get(name)
        if part is None or isinstance(part, str):
            continue
        options[name] = importable_name(part) or CUSTOM
        if options[name] == CUSTOM:
            objects[name] = part
    if isinstance(torso, str):
        torso, options["torso"] = None, torso
    return UserParts(torso, objects), options


def located(config: Config, overrides: dict[str, Any], base: Path) -> dict[str, Any]:
    """Returns the overrides with absolute paths of what the run starts from.

    An environment may change the working directory, and a resumed run may start in another.
    """
    found = dict(overrides)
    for name in ("init_weights", "from_run"):
        path = overrides.get(name, getattr(config, name))
        if path is not None:
            found[name] = _absolute(path, base)
    sources = overrides.get("prefill", config.prefill)
    if isinstance(sources, str | os.PathLike):
        sources = (sources,)
    if sources and isinstance(sources, list | tuple):
        found["prefill"] = tuple(_absolute(each, base) for each in sources)
    return found


def _absolute(source: Any, base: Path) -> Any:
    """Returns a path as an absolute one, and what is no path unchanged, for the checks."""
    if not isinstance(source, str | os.PathLike) or not (path := str(source)):
        return source
    return source if path.startswith(MINARI_PREFIX) else str(base / path)


def _as_made(envs: VectorEnv, config: Config, overrides: dict[str, Any]) -> dict[str, Any]:
    """Returns the overrides, completed by the attributes of a VectorEnv."""
    said: dict[str, Any] = {"num_envs": _whole(envs.num_envs)}
    if isinstance(envs, AsyncVectorEnv):
        said["vectorization"] = "async"
    elif overrides.get("env_batch_size", config.env_batch_size) == ready_count(envs):
        overrides = overrides | {"env_batch_size": None}  # the environments were made with it
    return said | overrides


def _whole(number: Any) -> Any:
    """Returns a NumPy integer as a Python int, and anything else unchanged."""
    return int(number) if isinstance(number, np.integer) else number


def argument_problems(config: Any, envs: Any, eval_envs: Any, torso: Any) -> list[str]:
    """Returns error messages about arguments of the wrong type."""
    lines = []
    if not isinstance(config, Config | str):
        lines.append(
            f"the first argument is a Config, a preset or an id, not {type(config).__name__}: "
            "environments are the second argument, as in train(Config(), lambda: MyEnv())"
        )
    if torso is not None and not isinstance(torso, nn.Module | str):
        lines.append(f"torso is {torso!r}, not an nn.Module: pass an instance, MyTorso()")
    if isinstance(envs, str):  # train() takes an id, and has made an option of it
        lines.append(f"envs is the id {envs!r}: a run keeps its environment, so leave it out")
    elif envs is not None and not isinstance(envs, VectorEnv) and not callable(envs):
        lines.append(
            f"envs is of type {type(envs).__name__}: pass a VectorEnv, or a function that makes "
            "one environment, such as lambda: MyEnv()"
        )
    if eval_envs is not None and not isinstance(eval_envs, VectorEnv):
        lines.append(
            f"eval_envs is of type {type(eval_envs).__name__}: pass a VectorEnv, such as "
            "gymnasium.vector.SyncVectorEnv([lambda: MyEnv()])"
        )
    given = [each for each in (envs, eval_envs) if isinstance(each, VectorEnv)]
    lines += [line for each in given if (line := count_problem(each)) is not None]
    return lines


def _labelled(config: Config, envs: VectorEnv | Factory | None) -> Config:
    """Returns the options with the name of passed environments in place of the default id."""
    if envs is None or config.env_id != Config.env_id:
        return config
    if isinstance(envs, VectorEnv):
        spec_id = getattr(envs.spec, "id", None)
        return config.replace(env_id=spec_id or type(envs.unwrapped).__name__)
    return config.replace(env_id=getattr(envs, "__name__", type(envs).__name__).strip("<>"))


def _given_problems(config: Config, envs: VectorEnv, eval_envs: VectorEnv | None) -> list[str]:
    """Returns error messages about options that contradict a passed VectorEnv."""
    lines = []
    if world_size() > 1:
        lines.append(
            f"envs is a VectorEnv, which {world_size()} ranks cannot divide: pass a function that "
            "makes one environment"
        )
    if config.num_envs != envs.num_envs:
        lines.append(f"num_envs is {config.num_envs}, but envs has {envs.num_envs}")
    if config.wrapper or config.env_kwargs or config.atari_protocol in PROTOCOLS:
        lines.append(
            "wrapper, env_kwargs and atari_protocol do not apply to a VectorEnv: pass a function "
            "that makes one environment, or wrap the environments yourself"
        )
    if eval_envs is not None and eval_envs.unwrapped is envs.unwrapped:
        lines.append(
            "eval_envs is envs: an evaluation would reset the training episodes. Pass another"
        )
    elif line := shared_sub_env(envs, *([] if eval_envs is None else [eval_envs])):
        lines.append(line)
    if config.restart_envs:
        lines.append(
            f"restart_envs is {config.restart_envs}, which does not apply to a VectorEnv: pass a "
            "function that makes one environment"
        )
    if config.env_batch_size is not None:
        try:
            EnvStream(envs, config.env_batch_size)
        except ValueError as error:
            lines.append(str(error))
    if eval_envs is None and config.stop_at_return is not None:
        lines.append(
            f"stop_at_return is {config.stop_at_return}, but a VectorEnv is evaluated only on "
            "eval_envs: pass eval_envs, or stop_at_return=None"
        )
    return lines
