"""Auto-resume (`fastdqn train --resume auto`): one command that starts or continues a run."""

import contextlib
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv

from fastdqn.builders import build
from fastdqn.builders.parts import UserParts
from fastdqn.builders.preflight import Setup
from fastdqn.builders.rank_share import rank_seed
from fastdqn.builders.user_object_checks import prepared
from fastdqn.checkpoints.checked_read import read_latest
from fastdqn.checkpoints.loader import Checkpoint, checkpoint_names, load_checkpoint
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import Factory
from fastdqn.files.atomic_write import read_text
from fastdqn.files.durable_write import exists
from fastdqn.files.open_folder import Place, path_of
from fastdqn.files.run_folder import foreign_names, read_config, working_folder
from fastdqn.files.run_lock import locked_folder
from fastdqn.logging.console import run_display
from fastdqn.ranks.one_rank import Ranks
from fastdqn.ranks.process_group import joined
from fastdqn.resuming import config_of, resume_from
from fastdqn.seeding import seed_global_generators
from fastdqn.session import Trained, run_session
from fastdqn.system.signals import passed_on
from fastdqn.tabular.files import is_table_run
from fastdqn.training.callbacks import Hooks
from fastdqn.training.progress import SOLVED, SPENT

# Options that may differ from the run's. total_timesteps is compared separately.
_FREE = {"run_dir", "total_timesteps"}


def train_or_resume(
    config: Config,
    envs: VectorEnv | Factory | None,
    eval_envs: VectorEnv | None,
    own: UserParts,
    hooks: Hooks,
    overrides: dict[str, Any],
    quiet: bool,
    imports_seconds: float,
    seed_globals: bool,
) -> Trained:
    """Continues the run in run_dir from its last checkpoint, or starts it without one.

    A finished run is returned unchanged. Raises what train() and resume() raise.
    """
    run_dir = overrides.pop("run_dir", config.run_dir)
    if not isinstance(run_dir, str) or not run_dir:
        raise ConfigError(["resume is auto: give the run folder with --run-dir DIR"])
    folder = working_folder() / run_dir  # an environment may change the working directory
    with contextlib.ExitStack() as stack:
        stack.enter_context(passed_on())
        ranks = stack.enter_context(joined())
        quiet = quiet or ranks.index > 0
        setup = ranks.together(
            lambda: prepared(config.replace(run_dir=None), envs, eval_envs, overrides, own)
        )
        folder = ranks.folder(folder)
        setup = setup.placed_in(folder)
        place = stack.enter_context(_held(folder, quiet))
        found = _checkpoint(place, ranks)
        total = ranks.together(lambda: _compare(setup.requested, place, found))
        summary = ranks.first(lambda: _finished(place, found))
        if found is None and summary is not None and total is not None:
            raise ConfigError(
                [f"the run in {folder} has finished, and has no checkpoint to continue from: use "
                 "another --run-dir"]
            )  # fmt: skip
        if total is None and summary is not None:
            _tell(quiet, f"the run in {folder} has finished: there is nothing to do")
            return Trained(folder, summary)
        if found is None:
            _require_nothing_learned(place)
            return _begin(
                place, setup, envs, eval_envs, hooks, quiet, imports_seconds, seed_globals, ranks
            )
        return resume_from(
            place, found, envs, total, eval_envs, own, hooks, quiet, imports_seconds,
            seed_globals, ranks=ranks,
        )  # fmt: skip


def _held(folder: Path, quiet: bool) -> AbstractContextManager[Place]:
    """Creates and locks the folder. Raises ConfigError.

    Waits for a process on another machine whose lock is not stale yet.
    """
    return locked_folder(folder, waits=True, report=lambda line: _tell(quiet, line))


