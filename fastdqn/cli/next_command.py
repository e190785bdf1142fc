"""Suggests the next command for a run, without importing any module that the run names."""

import importlib.util
import os
import shlex
from pathlib import Path

from fastdqn.builders.parts import PART_OPTIONS
from fastdqn.builders.preflight import machine_problems
from fastdqn.checkpoints.checked_read import read_manifest
from fastdqn.checkpoints.format import CheckpointError
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import UnknownEnvError, find_spec
from fastdqn.files.run_folder import HandedIn, read_handed_in
from fastdqn.files.run_lock_file import holder
from fastdqn.ranks.torchrun import program
from fastdqn.resuming import config_of_state
from fastdqn.system.cwd_imports import named
from fastdqn.training.progress import SOLVED, SPENT


def remedy(run: Path, whole: list[str], latest: str, has_weights: bool) -> str:
    """Returns what to do next with a run, in one line. Suggests a resume only if it would work.

    Args:
        run: Run folder.
        whole: Names of the readable checkpoints, oldest first.
        latest: Name of the latest checkpoint.
        has_weights: Whether a weights file can be read.
    """
    folder = shlex.quote(str(run))
    if (held := holder(run)) is not None and held[1]:
        return "wait for that process, or stop it"
    evaluate = f"fastdqn eval {folder}"
    if not whole:
        return evaluate if has_weights else f"train again with the command in {run / 'command.txt'}"
    name = latest if latest in whole else whole[-1]
    try:
        config, had, ended, handed = _state(run, name)
    except (ConfigError, CheckpointError) as error:
        return error.lines[0] if isinstance(error, ConfigError) else str(error)
    resume = f"{program(config.ranks)} resume {folder}"
    resume += "" if name == latest else f" --checkpoint {name}"
    if handed or config.vectorization == "auto":
        return (
            f"resume from Python, with the objects it was given: fastdqn.resume({str(run)!r}, ...)"
        )
    if line := _obstacle(run, config):
        return line
    if ended:
        more = f"{resume} --total-timesteps {2 * had}" if had else ""
        return f"finished: {evaluate}" + (f", or to continue training {more}" if more else "")
    return resume


def _state(run: Path, name: str) -> tuple[Config, int | None, bool, bool]:
    """Returns (options, total steps, whether it has finished, whether objects were passed in).

    Raises:
        ConfigError, CheckpointError: The checkpoint cannot be used.
    """
    manifest = read_manifest(run, name)
    config, had = config_of_state(run, manifest.config, str(run / "checkpoints" / name))
    progress = manifest.state.get("progress", {})
    progress = progress if isinstance(progress, dict) else {}
    ended = progress.get("ended") in (SOLVED, SPENT) and not progress.get("owes_evaluation")
    names = read_handed_in(run) or HandedIn()
    handed = manifest.config.get("own_torso") is True or any(names)
    return config, had or config.total_timesteps, ended, handed


def _obstacle(run: Path, config: Config) -> str | None:
    """Returns why a resume would fail, or None."""
    for line in machine_problems(config):
        return line
    named_parts = [(option, getattr(config, option)) for option in PART_OPTIONS]
    wrappers = [("wrapper", wrapper) for wrapper in config.wrapper]
    for what, name in [("env_id", config.env_id), *wrappers, *named_parts]:
        module = name.rpartition(":")[0].partition(".")[0]
        if not module:
            continue
        spec = _find(module)
        if spec is None:
            return f"{what} {name!r}: its module {module!r} is not installed here"
        if os.path.realpath(spec).startswith(os.path.realpath(run) + os.sep):
            return f"{what} {name!r}: its module lies inside the run folder. Move it elsewhere"
    if ":" not in config.env_id:
        try:
            find_spec(config.env_id)
        except UnknownEnvError:
            return (
                f"resume from Python, with its environments: fastdqn.resume({str(run)!r}, make_env)"
            )
        except ValueError as error:
            return str(error)
    return None


def _find(module: str) -> str | None:
    """Returns the path of a top-level module without importing it, or None."""
    try:
        with named(module):
            spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    return spec.origin or next(iter(spec.submodule_search_locations or ()), "")
