"""Loads the policy and the environment of a finished run."""

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from fastdqn.builders import agent, preflight
from fastdqn.checkpoints.network_weights import run_folder_of, weights_path
from fastdqn.checkpoints.table_weights import is_table
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import EnvError, EnvRecipe, UnknownEnvError, probe_env
from fastdqn.envs.watchdog import watch_making
from fastdqn.files.atomic_write import read_text
from fastdqn.files.run_folder import read_config, read_handed_in
from fastdqn.learning.policy import Policy
from fastdqn.tabular.files import read_table_config
from fastdqn.tabular.q_table import TablePolicy


class EnvChanges(NamedTuple):
    """An environment in place of the run's: id, further arguments, wrappers and keys of info.

    None: those of the run.
    """

    env_id: str | None
    env_kwargs: dict[str, Any]
    wrapper: tuple[str, ...] | None = None
    info_keys: tuple[str, ...] | None = None


def load_trained(
    run: str, weights: str, changes: EnvChanges, patience: float | None, lines: list[str]
) -> tuple[Policy | TablePolicy, EnvRecipe, Path]:
    """Returns a run's policy, the environment it was trained on, and the weights file.

    Args:
        run: Run folder or weights file.
        weights: best or last.
        changes: What differs from the environment of the run.
        patience: Timeout in seconds of making an environment. None: no timeout.
        lines: Errors found before, reported with those found here.

    Raises:
        ConfigError: All errors, a line each.
        EnvError: The first reset fails or times out.
    """
    try:
        path = weights_path(run, weights)
        policy, description = agent.load_policy(path)
        recipe = _recipe_of(path, changes)
        with watch_making(str(recipe), patience):
            _require_same_spaces(recipe, description)
    except UnknownEnvError as error:
        hint = "if it was passed from Python, use fastdqn.evaluate(load_policy(run), make_env)"
        raise ConfigError([*lines, f"{error}; {hint}"]) from None
    except (OSError, ValueError) as error:
        raise ConfigError([*lines, *str(error).split("\n")]) from None
    except EnvError:
        if not lines:
            raise
        raise ConfigError(lines) from None
    if lines:
        raise ConfigError(lines)
    return policy, recipe, path


def step_limit_of(weights: Path, changes: EnvChanges) -> int | None:
    """Returns the --eval-max-steps that the run was given, for its own environment, or None."""
    if changes.env_id is not None:
        return None
    with contextlib.suppress(OSError, ValueError, AttributeError):  # an older or damaged run
        requested = json.loads(read_text(run_folder_of(weights) / "requested.json"))
        given = requested.get("eval_max_steps")
        return given if type(given) is int and given > 0 else None
    return None


def _recipe_of(weights: Path, changes: EnvChanges) -> EnvRecipe:
    """Returns the environment of a run with its wrappers and arguments, and the changes."""
    if changes.env_id is not None:
        return EnvRecipe(
            changes.env_id,
            kwargs=changes.env_kwargs,
            wrappers=changes.wrapper or (),
            info_keys=changes.info_keys or (),
        )
    path = run_folder_of(weights) / "config.json"
    if not path.exists():
        raise ValueError(f"{path} does not exist: name the environment with --env-id")
    if is_table(weights):
        config = read_table_config(path.parent).shared()
    else:
        config = read_config(path.parent)
    if lines := preflight.stray_modules(config, str(path.parent)):
        raise ConfigError(lines)
    handed_in = read_handed_in(path.parent)
    if handed_in is not None and handed_in.envs is not None:
        raise ValueError(
            f"the run's environments were passed from Python ({handed_in.envs}), and "
            f"{config.env_id!r} may differ from them: use "
            "fastdqn.evaluate(fastdqn.load_policy(run), make_env), or name an environment "
            "with --env-id my_package:MyEnv-v0"
        )
    return preflight.recipe(_changed(config, changes))


def _changed(config: Config, changes: EnvChanges) -> Config:
    """Returns the options of a run with other arguments, wrappers or keys of its environment.

    The run's vectorization was selected for its own: one class that steps all environments takes
    no wrapper and not every argument, and compiled ones return no info.
    """
    given = {"wrapper": changes.wrapper, "info_keys": changes.info_keys}
    given = {name: value for name, value in given.items() if value is not None}
    if not given and not changes.env_kwargs:
        return config
    config = config.replace(env_kwargs={**config.env_kwargs, **changes.env_kwargs}, **given)
    no_longer = ("compiled", "native", *(["envpool"] if config.wrapper else []))
    return config.replace(vectorization="auto") if config.vectorization in no_longer else config


def _require_same_spaces(recipe: EnvRecipe, description: dict) -> None:
    facts = probe_env(recipe)
    learned = (tuple(description["obs_shape"]), description["num_actions"])
    if learned != (facts.obs_shape, facts.num_actions):
        raise ValueError(
            f"{recipe} has observations {facts.obs_shape} and {facts.num_actions} actions, and the "
            f"weights were trained on {learned[0]} and {learned[1]}"
        )
