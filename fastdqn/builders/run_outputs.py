"""Builds the run folder, the recorder and the checkpointer of a run."""

import contextlib
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from fastdqn.builders.parts import UserParts
from fastdqn.checkpoints.background_writer import CheckpointWriter
from fastdqn.checkpoints.loader import Checkpoint
from fastdqn.checkpoints.network_weights import SNAPSHOTS, save_weights
from fastdqn.config.atari_protocols import frames_a_step
from fastdqn.config.schema import Config, ConfigError
from fastdqn.files.atomic_write import WriteError, write_whole
from fastdqn.files.disk_error_policy import ContinueRun, DiskErrors, EndRun
from fastdqn.files.durable_write import TEMPORARY, exists, remove
from fastdqn.files.open_folder import Place, Where, names_in
from fastdqn.files.run_folder import HandedIn, clear, create_folder, name_of, write_known
from fastdqn.files.run_lock import LockedError, RunLock
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.logging.console import Display
from fastdqn.logging.metric_sinks import MetricsSink, TensorBoardEvents
from fastdqn.logging.recorder import RunRecorder
from fastdqn.logging.wandb_run import WandbRun
from fastdqn.ranks.one_rank import Ranks
from fastdqn.schedules import Budget
from fastdqn.training.checkpointer import Checkpointer
from fastdqn.training.loop import Hooks, Run


def take_folder(
    config: Config,
    unbegun: ExitStack,
    owned: ExitStack,
    options: str | None = None,
    requested: Config | None = None,
    handed_in: HandedIn = HandedIn(),  # noqa: B008
) -> Place:
    """Creates and locks the folder of a new run.

    Args:
        config: Resolved options.
        unbegun: Removes the folder if building the run fails.
        owned: Releases the lock when the run is closed.
        options: Content of config.json, if it is not config.
        requested: Options before None and auto were resolved.
        handed_in: Names of objects that were passed from Python.

    Raises:
        ConfigError: The folder cannot be made, or another process holds it.
    """
    asked = None if requested is None else requested.to_json()
    folder = create_folder(config, _device_name(config.device), unbegun, options, asked, handed_in)
    lock = RunLock(folder)
    try:
        owned.enter_context(lock)
    except LockedError as error:
        raise ConfigError([str(error)]) from None
    return lock.place


def names_of(envs: Any, own: UserParts) -> HandedIn:
    """Returns the recorded names of the objects that were passed from Python."""
    envs, torso = (None if each is None else name_of(each) for each in (envs, own.torso))
    return HandedIn(envs, torso, {name: name_of(part) for name, part in own.objects.items()})


def begin_in(
    folder: Place, config: Config, requested: Config, unbegun: ExitStack, handed_in: HandedIn
) -> None:
    """Starts a run in a locked folder, after removing what a run without a checkpoint left."""
    clear(folder)
    unbegun.callback(clear, folder)
    device = _device_name(config.device)
    write_known(folder, config.to_json(), device, requested.to_json(), handed_in)


def make_recorder(
    config: Config,
    folder: Place,
    make_display: Callable[[Config], Display],
    weights: tuple[FlatParameters, dict],
    hooks: Hooks,
    budget: Budget,
) -> RunRecorder:
    """Returns the recorder of a run. weights: the online network and its description."""
    online, description = weights
    sinks: list[MetricsSink] = [TensorBoardEvents(folder)] if config.tensorboard else []
    if config.wandb:
        sinks.append(WandbRun(folder, json.loads(config.to_json())))
    return RunRecorder(
        folder,
        make_display(config),  # last, since a live panel occupies the terminal until it is closed
        sinks,
        lambda path: save_weights(path, online.named_tensors(), description),
        budget.fraction,
        hooks.on_evaluation,
        frames_a_step(config.atari_protocol, config.env_kwargs),
        disk_errors(config),
        config.info_keys,
    )


def disk_errors(config: Config) -> Callable[[Callable[[str], None]], DiskErrors]:
    """Returns a factory of the handler of disk errors. It takes a function that warns."""
    return {"stop": EndRun, "continue": ContinueRun}[config.on_disk_error]


def make_checkpoints(
    config: Config,
    recorder: RunRecorder,
    run: Run,
    resumed: Checkpoint | None,
    owned: ExitStack,
    own_torso: bool,
    ranks: Ranks,
    continues: bool = True,
) -> Checkpointer:
    """Returns the checkpointer of a run.

    Args:
        own_torso: Whether a torso was passed from Python, which resume() then needs again.
        ranks: All save in the same turn.
        continues: Whether the replay of a resumed run goes on where the checkpoint ends.
    """
    described = {
        "config": json.loads(config.to_json()), "total_timesteps": run.budget.total_steps,
        "own_torso": own_torso,
    }  # fmt: skip
    folder, ring = recorder.place, run.replay.ring
    keeps = continues and resumed is not None and resumed.state["replay"] is not None
    on_disk = ring.added.copy() if keeps else np.zeros_like(ring.added)
    sink = CheckpointWriter(folder, described, resumed, recorder.files, recorder.say, continues)
    owned.callback(_close_quietly, sink)
    best_weights = run.best_weights

    def best() -> Where | None:
        there = best_weights is not None and best_weights.best_mean is not None
        return folder / "best.safetensors" if there else None

    return Checkpointer(
        sink, config.checkpoint_frequency, config.checkpoint_seconds, config.checkpoint_replay,
        best, on_disk, *ranks.writer(lambda: sink.ready, time.monotonic), recorder.disk,
    )  # fmt: skip


def _close_quietly(sink: CheckpointWriter) -> None:
    """Waits for the write in progress. A failed write has been reported before."""
    with contextlib.suppress(WriteError):
        sink.close()


def restore_files(recorder: RunRecorder, checkpoint: Checkpoint) -> list[str]:
    """Restores the files of a run folder as of a checkpoint. Returns warnings."""
    for name in names_in(recorder.place):
        if name.startswith(TEMPORARY):  # left by a killed process
            remove(recorder.place / name)
    if exists(recorder.place / SNAPSHOTS):
        for name in names_in(recorder.place / SNAPSHOTS):  # of steps that are made again
            if name > f"step-{checkpoint.steps:012d}.safetensors":
                remove(recorder.place / SNAPSHOTS / name)
    best = recorder.place / "best.safetensors"
    for file in (best, recorder.place / "traceback.txt"):
        if exists(file) and (file != best or checkpoint.best is None):
            remove(file)
    if checkpoint.best is not None:
        write_whole(best, checkpoint.best)
    return recorder.cut_back(checkpoint.steps)


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
