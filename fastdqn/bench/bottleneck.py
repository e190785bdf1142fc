"""Bottleneck: names the slowest phases of a run, and options that were measured to be faster."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from fastdqn.bench.env_speed import most_lanes
from fastdqn.bench.repeats import Rate
from fastdqn.bench.results import Figure, short
from fastdqn.config.conflicts import chosen_env_batch
from fastdqn.config.schema import Config, ConfigError

# Names of the phases in the sentence.
_OWNERS = {
    "act": "acting", "learn": "the learner", "sample": "sampling from the replay",
    "store": "storing in the replay", "upload": "the upload", "prioritize": "priorities",
    "env": "the environment", "report": "reporting", "hooks": "the hooks",
}  # fmt: skip
# Minimum speedup for advice, and least relative difference of phases that are no tie.
_WORTHWHILE, _LEAST_MARGIN = 1.1, 0.05
# Environments are increased at most by this factor beyond the measured numbers.
_MORE = 8


class Lever(NamedTuple):
    """Options that may be faster.

    Attributes:
        changes: The options that change.
        note: What they mean.
        gain: Estimated speedup, from measurements of the parts alone.
    """

    changes: dict[str, Any]
    note: str
    gain: float


class Tried(NamedTuple):
    """A lever, and how many times faster training with it was measured to be.

    Attributes:
        flags: The options.
        note: What follows them in a sentence.
        speedup: By the medians.
        helps: Whether it is faster beyond the spread of repeats.
        between: The least and the largest speedup that the repeats allow.
    """

    flags: str
    note: str
    speedup: float
    helps: bool
    between: tuple[float, float]

    def __str__(self) -> str:
        least, most = self.between
        return f"about {self.speedup:.2g}x ({least:.2g} to {most:.2g}x)"


def largest_phases(phases: dict[str, float], margin: float) -> list[str]:
    """Returns the phase that takes most time, and those that tie with it within margin."""
    ordered = sorted(phases, key=lambda name: -phases[name])
    least = phases[ordered[0]] * (1.0 - max(margin, _LEAST_MARGIN))
    return [name for name in ordered if phases[name] >= least]


def sentence(
    config: Config,
    phases: dict[str, float],
    rate: Rate,
    figures: Sequence[Figure],
    tried: Sequence[Tried],
) -> str:
    """Returns a sentence that names the bottleneck of training, and options that help.

    Args:
        config: Resolved options.
        phases: Seconds of each phase.
        rate: Steps per second of training, whose spread is the margin of ties.
        figures: Measurements of learner, acting and environments alone, on the same machine.
        tried: Results of levers.
    """
    total = sum(phases.values())
    names = largest_phases(phases, rate.spread)
    share = f"{100 * phases[names[0]] / total:.0f} %"
    owners = [_OWNERS.get(name, name) for name in names]
    if len(owners) == 1:
        start = f"{owners[0]} takes about {share}"
    else:
        start = f"{', '.join(owners[:-1])} and {owners[-1]} tie, with about {share} each"
    alone = [
        figure.rate.median
        for figure in figures
        if figure.key == "env_steps_per_second" and _is_own(figure, config)
    ]
    ending = ""
    if alone and alone[0] > rate.most:  # else the figures contradict each other
        count, makes = f"{config.num_envs} environments", "make"
        if config.num_envs == 1:
            count, makes = "1 environment", "makes"
        ending = f"; {count} alone {makes} about {short(alone[0])} steps/s"
    return f"{start}: {_advice(figures, tried)}{ending}"


def _advice(figures: Sequence[Figure], tried: Sequence[Tried]) -> str:
    helpful = sorted((each for each in tried if each.helps), key=lambda each: -each.speedup)
    if helpful:
        return " or ".join(f"{each.flags}{each.note} gives {each}" for each in helpful)
    if tried:
        failed = ", ".join(f"{each.flags} gives {each}" for each in tried)
        return f"nothing that was tried is surely faster ({failed})"
    return "use `fastdqn bench all` to try alternatives" if not figures else "nothing to try"


def _is_own(figure: Figure, config: Config) -> bool:
    """Returns whether a figure of environments is for those of the run."""
    of = figure.of
    return (of["num_envs"], of["vectorization"], of.get("env_batch_size")) == (
        config.num_envs,
        config.vectorization,
        config.env_batch_size,
    )


def try_levers(
    config: Config, rate: Rate, found: Sequence[Lever], measure: Callable[[Config], Rate]
) -> Iterator[Tried]:
    """Trains with each lever, and yields the speedups. Levers that cannot run are left out.

    A lever helps if it is at least 1.1 times as fast, and its slowest repeat is faster than the
    fastest without it.

    Args:
        config: Resolved options.
        rate: Steps per second of training with them.
        found: The levers.
        measure: Returns steps per second of training with other options.
    """
    baselines = [rate]
    for lever in found:
        try:
            other = measure(config.replace(**lever.changes))
        except ConfigError:
            continue
        # Again, so that what else the machine does between them counts as spread.
        baselines.append(measure(config))
        rate = Rate.joined(baselines)
        speedup = other.median / rate.median
        between = (other.least / rate.most, other.most / rate.least)
        helps = speedup >= _WORTHWHILE and between[0] > 1
        yield Tried(_flags(config, lever.changes), lever.note, speedup, helps, between)


def levers(
    config: Config, phases: dict[str, float], steps: int, figures: Sequence[Figure]
) -> list[Lever]:
    """Returns options to try: more environments, another vectorization, a larger batch.

    The number of environments is always among them, since it affects every phase. The others are
    only tried if measurements of the parts alone promise a speedup.

    Args:
        config: Resolved options. Only valid combinations with them are returned.
        phases: Seconds of each phase.
        steps: Steps made in them.
        figures: Measurements of the parts alone.
    """
    per_step = {name: seconds / steps for name, seconds in phases.items()}
    found = [
        _more_envs(config, per_step, figures),
        _other_vectorization(config, per_step, figures),
        _larger_batch(config, per_step, figures),
    ]
    return sorted((each for each in found if each is not None), key=lambda each: -each.gain)


def _gain(per_step: dict[str, float], changed: dict[str, float]) -> float:
    """Returns the speedup of the loop if some phases took other seconds per step."""
    total = sum(per_step.values())
    return total / max(sum((per_step | changed).values()), 1e-12)


def _works(config: Config, changes: dict[str, Any]) -> bool:
    """Returns whether these options are valid with the others of the run."""
    changed = config.replace(**changes)
    return not changed.problems() and changed.num_envs <= most_lanes(changed.vectorization)


def _flags(config: Config, changes: dict[str, Any]) -> str:
    """Formats changed options as command line flags."""
    return " ".join(
        f"--no-{name.replace('_', '-')}"
        if value is False
        else f"--{name.replace('_', '-')} {value}"
        for name, value in changes.items()
        if value != getattr(config, name)
    )


def _larger_batch(config: Config, per_step, figures) -> Lever | None:
    pairs = []
    for figure in figures:
        of = figure.of
        if figure.key != "learner_samples_per_second" or "learn" not in per_step:
            continue
        if (of["learner"], of["capture"]) != (config.learner, config.capture):
            continue
        size = of["batch_size"]
        changes = {
            "batch_size": size,
            "train_frequency": config.train_frequency * size / config.batch_size,
        }
        samples_per_step = float(config.batch_size / config.train_frequency)
        gain = _gain(per_step, {"learn": samples_per_step / figure.rate.median})
        if size > config.batch_size and _works(config, changes):
            pairs.append((gain, size, changes))
    best = max((gain for gain, _, _ in pairs), default=0.0)
    if best < _WORTHWHILE:
        return None
    # The smallest batch close to the best speed: a larger one learns less from each sample.
    gain, _, changes = min(
        (pair for pair in pairs if pair[0] >= 0.9 * best), key=lambda pair: pair[1]
    )
    return Lever(changes, ", with the same samples per step,", gain)


def _other_vectorization(config: Config, per_step, figures) -> Lever | None:
    pairs = []
    for figure in figures:
        if figure.key != "env_steps_per_second" or figure.of["num_envs"] != config.num_envs:
            continue
        changes = {
            "vectorization": figure.of["vectorization"],
            "env_batch_size": figure.of.get("env_batch_size"),
            **({"double_buffering": False} if config.double_buffering else {}),
        }
        if not _is_own(figure, config) and _works(config, changes):
            pairs.append((_gain(per_step, {"env": 1.0 / figure.rate.median}), changes))
    gain, changes = max(pairs, key=lambda pair: pair[0], default=(0.0, {}))
    return Lever(changes, "", gain) if gain >= _WORTHWHILE else None


def _batch(config: Config, num_envs: int) -> int | None:
    """Returns the default of env_batch_size with another number of environments."""
    return chosen_env_batch(config.replace(num_envs=num_envs, env_batch_size=None))


def _more_envs(config: Config, per_step, figures) -> Lever | None:
    """Returns the measured number of environments that promises most, or a few times as many."""
    seconds: dict[int, dict[str, float]] = {}
    for figure in figures:
        of, phase = figure.of, {"env_steps_per_second": "env", "act_actions_per_second": "act"}
        if figure.key not in phase or of["num_envs"] <= config.num_envs:
            continue
        if of.get("vectorization", config.vectorization) == config.vectorization:
            seconds.setdefault(of["num_envs"], {})[phase[figure.key]] = 1.0 / figure.rate.median
    seconds = seconds or {config.num_envs * _MORE: {}}
    pairs = [
        (_gain(per_step, changed), count, changes)
        for count, changed in seconds.items()
        if _works(config, changes := {"num_envs": count, "env_batch_size": _batch(config, count)})
    ]
    if not pairs:
        return None
    gain, _, changes = max(pairs, key=lambda pair: pair[:2])
    return Lever(changes, "", gain)
