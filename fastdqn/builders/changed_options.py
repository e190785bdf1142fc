"""Course: options of a resumed run that changed, and what of its state they replace."""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from fastdqn.builders import prefill
from fastdqn.builders.prefill import Recorded
from fastdqn.checkpoints.loader import Checkpoint
from fastdqn.config.schema import CHANGEABLE, Config, ConfigError, ResolvedConfig
from fastdqn.datasets import DatasetError, episodes_of
from fastdqn.envs import EnvFacts
from fastdqn.files.atomic_write import WriteError, read_text, write_whole
from fastdqn.files.durable_write import exists
from fastdqn.files.open_folder import Where
from fastdqn.state_dict import StateError, take_state
from fastdqn.training.loop import Run
from fastdqn.training.normalization import Normalizer
from fastdqn.training.progress import SOLVED

FILE = "changes.jsonl"
# State with an entry for each environment.
_OF_LANES = frozenset({"replay", "stream", "repeats", "range", "normalizer", "returns"})
# Without replay, these options decide the sizes of batch and buffer.
_OF_SIZES = ("num_envs", "batch_size", "train_frequency")


def unchangeable(config: Config, changes: Iterable[str]) -> list[str]:
    """Returns messages about changes that this run cannot make."""
    changes = list(changes)
    if config.double_buffering and "num_envs" in changes:
        return ["num_envs cannot change when a run of two halves is resumed: start a new run"]
    if config.ranks > 1 and "num_envs" in changes:
        return ["num_envs cannot change when a run of several ranks is resumed: start a new run"]
    if config.actor_num_envs is not None and "num_envs" in changes:
        return [
            f"num_envs is that of {config.actors} actors with {config.actor_num_envs} environments "
            "each, and cannot change when the run is resumed: start a new run"
        ]
    sized = [name for name in changes if name in _OF_SIZES]
    if config.replay or not sized:
        return []
    return [
        f"{' and '.join(sized)} cannot change when a run without replay is resumed, since the "
        "buffer has their size: start a new run"
    ]


class Course(NamedTuple):
    """Options of a resumed run: in its checkpoint, in config.json, and from here on."""

    stored: Config
    current: Config
    new: ResolvedConfig

    def anew(self) -> frozenset[str]:
        """Returns the components that are not restored."""
        changed = {name for name, *_ in _differences(self.stored, self.new)}
        names = _OF_LANES if "num_envs" in changed else frozenset()
        if "batch_size" in changed:
            names |= {"returns"}
        if "eval_frequency" in changed and self.stored.eval_frequency == 0:
            names |= {"judge"}
        return names

    def apply(self, run: Run, checkpoint: Checkpoint, facts: EnvFacts) -> None:
        """Puts the changes into a restored run. Raises StateError."""
        changed = {name for name, *_ in _differences(self.stored, self.new)}
        if "num_envs" in changed:
            _move_lanes(run, self.stored, checkpoint, facts)
        if changed & {"learning_rate", "learning_rate_schedule"}:
            run.learner.set_learning_rate(self.new.learning_rate)
        if "stop_at_return" in changed and run.best_weights is not None:
            run.best_weights.solved = None
            if run.progress.ended == SOLVED:
                run.progress.ended, run.progress.closed = "", False

    def record(self, folder: Where, checkpoint: Checkpoint) -> list[str]:
        """Writes what changed to config.json and changes.jsonl. Returns lines to print.

        Raises:
            ConfigError: A file cannot be written.
        """
        lines = [
            f"changed since the checkpoint: {name} {_text(before)} -> {_text(after)}"
            for name, before, after in _differences(self.stored, self.new)
        ]
        if lines:
            lines.append(
                f"from step {checkpoint.steps:,} on the run differs from one whose options did not "
                "change"
            )
        if now := _differences(self.current, self.new):
            row = {
                "step": checkpoint.steps, "checkpoint": checkpoint.name,
                "changed": {name: {"from": a, "to": b} for name, a, b in now},
            }  # fmt: skip
            path = folder / FILE
            try:
                before, added = read_text(path) if exists(path) else "", json.dumps(row) + "\n"
                if not before.endswith(added):  # killed here before, the run still has the old ones
                    write_whole(path, before + added)
                write_whole(folder / "config.json", self.new.to_json())
            except (WriteError, ValueError) as error:
                raise ConfigError([str(error)]) from None
        return lines


def _move_lanes(run: Run, stored: Config, checkpoint: Checkpoint, facts: EnvFacts) -> None:
    """Moves the transitions of a replay to the environments of another number."""
    normalizer, prefilled = run.followers.get("normalizer"), run.progress.prefilled
    if isinstance(normalizer, Normalizer):
        normalizer.adopt(take_state(checkpoint.state, "normalizer"))
    if checkpoint.state["replay"] is None:
        return
    try:
        replay = prefill.load_replay(stored, checkpoint, facts)
    except DatasetError as error:
        raise StateError(str(error)) from None
    prefill.fill(run, [Recorded("", episodes_of(replay))], resumes=True)
    run.progress.prefilled = prefilled


def _differences(before: Config, after: Config) -> list[tuple[str, Any, Any]]:
    """Returns name and both values, as JSON has them, of each option that differs."""
    ours, theirs = json.loads(before.to_json()), json.loads(after.to_json())
    return [(name, ours[name], theirs[name]) for name in CHANGEABLE if ours[name] != theirs[name]]


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
