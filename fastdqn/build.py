"""Build: a whole run out of options; with parts.py the only place where they become objects."""

import contextlib
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from gymnasium.vector import VectorEnv
from torch import nn

from fastdqn import devices, parts
from fastdqn.acting import EnvFacts, EnvStream, Factory
from fastdqn.atari import PROTOCOLS, frames_a_step
from fastdqn.combinations import remarks
from fastdqn.config import Config, ConfigError
from fastdqn.device_memory import memory_errors
from fastdqn.engine.checkpoints import Checkpointer, restore
from fastdqn.engine.judge import Judge
from fastdqn.engine.local import Cadence, Hooks, Run
from fastdqn.learning.flat import FlatParameters
from fastdqn.learning.policy import Policy
from fastdqn.learning.probe import host_read
from fastdqn.plain import StateError
from fastdqn.ready import Notices, get_ready
from fastdqn.record.checkpoint import CheckpointWriter
from fastdqn.record.console import Display
from fastdqn.record.disk_errors import DiskErrors, EndRun, GoOn
from fastdqn.record.files import WriteError, write_whole
from fastdqn.record.folder import create_folder
from fastdqn.record.load_checkpoint import Checkpoint
from fastdqn.record.lock import LockedError, RunLock
from fastdqn.record.metrics import MetricsSink, TensorBoardEvents
from fastdqn.record.recorder import RunRecorder
from fastdqn.record.wandb_run import WandbRun
from fastdqn.record.weights import save_weights
from fastdqn.resolve import choose_learner, resolve, threads_of_torch
from fastdqn.schedules import Budget, EpisodicEpsilon, LadderEpsilon, Linear
from fastdqn.seeds import CONFIRM, EVAL, TRAIN, env_seed
from fastdqn.session import Evaluations, Session
from fastdqn.sizes import network_weights
from fastdqn.streams import make_streams
from fastdqn.timing import Laps, process_age
from fastdqn.torsos import remark, settle


def build(
    config: Config,
    make_display: Callable[[Config], Display],
    envs: VectorEnv | Factory | None = None,
    eval_envs: VectorEnv | None = None,
    torso: nn.Module | None = None,
    hooks: Hooks | None = None,
    clock: Callable[[], float] = time.perf_counter,
    resumed: Checkpoint | None = None,
    total_timesteps: int | None = None,
    had_timesteps: int | None = None,
) -> Session:
    """Turn options into a run that is ready to start; the options must have passed check().

    make_display  resolved Config to Display
    envs, eval_envs  ready environments in place of env_id, or a factory of lanes; without
                     eval_envs ready envs are never evaluated
    hooks   calls of the user's own
    clock   of the loop's phases; one that waits for the device first bills its work exactly
    resumed  go on from a checkpoint of a run with this config, whose lock is held;
             total_timesteps is its new total, None: what it had; schedules keep their horizon
    Raises ConfigError where the run folder cannot be had; ValueError where torso does not fit;
    EnvError where a first reset fails; StateError where the checkpoint does not fit.
    """
    startup, hooks = Laps(), hooks or Hooks()
    # What is made here is closed here if a later part fails.
    with memory_errors(config.device), ExitStack() as unbegun, ExitStack() as owned:
        # Started once: lanes of EnvPool's under way would never be idle again.
        seed = env_seed(config.seed, TRAIN, 0 if resumed is None else resumed.steps)
        streams = make_streams(config, envs, eval_envs, seed, owned)
        stream, eval_stream, limit, how, watchdog = streams
        asked = config
        config, notes = _resolve(config, stream.facts, torso, limit, how)
        owned.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(threads_of_torch(config))
        owned.enter_context(devices.arithmetic(config))
        online, description = parts.make_online(config, stream.facts, torso)
        # The first reset tells whether there are masks, which the replay keeps.
        start = stream.start(seed)
        startup.lap("build")
        facts = stream.facts._replace(has_masks=stream.mask is not None)
        replay = parts.make_replay(config, facts)
        batch = replay.new_batch(config.batch_size)
        notices = Notices()
        config, ready = get_ready(config, asked.capture, online, batch, stream, facts, notices)
        startup.lap("kernels")
        folder = _take_folder(config, resumed is not None, unbegun, owned)
        total = total_timesteps or had_timesteps or config.total_timesteps
        budget = Budget(total, config.total_episodes)
        recorder = _make_recorder(config, folder, make_display, online, description, hooks, budget)
        owned.callback(recorder.close)
        evaluations = make_evaluations(config, ready.policy, eval_stream)
        judge = make_judge(config, evaluations, recorder)
        policy, learner = ready.policy, ready.learner
        followers = parts.make_followers(config, policy, learner, replay, facts, recorder.warn)
        run = Run(
            stream, policy, replay, ready.staging, learner, make_epsilon(config),
            budget, make_cadence(config), recorder, judge, start, followers, hooks,
            returns=ready.returns if replay.wants_priorities else None, laps=Laps(clock),
        )  # fmt: skip
        notes = [*notes, *notices.lines, *remarks(config)]
        notices.show = recorder.say
        if resumed is not None:
            notes += _resume(run, config, resumed, total_timesteps)
        run.checkpoints = _make_checkpoints(config, recorder, run, resumed, owned)
        if resumed is not None:  # last: from here on the checkpoint is the latest
            notes += _go_back(recorder, resumed)
        startup.lap("build")
        unbegun.pop_all()
        return Session(
            config, run, recorder, judge, evaluations, startup, owned.pop_all(),
            limit is not None, notes, watchdog=watchdog,
        )  # fmt: skip


