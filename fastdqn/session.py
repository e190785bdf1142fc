"""Session: runs training from the first step to the summary, with evaluation and recording."""

import contextlib
import copy
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fastdqn.checkpoints.network_weights import assign_weights, load_weights
from fastdqn.checkpoints.store import MOST_REPLAYS
from fastdqn.config import atari_protocols
from fastdqn.config.derived_facts import replay_ratio, residual_phases, workers_advice
from fastdqn.config.last_weights import COLLAPSED, is_worse
from fastdqn.config.schema import Config, ResolvedConfig
from fastdqn.envs import EnvError, EnvStream, NonFiniteError
from fastdqn.envs.atari_scores import human_normalized
from fastdqn.envs.env_facts import EnvFacts
from fastdqn.envs.watchdog import Watchdog
from fastdqn.files.atomic_write import WriteError
from fastdqn.files.open_folder import Where
from fastdqn.files.run_lock import LostRunError
from fastdqn.learning.out_of_memory import OutOfMemoryError, memory_errors
from fastdqn.learning.policy import Policy
from fastdqn.logging.metric_rows import steps_per_second
from fastdqn.logging.recorder import RunRecorder
from fastdqn.part_error import PartError
from fastdqn.ranks.one_rank import ONE_RANK, RanksError
from fastdqn.replay import UnstackedError
from fastdqn.seeding import FINAL, env_seed
from fastdqn.system.cpu_limits import usable_cores
from fastdqn.system.python_threads import ThreadError
from fastdqn.system.signals import listen
from fastdqn.timing import Laps
from fastdqn.training import loop
from fastdqn.training.best_weights import BestWeights
from fastdqn.training.evaluation import Evaluation, Promises, Stopped, evaluate
from fastdqn.training.loop import Run

# Errors that end a run with one line and exit code 1, without a traceback.
RUN_FAILURES = (
    EnvError, LostRunError, NonFiniteError, OutOfMemoryError, PartError, RanksError, ThreadError,
    UnstackedError, WriteError, loop.DivergedError,
)  # fmt: skip


class Trained(NamedTuple):
    """The result of a training run: its folder, and the content of its summary.json."""

    folder: Path
    summary: dict[str, Any]


# Suffix of the exit reason while the final evaluation runs.
_PENDING = "; the final evaluation has not ended"


class Evaluations:
    """Runs greedy evaluations of a policy on separate environments.

    Args:
        policy: The policy, unless a call passes another.
        stream: The evaluation environments.
        episodes, max_steps, seed: Of each evaluation.
        gamma: Discount factor of the values if they predict unscaled rewards, else None.
        known_info: Keys of info that an episode had, of training or evaluation. It is extended.
    """

    def __init__(
        self, policy: Policy, stream: EnvStream, episodes: int, max_steps: int, seed: int,
        gamma: float | None = None, known_info: set[str] | None = None,
    ):  # fmt: skip
        self._policy, self.stream, self._gamma = policy, stream, gamma
        self._episodes, self._max_steps, self._seed = episodes, max_steps, seed
        self._known_info = set[str]() if known_info is None else known_info
        self.stop: Callable[[], bool] = lambda: False

    def __call__(self, purpose: int, count: int, policy: Policy | None = None) -> Evaluation:
        seed, policy = env_seed(self._seed, purpose, count), policy or self._policy
        promises = None if self._gamma is None else Promises(policy.expected, self._gamma)
        try:
            evaluation = evaluate(
                policy, self.stream, self._episodes, self._max_steps, seed, self.stop, promises,
                self._known_info,
            )  # fmt: skip
        except (NonFiniteError, EnvError) as error:
            renamed = type(error)(f"in an evaluation: {error}")
            if isinstance(renamed, EnvError):
                renamed.trace = getattr(error, "trace", "")
            raise renamed from error
        self._known_info |= evaluation.info_means().keys()
        return evaluation


