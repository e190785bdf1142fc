"""Bottleneck: names the slowest phase of a run, and options that would speed it up."""

from collections.abc import Sequence
from typing import Any

from fastdqn.bench.env_speed import most_lanes
from fastdqn.bench.results import Figure, short
from fastdqn.config.schema import Config

# Names of the phases in the sentence.
_OWNERS = {
    "act": "acting", "learn": "the learner", "sample": "sampling from the replay",
    "store": "storing in the replay", "upload": "the upload", "prioritize": "priorities",
    "env": "the environment", "report": "reporting", "hooks": "the hooks",
}  # fmt: skip
# Minimum speedup for advice: a smaller one may be noise.
_WORTHWHILE = 1.1


def sentence(
    config: Config, phases: dict[str, float], steps: int, figures: Sequence[Figure]
) -> str:
    """Returns a sentence that names the bottleneck of training, and options that would help.

    Args:
        config: Resolved options. Only valid combinations with them are suggested.
        phases: Seconds of each phase.
        steps: Steps made in them.
        figures: Measurements of learner, acting and environments alone, on the same machine.
    """
    total = sum(phases.values())
    bound = max(phases, key=lambda name: phases[name])
    share = round(100 * phases[bound] / total)
    start = f"{_OWNERS.get(bound, bound)} takes {share} %"
    per_step = {name: seconds / steps for name, seconds in phases.items()}
    lift = {"learn": _larger_batch, "env": _other_envs, "act": _more_lanes}.get(bound)
    advice = None if lift is None else lift(config, per_step, figures)
    if advice is None:
        advice = "no measured alternative is faster"
    if not figures:
        advice = "use `fastdqn bench all` to measure alternatives"
    envs = [figure for figure in figures if figure.key == "env_steps_per_second"]
    if not envs or bound == "env":
        return f"{start}: {advice}"
    best = max(envs, key=lambda figure: figure.rate.median)
    return f"{start}: {advice}; the environment alone makes {short(best.rate.median)} steps/s"


def _gain(per_step: dict[str, float], name: str, seconds: float) -> float:
    """Returns the speedup of the loop if this phase took that many seconds per step."""
    total = sum(per_step.values())
    return total / (total - per_step[name] + seconds)


def _works(config: Config, changes: dict[str, Any]) -> bool:
    """Returns whether these options are valid with the others of the run."""
    changed = config.replace(**changes)
    return not changed.problems() and changed.num_envs <= most_lanes(changed.vectorization)


def _flags(config: Config, changes: dict[str, Any]) -> str:
    """Formats changed options as command line flags."""
    return " ".join(
        f"--{name.replace('_', '-')} {value}"
        for name, value in changes.items()
        if value != getattr(config, name)
    )


def _larger_batch(config: Config, per_step, figures) -> str | None:
    pairs = []
    for figure in figures:
        of = figure.of
        if figure.key != "learner_samples_per_second":
            continue
        if (of["learner"], of["capture"]) != (config.learner, config.capture):
            continue
        size = of["batch_size"]
        changes = {
            "batch_size": size,
            "train_frequency": config.train_frequency * size / config.batch_size,
        }
        samples_per_step = float(config.batch_size / config.train_frequency)
        gain = _gain(per_step, "learn", samples_per_step / figure.rate.median)
        if size > config.batch_size and _works(config, changes):
            pairs.append((gain, size, changes))
    if not pairs:
        return None
    best = max(gain for gain, _, _ in pairs)
    if best < _WORTHWHILE:
        return "a larger batch is not faster"
    # The smallest batch close to the best speed: a larger one learns less from each sample.
    gain, _, changes = min(
        (pair for pair in pairs if pair[0] >= 0.9 * best), key=lambda pair: pair[1]
    )
    return f"{_flags(config, changes)}, with the same samples per step, gives {gain:.1f}x"


def _other_envs(config: Config, per_step, figures) -> str | None:
    pairs = []
    for figure in figures:
        if figure.key != "env_steps_per_second":
            continue
        changes = {
            "num_envs": figure.of["num_envs"],
            "vectorization": figure.of["vectorization"],
            "env_batch_size": figure.of.get("env_batch_size"),
        }
        if _works(config, changes):
            pairs.append((figure.rate.median, changes))
    if not pairs:
        return None
    rate, changes = max(pairs, key=lambda pair: pair[0])
    gain = _gain(per_step, "env", 1.0 / rate)
    if gain < _WORTHWHILE or not _flags(config, changes):
        return "no other measured vectorization or number of environments is faster"
    return f"{_flags(config, changes)} gives {gain:.1f}x"


def _more_lanes(config: Config, per_step, figures) -> str | None:
    pairs = []
    for figure in figures:
        if figure.key != "act_actions_per_second":
            continue
        wait_for = figure.of.get("env_batch_size")
        changes = {"num_envs": figure.of["num_envs"], "env_batch_size": wait_for}
        if _works(config, changes):
            pairs.append((figure.rate.median, changes))
    if not pairs:
        return None
    rate, changes = max(pairs, key=lambda pair: pair[0])
    gain = _gain(per_step, "act", 1.0 / rate)
    if gain < _WORTHWHILE or not _flags(config, changes):
        return "more environments are not faster"
    return f"{_flags(config, changes)}, with larger batches per policy call, gives {gain:.1f}x"
