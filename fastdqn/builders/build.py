"""Builds a run from its options and environments, ready to start."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from fastdqn.builders import agent as agent_builder
from fastdqn.builders import devices
from fastdqn.builders import run_outputs as recorder_builder
from fastdqn.builders.changed_options import Course
from fastdqn.builders.environments import Streams, make_streams
from fastdqn.builders.nvtx import mark_for_tools
from fastdqn.builders.parts import NO_PARTS, UserParts, make_part
from fastdqn.builders.prefill import Recorded, fill, read_prefill
from fastdqn.builders.preflight import Setup
from fastdqn.builders.rank_share import share_of
from fastdqn.builders.warm_start import (
    STATISTICS_COUNT,
    Source,
    adopt,
    load_initial_weights,
    read_source,
)
from fastdqn.builders.warm_up import Notices, Ready, get_ready
from fastdqn.checkpoints.loader import Checkpoint
from fastdqn.checkpoints.network_weights import require_readable
from fastdqn.cluster.connection import ray_problem
from fastdqn.config.atari_protocols import PROTOCOLS
from fastdqn.config.conflicts import remarks, starts_with_data
from fastdqn.config.presets import kept_goals
from fastdqn.config.registry import WORDS
from fastdqn.config.schema import Config, ConfigError, ResolvedConfig
from fastdqn.envs import EnvFacts, EnvStream, Factory, Step
from fastdqn.envs.errors import one_line
from fastdqn.files.open_folder import Place
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.out_of_memory import memory_errors
from fastdqn.learning.policy import Policy
from fastdqn.learning.precision import float32_by_default
from fastdqn.logging.console import Display
from fastdqn.logging.recorder import RunRecorder
from fastdqn.part_error import PartError
from fastdqn.ranks.one_rank import ONE_RANK, Ranks
from fastdqn.replay import Replay
from fastdqn.schedules import Budget, CheckedEpsilon, CheckedRate
from fastdqn.seeding import CONFIRM, EVAL, TRAIN, env_seed
from fastdqn.session import Evaluations, Session
from fastdqn.state_dict import StateError
from fastdqn.timing import Laps, process_age
from fastdqn.training.best_weights import BestWeights
from fastdqn.training.checkpointer import restore
from fastdqn.training.evaluation import Evaluation, Stopped
from fastdqn.training.loop import Cadence, Hooks, Run, actor_turn, offline_turn, turn
from fastdqn.training.normalization import Normalizer
from fastdqn.training.progress import Progress


class _Agent(NamedTuple):
    """The part of a run that needs no folder. start is the first step."""

    config: ResolvedConfig
    facts: EnvFacts
    start: Step
    replay: Replay
    ready: Ready
    online: FlatParameters
    description: dict
    own: UserParts
    notices: Notices
    source: Source | None
    recorded: list[Recorded]


def build(
    setup: Setup,
    make_display: Callable[[Config], Display],
    envs: VectorEnv | Factory | None = None,
    eval_envs: VectorEnv | None = None,
    hooks: Hooks | None = None,
    clock: Callable[[], float] = time.perf_counter,
    resumed: Checkpoint | None = None,
    total_timesteps: int | None = None,
    had_timesteps: int | None = None,
    folder: Place | None = None,
    course: Course | None = None,
    ranks: Ranks = ONE_RANK,
) -> Session:
    """Builds a run from what preflight.prepare() returned.

    Args:
        setup: The resolved options, and the objects from Python.
        make_display: Makes the display from the resolved options.
        envs: A VectorEnv or a function that makes one environment, in place of env_id.
        eval_envs: A VectorEnv for evaluations. Without it, a VectorEnv is never evaluated.
        hooks: The callbacks.
        clock: Clock of the phase times. One that synchronizes the device bills its work to the
            right phase.
        resumed: A checkpoint of this run, whose folder is locked.
        total_timesteps: New total of steps of a resumed run, or None. Schedules keep their horizon.
        had_timesteps: Total of steps of the resumed run.
        folder: The locked folder of the run. None: a new one.
        course: How the options of a resumed run changed.
        ranks: The processes of the run. This one makes the share of the options that is its own.

    Raises:
        ConfigError: A part or the run folder cannot be made.
        ValueError: The torso does not fit.
        EnvError: The first reset fails.
        StateError: The checkpoint does not fit.
    """
    startup, hooks, config = Laps(), hooks or Hooks(), setup.config
    share = share_of(config, ranks.index, ranks.local_index)
    # Closes what was made before if a later part fails.
    with memory_errors(share.device), ExitStack() as unbegun, ExitStack() as owned:
        # Started only once, since EnvPool's environments cannot be stopped again.
        seed = env_seed(config.seed, TRAIN, 0 if resumed is None else resumed.steps)
        seed += ranks.index * share.num_envs
        remote = _actors_of(setup, envs, resumed, owned) if config.actors else None
        streams = make_streams(share, envs, eval_envs, seed, owned, setup.facts, remote)
        ranks.prepare(share.num_envs, streams.training.num_ready, config.info_keys)
        agent = _make_agent(
            setup._replace(config=share), streams, seed, startup, owned, resumed, ranks
        )
        config, policy = agent.config if ranks.count == 1 else config, agent.ready.policy
        folder = _begin_folder(setup, config, envs, folder, resumed, unbegun, owned, ranks)
        total = total_timesteps or had_timesteps or config.total_timesteps
        budget = Budget(total, config.total_episodes)
        weights = (agent.online, agent.description)
        recorder = recorder_builder.make_recorder(
            agent.config, folder, make_display, weights, hooks, budget
        )
        owned.callback(recorder.close)
        evaluations = make_evaluations(config, policy, streams.evaluation, recorder.known_info)
        best_weights = make_best_weights(config, evaluations, recorder, ranks)
        run = _make_run(
            agent, config, streams.training, budget, recorder, best_weights, hooks, Laps(clock),
            ranks,
        )  # fmt: skip
        notes = [
            *setup.notes, *agent.notices.lines, *remarks(config), *kept_goals(setup.requested),
            *mark_for_tools(run),
        ]  # fmt: skip
        if config.actors:
            _connect_actors(run, streams.training, recorder.warn)
        agent.notices.show = recorder.say
        if resumed is not None:
            notes += _resume(run, agent, resumed, total_timesteps, course)
        notes += _start_from_data(run, agent, resumed)
        run.checkpoints = recorder_builder.make_checkpoints(
            config, recorder, run, resumed, owned, setup.own.torso is not None, ranks,
            continues=course is None or "replay" not in course.anew(),
        )  # fmt: skip
        if resumed is not None:  # last, since the checkpoint then becomes the latest
            notes += recorder_builder.restore_files(recorder, resumed)
            if course is not None:
                notes += course.record(folder, resumed)
        startup.lap("build")
        unbegun.pop_all()
        return Session(
            config, run, recorder, best_weights, evaluations, startup, owned.pop_all(),
            setup.facts._replace(has_masks=agent.facts.has_masks), notes, watchdog=streams.watchdog,
            final_evaluation=config.final_evaluation,
        )  # fmt: skip


def _begin_folder(
    setup: Setup,
    config: ResolvedConfig,
    envs: VectorEnv | Factory | None,
    folder: Place | None,
    resumed: Checkpoint | None,
    unbegun: ExitStack,
    owned: ExitStack,
    ranks: Ranks,
) -> Place:
    """Returns the locked folder of the run; a new run has its options there. Raises ConfigError."""
    handed_in = recorder_builder.names_of(envs, setup.own)
    if folder is None:
        with ranks.in_order():
            return recorder_builder.take_folder(
                config, unbegun, owned, requested=setup.requested, handed_in=handed_in
            )
    if resumed is None:
        recorder_builder.begin_in(folder, config, setup.requested, unbegun, handed_in)
    return folder


def _make_agent(
    setup: Setup,
    streams: Streams,
    seed: int,
    startup: Laps,
    owned: ExitStack,
    resumed: Checkpoint | None,
    ranks: Ranks,
) -> _Agent:
    """Starts the training environments, and makes and warms up replay, learner and policy."""
    config, own, stream, notices = setup.config, setup.own, streams.training, Notices()
    _require_same(setup.facts, stream.facts)
    owned.callback(torch.set_num_threads, torch.get_num_threads())
    torch.set_num_threads(config.threads)
    owned.enter_context(devices.arithmetic(config))
    with float32_by_default():
        online, description = agent_builder.make_online(config, stream.facts, own)
    require_readable(description)
    if resumed is None:
        load_initial_weights(config, online, description)
        ranks.broadcast(online.weights, online.buffers)
    # Only the first reset shows whether there are action masks, which the replay stores.
    start = stream.start(seed)
    startup.lap("build")
    facts = stream.facts._replace(has_masks=stream.mask is not None)
    source = read_source(config, facts, description, own) if resumed is None else None
    recorded = []
    if resumed is None or resumed.state.get("replay") is None:
        recorded = read_prefill(config, facts, also_from_run=resumed is not None)
    replay = agent_builder.make_replay(config, facts, own, ranks)
    with float32_by_default():
        config, ready = get_ready(setup, online, replay, stream, facts, notices, ranks)
    startup.lap("kernels")
    return _Agent(
        config, facts, start, replay, ready, online, description, own, notices, source, recorded
    )


def _require_same(tried: EnvFacts, made: EnvFacts) -> None:
    """Raises ConfigError if the environments differ from the one on which options were resolved."""
    for name in ("obs_shape", "obs_dtype", "obs_scale", "num_actions", "action_start", "stack"):
        ours, theirs = getattr(made, name), getattr(tried, name)
        if ours != theirs:
            raise ConfigError(
                [f"{name} of the environments is {ours}, and {theirs} in a trial environment made "
                 "before: all must have the same spaces"]
            )  # fmt: skip


def _make_run(
    agent: _Agent,
    config: ResolvedConfig,
    stream: EnvStream,
    budget: Budget,
    recorder: RunRecorder,
    best_weights: BestWeights | None,
    hooks: Hooks,
    laps: Laps,
    ranks: Ranks,
) -> Run:
    """Returns the run. config: Options of all ranks, which steps and epsilon are counted by."""
    replay, ready = agent.replay, agent.ready
    followers = agent_builder.make_followers(
        agent.config, ready.policy, ready.learner, replay, agent.facts, recorder.warn
    )
    return Run(
        stream, ready.policy, replay, ready.staging, ready.learner,
        _epsilon_of_rank(make_epsilon(config, agent.own), stream.num_lanes, ranks),
        budget, make_cadence(config), recorder, best_weights, agent.start, followers, hooks,
        feedback=ready.feedback if replay.wants_priorities else None, laps=laps,
        progress=Progress(info_keys=config.info_keys),
        learning_rate=make_learning_rate(config, agent.own),
        turn=offline_turn if config.offline else actor_turn if config.actors else turn, ranks=ranks,
    )  # fmt: skip


def _actors_of(
    setup: Setup, envs: VectorEnv | Factory | None, resumed: Checkpoint | None, owned: ExitStack
) -> Callable[[], Any]:
    """Returns what makes the stream of a run with actors. Raises ConfigError."""
    if isinstance(envs, VectorEnv):
        raise ConfigError(
            ["actors make their environments themselves: pass an id or a function that makes one "
             "environment, not a VectorEnv"]
        )  # fmt: skip
    if line := ray_problem():
        raise ConfigError([line])
    from fastdqn.builders.actors import make_remote_stream  # Ray takes a second to load

    steps = 0 if resumed is None else resumed.steps
    return lambda: make_remote_stream(setup.config, envs, setup.facts, setup.own, steps, owned)


def _connect_actors(run: Run, stream: Any, warn: Callable[[str], None]) -> None:
    """Gives actors the weights and epsilon of a run, and the run their priorities."""
    stream.pool.say, stream.pool.stops = warn, lambda: run.stop()
    online, progress = run.learner.online, run.progress

    def weights() -> np.ndarray:
        return torch.cat([online.weights, online.buffers]).cpu().numpy()

    stream.connect(
        lambda: (run.learner.updates, weights),
        lambda: run.epsilon(progress.steps, progress.episodes),
    )
    stream.initial.replay = run.replay if run.replay.wants_priorities else None
    run.followers["actor_priorities"] = stream.initial


def _epsilon_of_rank(
    epsilon: Callable[[int, int], float | np.ndarray], num_lanes: int, ranks: Ranks
) -> Callable[[int, int], float | np.ndarray]:
    """Returns a schedule of this rank's environments, from one of all."""
    first = ranks.index * num_lanes

    def of_rank(steps: int, episodes: int) -> float | np.ndarray:
        of_all = epsilon(steps, episodes)
        return of_all[first : first + num_lanes] if isinstance(of_all, np.ndarray) else of_all

    return epsilon if ranks.count == 1 else of_rank


