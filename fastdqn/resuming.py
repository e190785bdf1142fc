"""The Python interface: go on with a run from a checkpoint."""

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
from fastdqn.builders.user_objects import not_what_is_asked, resumed_problems, torso_problems
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
) -> Trained:
    """Go on with a run that was stopped, killed or has ended, from its last checkpoint.

    run     its folder; all options are the run's own
    total_timesteps  a new total; None: the one that the run had. Schedules keep their horizon; the
             next checkpoint remembers it, so a run that is killed before that must be told again
    checkpoint  name of another than the latest
    envs, eval_envs, torso, hooks  as the run was given them, see train()
    seed_globals  as in train(), with the steps made so far: the generators' state is not restored
    Environments whose state can be read go on exactly where they were (Gymnasium's native
    CartPole, its classic control and toy text in sync, any with get_state and set_state); others
    are reset, and their open episodes end as truncated.
    Raises ConfigError where something does not fit the run; CheckpointError where a file is
    damaged; and what train() raises.
    """
    if lines := not_what_is_asked("", envs, eval_envs, torso):
        raise ConfigError(lines)
    folder = working_folder() / run  # an environment may change it
    if not os.path.isdir(folder):  # of any name: its own is_dir() raises where it is too long
        raise ConfigError([f"{run} is no folder: name the folder of a run"])
    if is_table_run(folder):
        raise ConfigError([f"{folder} is a tabular run, which has no checkpoints"])
    with (
        passed_on(),
        _locked(folder) as place,
    ):  # before a look at what another process may be changing
        found = load_checkpoint(place, checkpoint)
        assert isinstance(place, Place)
        return go_on(
            place, found, envs, total_timesteps, eval_envs, torso,
            Hooks(on_step, on_update, on_evaluation), quiet, imports_seconds, seed_globals,
        )  # fmt: skip


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[Where]:
    """A run's folder to ourselves, if it is one. Raises ConfigError where another has it."""
    if not (folder / "checkpoints").is_dir():  # told by whoever looks for a checkpoint there
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


def go_on(
    place: Place,
    found: Checkpoint,
    envs: VectorEnv | Factory | None,
    total_timesteps: int | None,
    eval_envs: VectorEnv | None,
    torso: nn.Module | None,
    hooks: Hooks,
    quiet: bool,
    imports_seconds: float,
    seed_globals: bool,
) -> Trained:
    """Go on from a checkpoint of a run whose folder is held. Raises what resume() raises."""
    folder = path_of(place)
    config, had = config_of(place, found)
    if lines := preflight.stray_modules(config, str(folder)):
        raise ConfigError(lines)
    handed_in = read_handed_in(folder)
    of_envs = None if handed_in is None else handed_in.envs is not None
    lines = preflight.check_resume(config, envs, total_timesteps, found.steps, had, of_envs)
    lines += torso_problems(handed_in, torso)
    if not lines:
        lines = resumed_problems(config, envs, eval_envs, folder)
    if lines:
        raise ConfigError(lines)

    if seed_globals:
        seed_global_generators(config.seed + found.steps)
    try:
        session = build.build(
            config, run_display(quiet), envs, eval_envs, torso, hooks, resumed=found,
            total_timesteps=total_timesteps, had_timesteps=had, folder=place,
        )  # fmt: skip
    except StateError as error:
        raise CheckpointError(f"{found.folder}: {error}") from error
    return run_session(session, imports_seconds)


def config_of(folder: Where, checkpoint: Checkpoint) -> tuple[Config, int | None]:
    """The options that a checkpoint was written with, and its total of steps.

    Raises ConfigError where config.json says something else by now.
    """
    return config_of_state(folder, checkpoint.config, str(checkpoint.folder))


def config_of_state(
    folder: Where, stored: dict[str, Any], checkpoint: str
) -> tuple[Config, int | None]:
    """As config_of(), of what a checkpoint's manifest stores beside its state."""
    given = stored.get("config")
    if not isinstance(given, dict):
        raise CheckpointError(f"{checkpoint}/manifest.json: config holds no options")
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
        f"{name} is {ours[name]} in config.json, the checkpoint's is {theirs[name]}: a run goes on "
        "with the options it had"
        for name in ours
        if name != "run_dir" and ours[name] != theirs[name]
    ]
    if lines:
        raise ConfigError(lines)
    return config, had
