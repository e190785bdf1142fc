"""resume(): continues a run from a checkpoint."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gymnasium.vector import VectorEnv
from torch import nn

from fastdqn.builders import build, preflight
from fastdqn.builders.changed_options import Course, unchangeable
from fastdqn.builders.parts import PART_OPTIONS, UserParts, importable_name
from fastdqn.builders.rank_share import rank_seed
from fastdqn.builders.user_object_checks import (
    argument_problems,
    own_problems,
    parts_of,
    prepared_to_resume,
)
from fastdqn.checkpoints.format import CheckpointError
from fastdqn.checkpoints.loader import Checkpoint, checkpoint_names, load_checkpoint
from fastdqn.config.option import options_of
from fastdqn.config.schema import (
    CHANGEABLE,
    Config,
    ConfigError,
    current_names,
    unknown_name,
)
from fastdqn.envs import Factory, Step
from fastdqn.files.open_folder import Place, Where, path_of
from fastdqn.files.run_folder import read_config, read_handed_in, working_folder
from fastdqn.files.run_lock import LockedError, RunLock
from fastdqn.logging.console import run_display
from fastdqn.ranks.one_rank import ONE_RANK, Ranks
from fastdqn.ranks.process_group import joined
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
    **options: Any,
) -> Trained:
    """Continues a run that was stopped, killed or has finished, with its options.

    Some of them may change. From there on the run is no longer the one that would have continued
    unchanged: the changes are printed, and recorded in config.json and changes.jsonl.

    Environments continue exactly where they were if their state can be read: compiled
    ones, classic control and toy text in sync, and any with get_state() and set_state().
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
        **options: Options that change, such as learning_rate=1e-4 (CHANGEABLE in
            fastdqn.config.schema lists them), and objects that were passed to train() as options,
            such as value=MyValue().

    Raises:
        ConfigError: An argument does not fit the run.
        CheckpointError: A file of the checkpoint is damaged.
        Exception: What train() raises.
    """
    lines = argument_problems("", envs, eval_envs, torso)
    if isinstance(torso, str):
        options["torso"] = torso
    changes, parts, unexpected = sorted_options(options)
    if lines := lines + unexpected:
        raise ConfigError(lines)
    own = parts_of(None if isinstance(torso, str) else torso, parts)[0]
    folder = working_folder() / run  # an environment may change the working directory
    with passed_on(), joined() as ranks:
        ranks.together(lambda: _require_run(folder, str(run), ranks))
        folder = ranks.folder(folder)
        with _locked(folder) as place:  # before reading what another process may be writing
            found = load_checkpoint(place, checkpoint or _newest_of_all(place, ranks))
            assert isinstance(place, Place)
            return resume_from(
                place, found, envs, total_timesteps, eval_envs, own,
                Hooks(on_step, on_update, on_evaluation), quiet, imports_seconds, seed_globals,
                changes, ranks,
            )  # fmt: skip


def _require_run(folder: Path, name: str, ranks: Ranks) -> None:
    """Raises ConfigError if a folder, as the user named it, is not one of a run of these ranks."""
    if not os.path.isdir(folder):  # Path.is_dir() raises for a very long name
        raise ConfigError([f"{name} is not a folder: give the folder of a run"])
    if is_table_run(folder):
        raise ConfigError([f"{folder} is a tabular run, which has no checkpoints"])
    if ranks.count > 1 and (line := preflight.ranks_problem(read_config(folder))):
        raise ConfigError([line])


def _newest_of_all(place: Where, ranks: Ranks) -> str | None:
    """Returns the newest checkpoint that all ranks have. None: the latest of the only rank."""
    if ranks.count == 1:
        return None
    name = ranks.common(checkpoint_names(place))
    if name is None:
        raise ConfigError([f"{path_of(place)}: there is no checkpoint that all ranks have"])
    return name


def sorted_options(
    options: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Returns (options that change, objects that are passed again, error messages)."""
    changes, parts, lines = {}, {}, []
    for name, value in current_names(options).items():
        word = value if isinstance(value, str) else importable_name(value)
        if name not in options_of(Config):
            lines.append(unknown_name("option", name, options_of(Config)))
        elif name in CHANGEABLE and (name not in PART_OPTIONS or word):
            changes[name] = word if name in PART_OPTIONS else value
        elif name in PART_OPTIONS and not isinstance(value, str):
            parts[name] = value
        else:
            lines.append(
                f"{name} cannot change when a run is resumed: start a new run from it, with "
                f"from_run (fastdqn train ... --from RUN --{name.replace('_', '-')} ...)"
            )
    return changes, parts, lines


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
    changes: Mapping[str, Any] = MappingProxyType({}),
    ranks: Ranks = ONE_RANK,
) -> Trained:
    """Continues from a checkpoint of a locked run folder. Raises what resume() raises."""
    folder = path_of(place)
    current, had = config_of(place, found)
    config = current.replace(**changes)
    if lines := config.type_problems() or unchangeable(current, changes):
        raise ConfigError(lines)
    if lines := preflight.stray_modules(config, str(folder)):
        raise ConfigError(lines)
    handed_in = read_handed_in(folder)
    of_envs = None if handed_in is None else handed_in.envs is not None
    lines = preflight.resume_problems(config, envs, total_timesteps, found.steps, of_envs)
    lines += own_problems(handed_in, own)
    setup = prepared_to_resume(config, envs, eval_envs, folder, own, lines)

    if seed_globals:
        seed_global_generators(rank_seed(config.seed, ranks.index) + found.steps)
    try:
        session = build.build(
            setup, run_display(quiet or ranks.index > 0), envs, eval_envs, hooks, resumed=found,
            total_timesteps=total_timesteps, had_timesteps=had, folder=place,
            course=Course(stored_config(found), current, setup.config), ranks=ranks,
        )  # fmt: skip
    except StateError as error:
        raise CheckpointError(f"{found.folder}: {error}") from error
    return run_session(session, imports_seconds)