def _start_from_data(run: Run, agent: _Agent, resumed: Checkpoint | None) -> list[str]:
    """Fills the replay with what the run starts from, which counts for learning_starts."""
    normalizer = run.followers.get("normalizer")
    if resumed is None and agent.config.init_weights and isinstance(normalizer, Normalizer):
        normalizer.keep(STATISTICS_COUNT)
    lines = [] if agent.source is None else adopt(run, agent.config, agent.source)
    if agent.recorded:
        lines += fill(run, agent.recorded, resumes=resumed is not None)
    if resumed is None and starts_with_data(agent.config) and not run.progress.prefilled:
        raise ConfigError(
            ["the run starts from data, and its sources hold no transitions: give others, or leave "
             "out --prefill and --from-parts replay"]
        )  # fmt: skip
    first = run.cadence.learning_starts
    starts = 0 if agent.config.offline else max(0, first - run.progress.prefilled)
    run.cadence = replace(run.cadence, learning_starts=starts)
    return lines


def _resume(
    run: Run,
    agent: _Agent,
    checkpoint: Checkpoint,
    total_timesteps: int | None,
    course: Course | None,
) -> list[str]:
    """Restores a run from a checkpoint, without its folder. Returns lines about it."""
    anew = frozenset() if course is None else course.anew()
    lines = restore(run, checkpoint.state, checkpoint.weights, checkpoint.segments, anew)
    progress = run.progress
    if progress.steps != checkpoint.steps:
        raise StateError(f"progress: steps is {progress.steps}, not that of the checkpoint")
    if course is not None:
        course.apply(run, checkpoint, agent.facts)
    if "stream" in anew:
        lines.append("the environments are reset, and their open episodes are truncated")
    if checkpoint.state["replay"] is None:
        # The replay is empty again: learning starts after as many steps as at first, and the steps
        # before that earn no updates.
        starts, progress.prefilled = progress.steps + agent.config.learning_starts, 0
        run.cadence = replace(run.cadence, learning_starts=starts)
    if total_timesteps is not None:
        progress.ended = ""
    elif progress.ended:
        lines.append(f"the run had finished ({progress.ended}): give a larger --total-timesteps")
    return [
        f"resumed from {checkpoint.name}: {progress.steps:,} steps, {progress.episodes:,} "
        f"episodes, {progress.updates:,} updates",
        *lines,
    ]