@dataclass
class Session:
    """A run with its recorder, evaluations and resources.

    Attributes:
        facts: Properties of the environment.
        notes: Lines to print at the start.
        introduce: Prints what is about to run.
        saved_policy: Loads the policy from a weights file of this run.
    """

    config: ResolvedConfig
    run: Run
    recorder: RunRecorder
    best_weights: BestWeights | None
    evaluations: Evaluations | None
    startup: Laps
    owned: ExitStack
    facts: EnvFacts
    notes: list[str] = field(default_factory=list)
    introduce: Callable[["Session"], None] = lambda session: _introduce(session)
    saved_policy: Callable[[Where, Any], Any] = lambda path, like: _saved_policy(path, like)
    watchdog: Watchdog | None = None
    final_evaluation: bool = True

    def close(self) -> None:
        """Closes the files, and the environments that were made for this run."""
        self.owned.close()


def run_session(session: Session, imports_seconds: float = 0.0) -> Trained:
    """Trains, saves, evaluates and closes the session. Returns folder and summary.

    In the main thread, SIGINT, SIGTERM and SIGHUP stop the run after a checkpoint, and SIGUSR1
    writes a checkpoint. A run that fails leaves its metrics and checkpoints up to then, the
    traceback, a summary with the reason, and the last weights if they are finite.

    Args:
        session: A built run.
        imports_seconds: Time of the imports, for the startup times in the summary.
    """
    session.startup.totals["imports"] = imports_seconds
    run = session.run
    with contextlib.closing(session), listen() as requests:
        run.stop, run.wants_checkpoint = run.ranks.listen(requests.stop, requests.checkpoint)
        if session.evaluations is not None:
            session.evaluations.stop = requests.stop
        session.introduce(session)
        session.startup.resume(session.startup.totals)
        session.recorder.prepare()
        session.startup.lap("build")
        before, began = sum(run.laps.totals.values()), time.perf_counter()

        def wall() -> float:
            return before + time.perf_counter() - began

        if session.watchdog is not None:
            session.watchdog.record = lambda error: _record_reason(session, error, wall(), "failed")
        try:
            with memory_errors(session.config.device):
                reason = loop.train(run)
            if run.checkpoints is not None:
                run.laps.enter("save")
                run.checkpoints.finish(run)
            if reason == loop.INTERRUPTED:
                loop.report(run, final=True)  # truncated when the run is resumed
            run.ranks.finish()
        except KeyboardInterrupt:
            reason = loop.INTERRUPTED
        except BaseException as error:  # callbacks and torsos may raise anything
            if getattr(error, "resumable", False):
                _save_resumable(session)
            _record_failure(session, error, wall())
            raise
        return Trained(session.recorder.folder, _finish(session, reason, wall))


def _finish(session: Session, reason: str, wall: Callable[[], float]) -> dict[str, Any]:
    """Saves the last weights, evaluates the best, and writes and returns the summary."""
    recorder = session.recorder
    session.run.laps.enter("save")
    try:
        recorder.save_last()
        recorder.settle()
    except WriteError as error:
        _record_reason(session, error, wall(), "failed")
        raise
    session.run.laps.leave()
    loop_seconds = wall()
    # Written before the final evaluation, which may fail, be interrupted or be killed.
    pending = reason != loop.INTERRUPTED and session.evaluations is not None
    summary = _summary(session, reason + _PENDING * pending, loop_seconds, None)
    recorder.summary(summary)
    if reason == loop.INTERRUPTED:
        return summary
    try:
        final = _final_evaluation(session)
        last = _evaluation_of_last(session, final)
    except Stopped:
        summary = _summary(
            session, f"{reason}; the final evaluation was interrupted", loop_seconds, None
        )
        recorder.summary(summary)
        return summary
    except Exception as error:
        _record_reason(session, error, loop_seconds, f"{reason}; the final evaluation failed")
        raise
    summary = _summary(session, reason, loop_seconds, final, last)
    recorder.summary(summary)
    return summary