def _resolve(
    config: Config, facts: EnvFacts, torso: nn.Module | None, limit: int | None, how: str
) -> tuple[Config, list[str]]:
    """The options with every None and auto decided, and lines that say what learns, and why.
    Raises ConfigError where a torso cannot be captured, and capture is graph.
    """
    config = settle(config, facts)
    weights, read = network_weights(config, facts), None
    device, why = devices.choose_device(config, weights)
    if torso is not None:
        weights = sum(parameter.numel() for parameter in torso.parameters())
        device, why = devices.choose_device(config, weights)
        read = host_read(torso, facts.obs_shape) if device != "cpu" else None
    if read is not None and config.capture == "graph":
        raise ConfigError([f"capture is graph, and the torso reads the host: {read}; use auto"])
    resolved = resolve(config, weights, limit, how, torso is not None, facts.stack, read)
    learner, reason = choose_learner(config.replace(device=device), weights, torso is not None)
    flattened = remark(config.torso, facts) if torso is None else None
    notes = [f"learner {learner}: {reason}", *filter(None, [why, flattened])]
    if device != "cpu":
        capture, reason = devices.choose_capture(config.replace(device=device), read)
        notes.append(f"capture {capture}: {reason}")
    return resolved, notes


def _resume(
    run: Run, config: Config, checkpoint: Checkpoint, total_timesteps: int | None
) -> list[str]:
    """Bring a run to a checkpoint, its folder left as it is; returns lines that say what was
    restored and what was not."""
    lines = restore(run, checkpoint.state, checkpoint.weights, checkpoint.segments)
    progress = run.progress
    if progress.steps != checkpoint.steps:
        raise StateError(f"progress: steps is {progress.steps}, the checkpoint is of others")
    if checkpoint.state["replay"] is None:
        # As at the beginning: nothing is learned before there is something to learn from, and
        # steps made while there was not earn no updates.
        starts = progress.steps + config.learning_starts
        run.cadence = replace(run.cadence, learning_starts=starts)
    if total_timesteps is not None:
        progress.ended = ""
    return [
        f"resumed from {checkpoint.name}: {progress.steps:,} steps, {progress.episodes:,} "
        f"episodes, {progress.updates:,} updates",
        *lines,
    ]


def _go_back(recorder: RunRecorder, checkpoint: Checkpoint) -> list[str]:
    """Bring a run's folder to a checkpoint; returns lines that say what was not restored."""
    best = recorder.folder / "best.safetensors"
    if checkpoint.best is None:
        best.unlink(missing_ok=True)
    else:
        write_whole(best, checkpoint.best)
    (recorder.folder / "traceback.txt").unlink(missing_ok=True)
    return recorder.cut_back(checkpoint.steps)


