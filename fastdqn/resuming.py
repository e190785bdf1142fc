"""resume(): continues a run from a checkpoint."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv
from torch import nn

from fastdqn.builders import build, preflight
from fastdqn.builders.parts import PART_OPTIONS, UserParts
from fastdqn.builders.user_object_checks import (
    argument_problems,
    own_problems,
    parts_of,
    prepared_to_resume,
)
from fastdqn.checkpoints.format import CheckpointError
from fastdqn.checkpoints.loader import Checkpoint, load_checkpoint
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import Factory, Step
from fastdqn.files.open_folder import Place, Where, path_of
from fastdqn.files.run_folder import read_config, read_handed_in, working_folder
from fastdqn.files.run_lock import LockedError, RunLock
from fastdqn.logging.console import run_display
from fastdqn.replay import Batch
from fastdqn.seeding import seed_global_generators
from fastdqn.session import Trained, run_session
from fastdqn.state_dict import StateError
from fastdqn.system.signals import passed_on
from fastdqn.tabular.files import is_table_run
from fastdqn.training.evaluation import Evaluation
from fastdqn.training.loop import Hooks
from fastdqn.training.progress import Progress


def resume(
    run: str | Path,
    envs: VectorEnv | Factory | None = None,
    *,
    total_timesteps: int | None = None,
    checkpoint: str | None = None,
    eval_envs: VectorEnv | None = None,
    torso: nn.Module | None = None,
    on_step: Callable[[Progress, Step], Any] | None = None,
    on_update: Callable[[Progress, Batch, Any], Any] | None = None,
    on_evaluation: Callable[[int, str, Evaluation], Any] | None = None,
    quiet: bool = True,
    imports_seconds: float = 0.0,
    seed_globals: bool = False,
    **parts: Any,
) -> Trained:
    """Continues a run that was stopped, killed or has finished, with its options.

    Environments continue exactly where they were if their state can be read: Gymnasium's native
    CartPole, classic control and toy text in sync, and any with get_state() and set_state().
    Others are reset, and their open episodes end as truncated.

    Args:
        run: Run folder.
        envs: As passed to train().
        total_timesteps: New total of steps. None: unchanged. Schedules keep their horizon. The
            next checkpoint stores it, so repeat it if the run is killed before that.
        checkpoint: Name of a checkpoint. None: the latest.
        eval_envs, torso, on_step, on_update, on_evaluation: As passed to train().
        quiet, imports_seconds: As in train().
        seed_globals: As in train(), with the number of steps added to the seed, since the states
            of global generators are not restored.
        **parts: Objects passed to train() as options, such as value=MyValue().

    Raises:
        ConfigError: An argument does not fit the run.
        CheckpointError: A file of the checkpoint is damaged.
        Exception: What train() raises.
    """
    lines = argument_problems("", envs, eval_envs, torso)
    options = parts if not isinstance(torso, str) else {"torso": torso, **parts}
    if lines := lines + unexpected_options(options):
        raise ConfigError(lines)
    own = parts_of(torso, parts)[0]
    folder = working_folder() / run  # an environment may change the working directory
    if not os.path.isdir(folder):  # Path.is_dir() raises for a very long name
        raise ConfigError([f"{run} is not a folder: give the folder of a run"])
    if is_table_run(folder):
        raise ConfigError([f"{folder} is a tabular run, which has no checkpoints"])
    with (
        passed_on(),
        _locked(folder) as place,
    ):  # before reading what another process may be writing
        found = load_checkpoint(place, checkpoint)
        assert isinstance(place, Place)
        return resume_from(
            place, found, envs, total_timesteps, eval_envs, own,
            Hooks(on_step, on_update, on_evaluation), quiet, imports_seconds, seed_globals,
        )  # fmt: skip


def unexpected_options(parts: dict[str, Any]) -> list[str]:
    """Returns a message for each option that is not a part, and each part that is a name."""
    lines = []
    for name, part in parts.items():
        if name not in PART_OPTIONS or isinstance(part, str):
            lines.append(
                f"{name} cannot change: a run keeps its options. Only objects that were passed to "
                "train() are passed again"
            )
    return lines


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[Where]:
    """Locks a run folder. Raises ConfigError if another process holds it."""
    if not (folder / "checkpoints").is_dir():  # reported when the checkpoint is loaded
        yield folder
        return
    lock = RunLock(folder)
    try:
        lock.acquire()
    except LockedError as error:
        raise ConfigError([str(error)]) from None
    try:
        yield lock.place
    finally:
        lock.release()


def resume_from(
    place: Place,
    found: Checkpoint,
    envs: VectorEnv | Factory | None,
    total_timesteps: int | None,
    eval_envs: VectorEnv | None,
    own: UserParts,
    hooks: Hooks,
    quiet: bool,
    imports_seconds: float,
    seed_globals: bool,
) -> Trained:
    """Continues from a checkpoint of a locked run folder. Raises what resume() raises."""
    folder = path_of(place)
    config, had = config_of(place, found)
    if lines := preflight.stray_modules(config, str(folder)):
        raise ConfigError(lines)
    handed_in = read_handed_in(folder)
    of_envs = None if handed_in is None else handed_in.envs is not None
    lines = preflight.resume_problems(config, envs, total_timesteps, found.steps, of_envs)
    lines += own_problems(handed_in, own)
    setup = prepared_to_resume(config, envs, eval_envs, folder, own, lines)

    if seed_globals:
        seed_global_generators(config.seed + found.steps)
    try:
        session = build.build(
            setup, run_display(quiet), envs, eval_envs, hooks, resumed=found,
            total_timesteps=total_timesteps, had_timesteps=had, folder=place,
        )  # fmt: skip
    except StateError as error:
        raise CheckpointError(f"{found.folder}: {error}") from error
    return run_session(session, imports_seconds)


def config_of(folder: Where, checkpoint: Checkpoint) -> tuple[Config, int | None]:
    """Returns the options stored in a checkpoint, and its total steps.

    Raises:
        ConfigError: config.json has been changed since.
    """
    return config_of_state(folder, checkpoint.config, str(checkpoint.folder))


def config_of_state(
    folder: Where, stored: dict[str, Any], checkpoint: str
) -> tuple[Config, int | None]:
    """As config_of(), from what the manifest of a checkpoint stores."""
    given = stored.get("config")
    if not isinstance(given, dict):
        raise CheckpointError(f"{checkpoint}/manifest.json: config is not an object of options")
    try:
        config = Config.from_json(json.dumps(given)).replace(run_dir=str(folder))
    except ConfigError as error:
        lines = [f"{checkpoint}/manifest.json: config: {line}" for line in error.lines]
        raise ConfigError(lines) from None
    had = stored.get("total_timesteps")
    if had is not None and type(had) is not int:
        raise CheckpointError(f"{checkpoint}/manifest.json: total_timesteps is {had!r}")
    ours, theirs = dataclasses.asdict(read_config(folder)), dataclasses.asdict(config)
    lines = [
        f"{name} is {ours[name]} in config.json and {theirs[name]} in the checkpoint: a run keeps "
        "its options, so restore config.json"
        for name in ours
        if name != "run_dir" and ours[name] != theirs[name]
    ]
    if lines:
        raise ConfigError(lines)
    return config, had
