"""Prefill: reads recorded episodes, and stores them in the replay before a run starts."""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastdqn.builders import agent
from fastdqn.builders.rank_share import share_of
from fastdqn.checkpoints.format import CheckpointError, LayoutError
from fastdqn.checkpoints.loader import Checkpoint, load_checkpoint
from fastdqn.config.derived_facts import keeps_frames
from fastdqn.config.schema import Config, ConfigError
from fastdqn.datasets import DatasetError, Episodes, episodes_of, play, read_minari, read_npz
from fastdqn.datasets.minari_dataset import PREFIX
from fastdqn.envs import EnvFacts
from fastdqn.files.run_folder import read_config
from fastdqn.replay import Replay
from fastdqn.replay.ring import LIVE
from fastdqn.state_dict import StateError, take_state
from fastdqn.training.loop import Run


class Recorded(NamedTuple):
    """Episodes, the name of their source, and lines about it."""

    source: str
    episodes: Episodes
    remarks: tuple[str, ...] = ()


def read_prefill(config: Config, facts: EnvFacts, also_from_run: bool = False) -> list[Recorded]:
    """Reads the sources of config.prefill. Raises ConfigError, with a line for each bad source.

    also_from_run: whether to read the replay of config.from_run too, as a run needs that is resumed
    without its own replay.
    """
    found, lines = [], []
    sources = config.prefill
    if also_from_run and config.from_run is not None and "replay" in config.from_parts:
        sources = (config.from_run, *sources)
    for source in sources:
        try:
            found.append(_read(source, config, facts))
        except DatasetError as error:
            lines.append(f"prefill {error}")
        except CheckpointError as error:
            lines.append(f"prefill {unreadable(error, source)}")
        except ConfigError as error:
            lines += [f"prefill {source}: {line}" for line in error.lines]
    if lines:
        raise ConfigError(lines)
    return found


def _read(source: str, config: Config, facts: EnvFacts) -> Recorded:
    space = facts.observation_space
    assert space is not None, "facts of an environment have its space"
    if source.startswith(PREFIX):
        return Recorded(source, read_minari(source.removeprefix(PREFIX), facts, space))
    path = Path(source)
    if not path.is_dir():
        return Recorded(source, read_npz(path, facts, space))
    theirs = read_config(path)
    replay = load_replay(theirs, load_checkpoint(path), facts, config)
    return Recorded(source, episodes_of(replay), tuple(other_environment(source, theirs, config)))


def unreadable(error: CheckpointError, run: str) -> str:
    """Returns a line on a checkpoint of a run that another run starts from."""
    if error.intact is None:
        return error.problem
    resume = f"fastdqn resume {shlex.quote(run)} --checkpoint {error.intact}"
    return f"{error.problem}; checkpoint {error.intact} is intact: {resume} continues from it"


def env_differences(theirs: Config, ours: Config) -> str:
    """Returns the options of environments in which two runs differ, as '; NAME there: ...'."""
    lines = []
    for name in ("env_id", "env_kwargs", "wrapper", "atari_protocol"):
        there, here = getattr(theirs, name), getattr(ours, name)
        if there != here:
            lines.append(f"; {name} there: {_in_words(there)}, here: {_in_words(here)}")
    return "".join(lines)


def other_environment(source: str | Path, theirs: Config, ours: Config) -> list[str]:
    """Returns a warning if a run is of another environment, whose spaces are the same."""
    differences = env_differences(theirs, ours)
    return (
        [f"warning: {source} is a run of another environment{differences}"] if differences else []
    )


def _in_words(value: Any) -> str:
    """Returns the value of an option of environments as the command line takes it."""
    if isinstance(value, dict):
        value = [f"{name}={each}" for name, each in value.items()]
    return " ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


def load_replay(
    config: Config, found: Checkpoint, facts: EnvFacts, ours: Config | None = None
) -> Replay:
    """Returns the replay buffer of a checkpoint, without its priorities.

    Args:
        config: Options of its run when the checkpoint was written. The folder of one with several
            ranks has the part of the first.
        found: The checkpoint.
        facts: Of the environment of this run.
        ours: Options of this run, if its environment may be another one.

    Raises:
        DatasetError: It has no replay, or its transitions are not of such an environment.
        CheckpointError: A file is damaged.
    """
    folder = found.folder
    if found.state.get("replay") is None:
        raise DatasetError(f"{folder} has no replay: its run had --no-checkpoint-replay")
    state = take_state(found.state, "replay")
    # On the host, wherever it was.
    store = "frames" if keeps_frames(config, facts.stack) else "rows"
    plain = share_of(config).replace(sampler="uniform", prioritized=False, replay=True, store=store)
    replay = agent.make_replay(plain, facts)
    try:
        rows = found.segments(replay.layout())
        # Of the sampler's state only what the uniform sampler has: episodes carry no priorities.
        replay.load_state({**state, "sampler": replay.sampler.state()}, rows)
    except (StateError, LayoutError) as error:
        why = error.problem if isinstance(error, LayoutError) else str(error)
        why += "" if ours is None else env_differences(config, ours)
        raise DatasetError(
            f"{folder}: the replay does not fit this run's environment: {why}"
        ) from None
    return replay


def transitions_in(replay: Replay) -> int:
    """Returns the number of transitions that a replay holds."""
    ring = replay.ring
    stored = np.arange(ring.rows) < np.minimum(ring.added, ring.rows)[:, None]
    return int(np.count_nonzero((ring.status & LIVE) * stored))


def fill(run: Run, recorded: list[Recorded], resumes: bool = False) -> list[str]:
    """Stores episodes in the replay of a run, between two steps. Returns lines about them.

    progress.prefilled receives the number of transitions that the replay then holds.

    Args:
        run: A run whose next step starts episodes.
        recorded: The episodes.
        resumes: Whether normalization and checks of a resumed run know these episodes already.
    """
    replay, lines, total = run.replay, [], 0
    # Two pieces of a lane fit into its rows, so that no piece overwrites its own beginning.
    most = max(1, (replay.ring.rows - replay.n_steps - replay.ring.stack) // 2)
    followers = () if resumes else run.followers.values()
    for source, episodes, remarks in recorded:
        for step in play(episodes, run.stream.num_lanes, most):
            replay.append(step)
            for follower in followers:
                follower.follow(step)
        replay.close(np.arange(run.stream.num_lanes))
        total += len(episodes.action)
        lines.append(
            f"prefilled with {len(episodes.action):,} transitions of {len(episodes.lengths):,} "
            f"episodes from {source}"
        )
        lines += remarks
    kept = transitions_in(replay)
    run.progress.prefilled = kept
    if kept < total:
        lines.append(
            f"warning: the replay holds {kept:,} of the {total:,} transitions, since it overwrote "
            "the oldest: increase --buffer-size"
        )
    return lines