def make_epsilon(
    config: ResolvedConfig, own: UserParts = NO_PARTS
) -> Callable[[int, int], float | np.ndarray]:
    """Returns the exploration schedule. Raises ConfigError if it does not return epsilon."""
    schedule = make_part("exploration", config, own)
    if config.exploration in WORDS["exploration"]:
        return schedule
    return _called_once("exploration", CheckedEpsilon(schedule, config.num_envs))


def make_learning_rate(
    config: ResolvedConfig, own: UserParts = NO_PARTS
) -> Callable[[int, int], float] | None:
    """Returns the schedule of the learning rate, or None if it is constant.

    Raises:
        ConfigError: It does not return a learning rate.
    """
    name = config.learning_rate_schedule
    if name == "constant":
        return None
    schedule = make_part("learning_rate_schedule", config, own)
    if config.learning_rate_schedule in WORDS["learning_rate_schedule"]:
        return schedule
    return _called_once("learning_rate_schedule", CheckedRate(schedule))


def _called_once(option: str, schedule: Any) -> Any:
    """Returns a checked schedule after its first call. Raises ConfigError if that fails."""
    try:
        schedule(0, 0)
    except PartError as error:
        raise ConfigError([str(error)]) from None
    except Exception as error:  # user code may raise anything
        raise ConfigError([f"{option} fails at step 0: {one_line(error)}"]) from error
    return schedule


