"""Warm start: weights, optimizer state and replay of another run for a new one."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastdqn.builders import prefill
from fastdqn.builders.agent import describe_network
from fastdqn.builders.parts import UserParts
from fastdqn.builders.prefill import Recorded
from fastdqn.checkpoints.format import CheckpointError
from fastdqn.checkpoints.loader import Checkpoint, load_checkpoint
from fastdqn.checkpoints.network_weights import (
    WeightsError,
    assign_weights,
    load_weights,
    weights_path,
)
from fastdqn.config.schema import Config, ConfigError, ResolvedConfig
from fastdqn.datasets import DatasetError, episodes_of
from fastdqn.envs import EnvFacts
from fastdqn.files.run_folder import read_config
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.replay import Replay
from fastdqn.state_dict import take_state
from fastdqn.training.loop import Run
from fastdqn.training.normalization import Normalizer

# Fields of a network's description that only training uses: they may differ.
_OF_TRAINING = {
    "noisy_sigma", "hl_gauss_sigma",
    "num_fractions", "num_target_fractions", "num_policy_fractions",
}  # fmt: skip
# Fields that the environment decides. The replay then does not fit either.
_OF_ENVIRONMENT = ("obs_shape", "obs_dtype", "num_actions")
# Weight of the statistics in a weights file, in observations: new ones soon matter more. Untuned.
STATISTICS_COUNT = 10_000.0
# Options that must agree for a replay to be continued with its priorities.
_OF_REPLAY = (
    "num_envs", "buffer_size", "store", "n_steps", "sampler", "priority_exponent", "part_kwargs",
)  # fmt: skip


class Source(NamedTuple):
    """A run to start from: its folder, options, last checkpoint, and replay if it is taken."""

    folder: Path
    config: Config
    checkpoint: Checkpoint
    replay: Replay | None


def load_initial_weights(config: Config, online: FlatParameters, description: dict) -> None:
    """Loads config.init_weights into a new network. Raises ConfigError if it is another network."""
    if config.init_weights is None:
        return
    path = weights_path(Path(config.init_weights))
    try:
        arrays, theirs = load_weights(path)
        if lines := _differences(theirs, description, f"init_weights {path}"):
            raise ConfigError(lines)
        assign_weights(path, online.module, arrays)
    except WeightsError as error:
        raise ConfigError([f"init_weights {error}"]) from None
    online.check_views()


def read_source(
    config: ResolvedConfig, facts: EnvFacts, description: dict, own: UserParts
) -> Source | None:
    """Reads the checkpoint of config.from_run, and checks what is to be taken of it.

    Raises:
        ConfigError: It cannot be read, or a part of it does not fit. A line for each reason.
    """
    if config.from_run is None:
        return None
    folder = Path(config.from_run)
    try:
        theirs = read_config(folder)
    except ConfigError as error:
        raise ConfigError([f"from_run {line}" for line in error.lines]) from None
    try:
        checkpoint = load_checkpoint(folder)
        lines = _weights_problems(config, theirs, facts, description, folder, own)
        if lines:
            raise ConfigError(lines)
        takes_replay = "replay" in config.from_parts
        replay = prefill.load_replay(theirs, checkpoint, facts, config) if takes_replay else None
    except DatasetError as error:
        raise ConfigError([f"from_run {error}"]) from None
    except CheckpointError as error:
        line = prefill.unreadable(error, config.from_run)
        raise ConfigError([f"from_run {line}"]) from None
    return Source(folder, theirs, checkpoint, replay)


def _weights_problems(
    config: ResolvedConfig,
    theirs: Config,
    facts: EnvFacts,
    description: dict,
    folder: Path,
    own: UserParts,
) -> list[str]:
    if "weights" not in config.from_parts:
        return []
    try:  # the weights file knows the spaces of the environment, the options do not
        known = load_weights(weights_path(folder))[1]
    except WeightsError:  # the run was killed before it wrote one
        known = describe_network(theirs, facts, own)
    lines = _differences(known, description, f"from_run {folder}")
    if any(known.get(name) != description[name] for name in _OF_ENVIRONMENT):
        others = prefill.env_differences(theirs, config) or ", although the options are the same"
        lines.append(f"from_run {folder} is a run of another environment{others}")
    elif lines:
        lines.append("use --from-parts replay, or the same network")
    if "optimizer" in config.from_parts and theirs.optimizer != config.optimizer:
        lines.append(
            f"from_run {folder}: optimizer is {theirs.optimizer} there and {config.optimizer} "
            "here: use --from-parts weights replay"
        )
    return lines


def _differences(theirs: dict, ours: dict, source: str) -> list[str]:
    """Returns a message for each field in which two descriptions are of different networks."""
    return [
        f"{source}: {name} is {theirs.get(name)} there and {ours.get(name)} here"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name) and name not in _OF_TRAINING
    ]


def adopt(run: Run, config: ResolvedConfig, source: Source) -> list[str]:
    """Takes config.from_parts of another run into one that has not started. Returns lines.

    Raises:
        StateError: The checkpoint does not fit.
    """
    state, taken, left = source.checkpoint.state, [], []
    keeps_statistics = False
    if "weights" in config.from_parts:
        takes_optimizer = "optimizer" in config.from_parts
        run.learner.adopt(source.checkpoint.weights, takes_optimizer)
        taken += ["weights", "optimizer"] if takes_optimizer else ["weights"]
        keeps_statistics = _adopt_statistics(run, state)
    if source.replay is not None:
        taken.append("replay")
        left += _adopt_replay(run, config, source, source.replay, keeps_statistics)
        held = run.progress.prefilled
        taken[-1] = f"{held:,} transitions"
    left.append("the environments, counters, schedules and random generators, which start anew")
    lines = [f"from {source.folder}, checkpoint {source.checkpoint.name}: {', '.join(taken)}"]
    lines += prefill.other_environment(source.folder, source.config, config)
    return [*lines, *(f"not taken: {each}" for each in left)]


def _adopt_statistics(run: Run, state: dict[str, Any]) -> bool:
    """Takes the statistics of normalization. Returns whether there are any."""
    normalizer = run.followers.get("normalizer")
    if not isinstance(normalizer, Normalizer):
        return False
    normalizer.adopt(take_state(state, "normalizer"))
    return True


def _adopt_replay(
    run: Run, config: ResolvedConfig, source: Source, replay: Replay, keeps_statistics: bool
) -> list[str]:
    """Takes a replay: as it is where its layout is that of the run. Returns what was not taken."""
    ours, theirs = (_layout(each) for each in (config, source.config))
    differing = [name for name in _OF_REPLAY if ours[name] != theirs[name]]
    if not differing and (keeps_statistics or "normalizer" not in run.followers):
        scale = run.replay.reward_scale
        saved = take_state(source.checkpoint.state, "replay")
        run.replay.load_state(saved, source.checkpoint.segments(run.replay.layout()))
        run.replay.reward_scale = scale
        run.replay.close(np.arange(run.stream.num_lanes))
        run.progress.prefilled = prefill.transitions_in(run.replay)
        return []
    lines = prefill.fill(run, [Recorded(str(source.folder), episodes_of(replay))], keeps_statistics)
    left = [line.removeprefix("warning: ") for line in lines[1:]]
    if run.replay.wants_priorities:
        why = " and ".join(f"{n} is {theirs[n]} there and {ours[n]} here" for n in differing)
        left.append(f"priorities, since {why or 'observations are normalized anew'}")
    return left


def _layout(config: Config) -> dict[str, Any]:
    values = {name: getattr(config, name) for name in _OF_REPLAY}
    values["part_kwargs"] = {
        key: value for key, value in config.part_kwargs.items() if key.startswith("sampler.")
    }
    if config.sampler != "prioritized":
        values["priority_exponent"] = None
    return values