def config_of(folder: Where, checkpoint: Checkpoint) -> tuple[Config, int | None]:
    """Returns the options of a run, and the total steps of its checkpoint.

    Those that may change are those of config.json, which resume() writes when they do.

    Raises:
        ConfigError: Another option differs between config.json and the checkpoint.
    """
    return config_of_state(folder, checkpoint.config, str(checkpoint.folder))


def stored_config(checkpoint: Checkpoint) -> Config:
    """Returns the options with which a checkpoint was written."""
    return _read_stored(checkpoint.config, str(checkpoint.folder))


def config_of_state(
    folder: Where, stored: dict[str, Any], checkpoint: str
) -> tuple[Config, int | None]:
    """As config_of(), from what the manifest of a checkpoint stores."""
    config = _read_stored(stored, checkpoint).replace(run_dir=str(folder))
    had = stored.get("total_timesteps")
    if had is not None and type(had) is not int:
        raise CheckpointError(f"{checkpoint}/manifest.json: total_timesteps is {had!r}")
    current = read_config(folder).replace(run_dir=str(folder))
    ours, theirs = dataclasses.asdict(current), dataclasses.asdict(config)
    lines = [
        f"{name} is {ours[name]} in config.json and {theirs[name]} in the checkpoint: a run keeps "
        "this option, so restore config.json"
        for name in ours
        if ours[name] != theirs[name] and name not in CHANGEABLE
    ]
    if lines:
        raise ConfigError(lines)
    return current, had


def _read_stored(stored: dict[str, Any], checkpoint: str) -> Config:
    given = stored.get("config")
    if not isinstance(given, dict):
        raise CheckpointError(f"{checkpoint}/manifest.json: config is not an object of options")
    try:
        return Config.from_json(json.dumps(given))
    except ConfigError as error:
        lines = [f"{checkpoint}/manifest.json: config: {line}" for line in error.lines]
        raise ConfigError(lines) from None