def _introduce(session: Session) -> None:
    """Prints the setup of the run and its particulars."""
    recorder, run, config = session.recorder, session.run, session.config
    way = "fused" if config.learner == "fused" else config.capture
    if config.device != "cpu":
        way += f", {config.precision}, {config.updates_per_launch} updates per launch"
    made = getattr(run.stream, "envs", None)  # none offline
    groups = getattr(made, "groups", None)  # of worker processes
    how = config.vectorization
    if groups is not None:
        how = f"{config.ranks * len(groups)} {how}"
    envs = f"{_counted(config.num_envs)} ({how})"
    if config.offline:
        envs = "offline, without training environments"
    elif config.actors:
        envs = f"{_counted(config.num_envs)} of {config.actors} actors ({config.vectorization})"
    if config.ranks > 1:
        envs += f", {config.ranks} ranks with an equal part of environments, batch and replay each"
    recorder.say(
        f"run folder: {recorder.folder}\n{envs}, "
        f"learner on {config.device} ({way}, threads: {config.threads}); " + replay_ratio(config)
    )
    say_environment(session)
    for phase, meaning in residual_phases(config).items():
        recorder.say(f"phase {phase} is {meaning}")
    if config.atari_protocol in atari_protocols.PROTOCOLS:
        recorder.say(atari_protocols.describe(config.atari_protocol, config.env_kwargs))
    if run.stream.num_ready < run.stream.num_lanes:
        order = "the order in which they finish, so equal seeds may give different results"
        if config.double_buffering:
            order = "strict turns"
        recorder.say(
            f"a step waits for {config.ranks * run.stream.num_ready} of {config.num_envs} "
            f"environments, in {order}"
        )
    kept = "each frame once" if run.replay.ring.stack > 1 else "whole observations"
    kept += f" on {config.device}" if config.store == "device" else ""
    recorder.say(
        f"the replay buffer stores {kept}: {config.ranks * run.replay.nbytes / 2**20:,.1f} MiB for "
        f"{config.buffer_size:,} rows"
    )
    if run.checkpoints is not None:
        held = run.replay.nbytes if config.checkpoint_replay else 0
        times = [
            f"every {config.checkpoint_frequency:,} steps" if config.checkpoint_frequency else "",
            f"every {config.checkpoint_seconds:g} s" if config.checkpoint_seconds else "",
            "at the end",
        ]
        # Everything but rows exists twice, and three times while a checkpoint is written.
        most = config.ranks * (MOST_REPLAYS * held + 3 * run.learner.nbytes)
        recorder.say(
            f"checkpoints at the start, {', '.join(filter(None, times))}, with up to "
            f"{most / 2**20:,.1f} MiB on disk"
        )
    for note in session.notes:
        recorder.say(note)


def say_environment(session: Session) -> None:
    """Prints what was found of the environment."""
    facts, config = session.facts, session.config
    limit, episodes = config.eval_max_steps, config.eval_episodes
    session.recorder.say(f"environment {config.env_id}: {facts}")
    if session.evaluations is not None and facts.max_episode_steps is None:
        session.recorder.say(
            f"evaluation episodes without an end are cut at {limit:,} steps (--eval-max-steps): an "
            f"evaluation has up to {limit * episodes:,} steps"
        )


def _counted(num_envs: int) -> str:
    return f"{num_envs} environment" + "s" * (num_envs > 1)


def _frames(config: Config, steps: int) -> dict[str, int]:
    """Returns the emulator frames of Atari for the summary, or an empty dict."""
    each = atari_protocols.frames_a_step(config.atari_protocol, config.env_kwargs)
    return {} if each is None else {"total_frames": steps * each}


def _save_resumable(session: Session) -> None:
    """Writes a checkpoint after an error of others. Further failures do not hide it."""
    run = session.run
    if run.checkpoints is not None:
        with contextlib.suppress(Exception):
            run.checkpoints.finish(run)


def _record_failure(session: Session, error: BaseException, wall: float) -> None:
    """Writes what can be written after an error. Further failures do not hide it."""
    recorder, session.run.ranks = session.recorder, ONE_RANK
    loop.report_restarts(session.run)  # those of the failed call
    # The report first, since it rejects a loss that is not finite. Each may fail separately.
    records = [lambda: loop.report(session.run, final=True), recorder.save_last]
    if isinstance(error, RanksError):  # a device may wait for another rank forever
        records = []
    for record in records:
        try:
            record()
        except Exception as failed:
            if isinstance(failed, loop.DivergedError):
                break
    _record_reason(session, error, wall, "failed")