def _checkpoint(place: Place, ranks: Ranks) -> Checkpoint | None:
    """Returns the last checkpoint of a run that all ranks have, or None.

    Raises:
        ConfigError: The folder holds something else than a run.
        CheckpointError: The checkpoint is damaged.
    """
    ranks.together(lambda: _require_run(place))
    # The process may have died before its first checkpoint became the latest.
    name = ranks.common(checkpoint_names(place))
    if ranks.count == 1:
        with contextlib.suppress(FileNotFoundError):
            name = read_latest(place)
    return None if name is None else load_checkpoint(place, name)


def _require_run(place: Place) -> None:
    """Raises ConfigError if the folder holds something else than a run."""
    if not exists(place / "config.json") and (foreign := foreign_names(place)):
        raise ConfigError(
            [
                f"run_dir {place} contains {foreign[0]!r} and no run: use "
                "a folder that is new or empty"
            ]
        )
    if is_table_run(place):
        raise ConfigError([f"run_dir {place} is a tabular run, which has no checkpoints"])


def _compare(config: Config, place: Place, found: Checkpoint | None) -> int | None:
    """Returns the new total of steps if it is larger than the run's, else None.

    Raises:
        ConfigError: Options differ from those of the run, a line each.
    """
    try:
        resolved = read_config(place)
    except ConfigError:
        if found is not None:
            raise
        return None  # the process died before it wrote them
    requested = read_config(place, "requested.json") if exists(place / "requested.json") else None
    lines = []
    for name in (each for each in config.__dataclass_fields__ if each not in _FREE):
        ours, theirs = getattr(config, name), getattr(resolved, name)
        before = theirs if requested is None else getattr(requested, name)
        undecided = requested is None and ours in (None, "auto")
        if ours not in (before, theirs) and not undecided:
            lines.append(f"{name} is {ours}, and {before} in the run in {place}")
    had = config_of(place, found)[1] if found is not None else None
    total, line = _new_total(config, requested or resolved, had or resolved.total_timesteps)
    lines += [line] if line else []
    if lines:
        raise ConfigError([*lines, "a run keeps its options: use another --run-dir"])
    return total


def _new_total(config: Config, requested: Config, had: int | None) -> tuple[int | None, str | None]:
    """Returns (a larger total of steps than the run's, or None; an error message, or None)."""
    total = config.total_timesteps
    if total in (requested.total_timesteps, had):
        return None, None
    if total is None or had is None or total < had:
        return None, f"total_timesteps is {total}, and {had} in the run: it may only grow"
    return total, None


def _finished(place: Place, found: Checkpoint | None) -> dict[str, Any] | None:
    """Returns the summary of a finished run, or None. Its checkpoints may have been deleted."""
    try:
        summary = json.loads(read_text(place / "summary.json"))
        reason, steps = summary["exit_reason"], summary["total_steps"]
    except (ValueError, TypeError, KeyError, RecursionError):  # missing or incomplete
        return None
    is_of_this = found is None or steps == found.steps
    return summary if reason in (SOLVED, SPENT) and is_of_this else None


def _require_nothing_learned(place: Place) -> None:
    """Raises ConfigError if a run without checkpoints has weights that a restart removes."""
    for name in ("policy.safetensors", "best.safetensors"):
        if exists(place / name):
            raise ConfigError(
                [f"the run in {path_of(place)} has no checkpoint to continue from, and {name}, "
                 "which a restart would remove: use another --run-dir, or delete the file"]
            )  # fmt: skip


def _begin(
    place: Place,
    setup: Setup,
    envs: VectorEnv | Factory | None,
    eval_envs: VectorEnv | None,
    hooks: Hooks,
    quiet: bool,
    imports_seconds: float,
    seed_globals: bool,
    ranks: Ranks,
) -> Trained:
    if seed_globals:
        seed_global_generators(rank_seed(setup.config.seed, ranks.index))
    session = build.build(
        setup, run_display(quiet), envs, eval_envs, hooks, folder=place, ranks=ranks
    )
    return run_session(session, imports_seconds)


def _tell(quiet: bool, line: str) -> None:
    if not quiet:
        print(line, flush=True)