def _make_checkpoints(
    config: Config, recorder: RunRecorder, run: Run, resumed: Checkpoint | None, owned: ExitStack
) -> Checkpointer:
    described = {"config": json.loads(config.to_json()), "total_timesteps": run.budget.total_steps}
    folder = recorder.folder
    sink = CheckpointWriter(folder, described, resumed, recorder.files, recorder.say)
    owned.callback(_let_go, sink)
    judge = run.judge

    def best() -> Path | None:
        there = judge is not None and judge.best_mean is not None
        return folder / "best.safetensors" if there else None

    return Checkpointer(
        sink, config.checkpoint_frequency, config.checkpoint_seconds, config.checkpoint_replay,
        best, run.replay.ring.added.copy(), time.monotonic, recorder.disk,
    )  # fmt: skip


def _let_go(sink: CheckpointWriter) -> None:
    """Wait for what is being written; a run that failed to write has said so."""
    with contextlib.suppress(WriteError):
        sink.close()


def _take_folder(config: Config, is_there: bool, unbegun: ExitStack, owned: ExitStack) -> Path:
    """The run's folder; a new one is made, and locked."""
    assert config.run_dir is not None
    folder = Path(config.run_dir)
    if is_there:
        return folder
    create_folder(config, _device_name(config.device), unbegun)
    try:
        owned.enter_context(RunLock(folder))
    except LockedError as error:
        raise ConfigError([str(error)]) from None
    return folder


def make_epsilon(config: Config):
    if config.exploration == "ladder":
        return LadderEpsilon(config.ladder_epsilon, config.ladder_alpha, config.num_envs)
    first, last = config.exploration_initial_eps, config.exploration_final_eps
    assert first is not None
    assert last is not None
    if config.exploration_decay is not None:
        return EpisodicEpsilon(first, last, config.exploration_decay)
    # Without a total there is no share of it, and nothing falls: see combinations.py.
    return Linear(first, last, round(config.exploration_fraction * (config.total_timesteps or 0)))


def make_cadence(config: Config) -> Cadence:
    assert config.log_frequency is not None
    return Cadence(
        config.learning_starts, config.train_frequency, config.eval_frequency, config.log_frequency
    )


def _make_recorder(
    config: Config,
    folder: Path,
    make_display: Callable[[Config], Display],
    online: FlatParameters,
    description: dict,
    hooks: Hooks,
    budget: Budget,
) -> RunRecorder:
    sinks: list[MetricsSink] = [TensorBoardEvents(folder)] if config.tensorboard else []
    if config.wandb:
        sinks.append(WandbRun(folder, json.loads(config.to_json())))
    return RunRecorder(
        folder,
        make_display(config),  # last: a live panel holds the terminal until it is closed
        sinks,
        lambda path: save_weights(path, online.named_tensors(), description),
        budget.fraction,
        hooks.on_evaluation,
        frames_a_step(config.atari_protocol, config.env_kwargs),
        disk_errors(config),
    )


def disk_errors(config: Config) -> Callable[[Callable[[str], None]], DiskErrors]:
    """What becomes of a run whose files cannot be written, still without a way to tell it."""
    return {"stop": EndRun, "continue": GoOn}[config.on_disk_error]


def make_evaluations(
    config: Config, policy: Policy, stream: EnvStream | None
) -> Evaluations | None:
    if stream is None:
        return None
    assert config.eval_max_steps is not None
    # Values of scaled or clipped rewards, of lives, or with a bonus are of another currency.
    other = config.normalize_reward or config.munchausen or config.atari_protocol in PROTOCOLS
    return Evaluations(
        policy, stream, config.eval_episodes, config.eval_max_steps, config.seed,
        None if other else config.gamma,
    )  # fmt: skip


def make_judge(
    config: Config, evaluations: Evaluations | None, recorder: RunRecorder
) -> Judge | None:
    if evaluations is None or config.eval_frequency == 0:
        return None
    purposes = {"eval": EVAL, "confirm": CONFIRM}
    return Judge(
        lambda kind, count: evaluations(purposes[kind], count),
        recorder,
        config.stop_at_return,
        process_age,
    )


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