def _record_reason(session: Session, error: BaseException, wall: float, what: str) -> None:
    said = str(error) if isinstance(error, RUN_FAILURES) else repr(error)
    trace = getattr(error, "trace", "") or "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError, LostRunError):
        session.recorder.summary(_summary(session, f"{what}: {said}", wall, None))
        session.recorder.failure(trace)


def _summary(
    session: Session, reason: str, wall: float, final: dict | None, last: dict | None = None
) -> dict[str, Any]:
    config, run, best_weights = session.config, session.run, session.best_weights
    phases = dict(run.laps.totals)
    return {
        "env_id": config.env_id,
        "preset": config.preset,
        "seed": config.seed,
        "total_steps": run.progress.steps,
        **_frames(config, run.progress.steps),
        "episodes": run.progress.episodes,
        "updates": run.progress.updates,
        "restarted_envs": run.progress.restarted_envs,
        "startup_seconds": dict(session.startup.totals),
        "wall_seconds": wall,
        "steps_per_second": steps_per_second(run.progress.steps, phases),
        "phase_seconds": phases,
        "residual_phases": residual_phases(config),
        "advice": workers_advice(config, phases, run.progress.steps, usable_cores()),
        **_figures_of_actors(session),
        "eval": final,
        "eval_last": last,
        "solved": best_weights.solved._asdict()
        if best_weights is not None and best_weights.solved
        else None,
        "exit_reason": reason,
        "warnings": [
            *session.recorder.warnings,
            *_stream_warnings(session),
            *([COLLAPSED] if final and last and is_worse(last, final) else []),
        ],
    }


def _figures_of_actors(session: Session) -> dict[str, Any]:
    """Returns the figures of actors for the summary, or an empty dict."""
    stream: Any = session.run.stream
    return {"actors": stream.figures()} if session.config.actors else {}


def _stream_warnings(session: Session) -> list[str]:
    """Returns the distinct warnings of the training and evaluation environments."""
    streams = [session.run.stream]
    streams += [session.evaluations.stream] if session.evaluations is not None else []
    return list(dict.fromkeys(line for stream in streams for line in stream.warnings))


def _final_evaluation(session: Session) -> dict[str, Any] | None:
    """Evaluates the best weights, or the last without evaluations, on unused seeds."""
    if session.evaluations is None or not session.final_evaluation:
        return None
    best_weights = session.best_weights
    steps = session.run.progress.steps if best_weights is None else best_weights.best_steps
    policy = session.run.policy
    if best_weights is not None:
        policy = session.saved_policy(session.recorder.place / "best.safetensors", policy)
    return _evaluated(session, "final", steps, policy)


def _evaluation_of_last(session: Session, best: dict[str, Any] | None) -> dict[str, Any] | None:
    """Evaluates the last weights, which no evaluation selected, on the same seeds as the best.

    Returns the evaluation of the best if they are the last.
    """
    steps = session.run.progress.steps
    if best is None or best["steps_at_eval"] == steps:
        return best
    return _evaluated(session, "last", steps, session.run.policy)


def _evaluated(session: Session, kind: str, steps: int, policy: Any) -> dict[str, Any]:
    assert session.evaluations is not None
    evaluation = session.evaluations(FINAL, 0, policy)
    session.recorder.evaluation(steps, kind, evaluation)
    summary = evaluation.summary()
    human = human_normalized(session.config.env_id, float(summary["mean_return"]))
    return {**summary, "human_normalized": human, "steps_at_eval": steps}


def _saved_policy(path: Where, like: Policy) -> Policy:
    """Returns a copy of a policy with the weights of a file. Raises WeightsError."""
    network = copy.deepcopy(like.network)
    assign_weights(path, network, load_weights(path)[0])
    return Policy(network, like.value, like.device, like.obs_shape, like.num_actions)