def make_cadence(config: ResolvedConfig) -> Cadence:
    return Cadence(
        config.learning_starts, config.train_frequency, config.eval_frequency,
        config.log_frequency, config.snapshot_frequency,
    )  # fmt: skip


def make_evaluations(
    config: ResolvedConfig,
    policy: Policy,
    stream: EnvStream | None,
    known_info: set[str] | None = None,
) -> Evaluations | None:
    if stream is None:
        return None
    # Values of scaled or clipped rewards, of lives, or with a bonus do not predict returns.
    other = config.normalize_reward or config.munchausen or config.atari_protocol in PROTOCOLS
    return Evaluations(
        policy, stream, config.eval_episodes, config.eval_max_steps, config.seed,
        None if other else config.gamma, known_info,
    )  # fmt: skip


def make_best_weights(
    config: Config, evaluations: Evaluations | None, recorder: RunRecorder, ranks: Ranks = ONE_RANK
) -> BestWeights | None:
    """Returns the best weights, or None without evaluations. Other ranks use those of the first."""
    if (evaluations is None and ranks.index == 0) or config.eval_frequency == 0:
        return None
    purposes = {"eval": EVAL, "confirm": CONFIRM}

    def evaluate(kind: str, count: int) -> Evaluation | Stopped:
        assert evaluations is not None  # the first rank has them
        try:
            return evaluations(purposes[kind], count)
        except Stopped as stopped:
            return stopped

    def evaluate_once(kind: str, count: int) -> Evaluation:
        found = ranks.first(lambda: evaluate(kind, count))
        if isinstance(found, Stopped):
            raise found
        return found

    return BestWeights(
        evaluate_once,
        recorder,
        config.stop_at_return,
        process_age,
    )
