"""Builds a run from its options and environments, ready to start."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

import torch
from gymnasium.vector import VectorEnv
from torch import nn

from fastdqn.builders import agent as agent_builder
from fastdqn.builders import devices
from fastdqn.builders import run_outputs as recorder_builder
from fastdqn.builders.auto_options import choose_learner, resolve, threads_of_torch
from fastdqn.builders.environments import Streams, make_streams
from fastdqn.builders.memory_estimate import network_weights
from fastdqn.builders.torso_kinds import remark, settle
from fastdqn.builders.warm_up import Notices, Ready, get_ready
from fastdqn.checkpoints.loader import Checkpoint
from fastdqn.config.atari_protocols import PROTOCOLS
from fastdqn.config.conflicts import remarks
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import EnvFacts, EnvStream, Factory, Step
from fastdqn.files.open_folder import Place
from fastdqn.learning.capturable import host_read
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.networks import initialized
from fastdqn.learning.out_of_memory import memory_errors
from fastdqn.learning.policy import Policy
from fastdqn.learning.precision import float32_by_default
from fastdqn.logging.console import Display
from fastdqn.logging.recorder import RunRecorder
from fastdqn.replay import Replay
from fastdqn.schedules import Budget, EpisodicEpsilon, LadderEpsilon, Linear
from fastdqn.seeding import CONFIRM, EVAL, TRAIN, env_seed
from fastdqn.session import Evaluations, Session
from fastdqn.state_dict import StateError
from fastdqn.timing import Laps, process_age
from fastdqn.training.best_weights import BestWeights
from fastdqn.training.checkpointer import restore
from fastdqn.training.loop import Cadence, Hooks, Run


class _Agent(NamedTuple):
    """The part of a run that needs no folder. config is resolved, start is the first step."""

    config: Config
    facts: EnvFacts
    start: Step
    replay: Replay
    ready: Ready
    online: FlatParameters
    description: dict
    notes: list[str]
    notices: Notices


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
    folder: Place | None = None,
) -> Session:
    """Builds a run from options that passed preflight.check().

    Args:
        config: The options.
        make_display: Makes the display from the resolved options.
        envs: A VectorEnv or a function that makes one environment, in place of env_id.
        eval_envs: A VectorEnv for evaluations. Without it, a VectorEnv is never evaluated.
        torso: Replaces the built-in torso.
        hooks: The callbacks.
        clock: Clock of the phase times. One that synchronizes the device bills its work to the
            right phase.
        resumed: A checkpoint of this run, whose folder is locked.
        total_timesteps: New total of steps of a resumed run, or None. Schedules keep their horizon.
        had_timesteps: Total of steps of the resumed run.
        folder: The locked folder of the run. None: a new one.

    Raises:
        ConfigError: The run folder cannot be made.
        ValueError: The torso does not fit.
        EnvError: The first reset fails.
        StateError: The checkpoint does not fit.
    """
    startup, hooks, requested = Laps(), hooks or Hooks(), config
    # Closes what was made before if a later part fails.
    with memory_errors(config.device), ExitStack() as unbegun, ExitStack() as owned:
        # Started only once, since EnvPool's environments cannot be stopped again.
        seed = env_seed(config.seed, TRAIN, 0 if resumed is None else resumed.steps)
        streams = make_streams(config, envs, eval_envs, seed, owned)
        agent = _make_agent(config, streams, torso, seed, startup, owned)
        config, policy = agent.config, agent.ready.policy
        handed_in = recorder_builder.names_of(envs, torso)
        if folder is None:
            folder = recorder_builder.take_folder(
                config, unbegun, owned, requested=requested, handed_in=handed_in
            )
        elif resumed is None:
            recorder_builder.begin_in(folder, config, requested, unbegun, handed_in)
        total = total_timesteps or had_timesteps or config.total_timesteps
        budget = Budget(total, config.total_episodes)
        weights = (agent.online, agent.description)
        recorder = recorder_builder.make_recorder(
            config, folder, make_display, weights, hooks, budget
        )
        owned.callback(recorder.close)
        evaluations = make_evaluations(config, policy, streams.evaluation)
        best_weights = make_best_weights(config, evaluations, recorder)
        run = _make_run(agent, streams.training, budget, recorder, best_weights, hooks, Laps(clock))
        notes = [*agent.notes, *agent.notices.lines, *remarks(config)]
        agent.notices.show = recorder.say
        if resumed is not None:
            notes += _resume(run, config, resumed, total_timesteps)
        run.checkpoints = recorder_builder.make_checkpoints(
            config, recorder, run, resumed, owned, agent.description["torso"] == "custom"
        )
        if resumed is not None:  # last, since the checkpoint then becomes the latest
            notes += recorder_builder.restore_files(recorder, resumed)
        startup.lap("build")
        unbegun.pop_all()
        return Session(
            config, run, recorder, best_weights, evaluations, startup, owned.pop_all(),
            streams.limit is not None, notes, watchdog=streams.watchdog,
            final_evaluation=bool(config.final_evaluation),
        )  # fmt: skip


def _make_agent(
    config: Config,
    streams: Streams,
    torso: nn.Module | None,
    seed: int,
    startup: Laps,
    owned: ExitStack,
) -> _Agent:
    """Starts the training environments, and makes and warms up replay, learner and policy."""
    stream, asked, notices = streams.training, config.capture, Notices()
    config, notes = _resolve(config, stream.facts, torso, streams.limit, streams.how)
    owned.callback(torch.set_num_threads, torch.get_num_threads())
    torch.set_num_threads(threads_of_torch(config))
    owned.enter_context(devices.arithmetic(config))
    with float32_by_default():
        online, description = agent_builder.make_online(config, stream.facts, torso)
    # Only the first reset shows whether there are action masks, which the replay stores.
    start = stream.start(seed)
    startup.lap("build")
    facts = stream.facts._replace(has_masks=stream.mask is not None)
    replay = agent_builder.make_replay(config, facts)
    batch = replay.new_batch(config.batch_size)
    with float32_by_default():
        config, ready = get_ready(config, asked, online, batch, stream, facts, notices)
    startup.lap("kernels")
    return _Agent(config, facts, start, replay, ready, online, description, notes, notices)


def _resolve(
    config: Config, facts: EnvFacts, torso: nn.Module | None, limit: int | None, how: str
) -> tuple[Config, list[str]]:
    """Returns the resolved options, and lines about the chosen learner and device.

    Raises:
        ConfigError: capture is graph, and the torso cannot be captured.
    """
    config = settle(config, facts)
    weights, read = network_weights(config, facts), None
    device, why = devices.choose_device(config, weights)
    if torso is not None:
        torso = initialized(torso, facts.obs_shape)
        weights = sum(parameter.numel() for parameter in torso.parameters())
        device, why = devices.choose_device(config, weights)
        read = host_read(torso, facts.obs_shape) if device != "cpu" else None
    if read is not None and config.capture == "graph":
        raise ConfigError(
            [f"capture is graph, and the torso reads from the host ({read}): use --capture auto"]
        )
    resolved = resolve(config, weights, limit, how, torso is not None, facts.stack, read)
    learner, reason = choose_learner(config.replace(device=device), weights, torso is not None)
    flattened = remark(config.torso, facts) if torso is None else None
    notes = [f"learner {learner}: {reason}", *filter(None, [why, flattened])]
    if device != "cpu":
        capture, reason = devices.choose_capture(config.replace(device=device), read)
        notes.append(f"capture {capture}: {reason}")
    return resolved, notes


def _make_run(
    agent: _Agent,
    stream: EnvStream,
    budget: Budget,
    recorder: RunRecorder,
    best_weights: BestWeights | None,
    hooks: Hooks,
    laps: Laps,
) -> Run:
    config, replay, ready = agent.config, agent.replay, agent.ready
    followers = agent_builder.make_followers(
        config, ready.policy, ready.learner, replay, agent.facts, recorder.warn
    )
    return Run(
        stream, ready.policy, replay, ready.staging, ready.learner, make_epsilon(config), budget,
        make_cadence(config), recorder, best_weights, agent.start, followers, hooks,
        feedback=ready.feedback if replay.wants_priorities else None, laps=laps,
    )  # fmt: skip


def _resume(
    run: Run, config: Config, checkpoint: Checkpoint, total_timesteps: int | None
) -> list[str]:
    """Restores a run from a checkpoint, without its folder. Returns lines about it."""
    lines = restore(run, checkpoint.state, checkpoint.weights, checkpoint.segments)
    progress = run.progress
    if progress.steps != checkpoint.steps:
        raise StateError(f"progress: steps is {progress.steps}, not that of the checkpoint")
    if checkpoint.state["replay"] is None:
        # The replay is empty again: learning starts after as many steps as at first, and the steps
        # before that earn no updates.
        starts = progress.steps + config.learning_starts
        run.cadence = replace(run.cadence, learning_starts=starts)
    if total_timesteps is not None:
        progress.ended = ""
    elif progress.ended:
        lines.append(f"the run had finished ({progress.ended}): give a larger total_timesteps")
    return [
        f"resumed from {checkpoint.name}: {progress.steps:,} steps, {progress.episodes:,} "
        f"episodes, {progress.updates:,} updates",
        *lines,
    ]


def make_epsilon(config: Config):
    if config.exploration == "ladder":
        return LadderEpsilon(config.ladder_epsilon, config.ladder_alpha, config.num_envs)
    first, last = config.exploration_initial_eps, config.exploration_final_eps
    assert first is not None
    assert last is not None
    if config.exploration_decay is not None:
        return EpisodicEpsilon(first, last, config.exploration_decay)
    # Validation ensures that epsilon is constant without a total of steps.
    return Linear(first, last, round(config.exploration_fraction * (config.total_timesteps or 0)))


def make_cadence(config: Config) -> Cadence:
    assert config.log_frequency is not None
    return Cadence(
        config.learning_starts, config.train_frequency, config.eval_frequency, config.log_frequency
    )


def make_evaluations(
    config: Config, policy: Policy, stream: EnvStream | None
) -> Evaluations | None:
    if stream is None:
        return None
    assert config.eval_max_steps is not None
    # Values of scaled or clipped rewards, of lives, or with a bonus do not predict returns.
    other = config.normalize_reward or config.munchausen or config.atari_protocol in PROTOCOLS
    return Evaluations(
        policy, stream, config.eval_episodes, config.eval_max_steps, config.seed,
        None if other else config.gamma,
    )  # fmt: skip


def make_best_weights(
    config: Config, evaluations: Evaluations | None, recorder: RunRecorder
) -> BestWeights | None:
    if evaluations is None or config.eval_frequency == 0:
        return None
    purposes = {"eval": EVAL, "confirm": CONFIRM}
    return BestWeights(
        lambda kind, count: evaluations(purposes[kind], count),
        recorder,
        config.stop_at_return,
        process_age,
    )
