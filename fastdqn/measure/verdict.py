"""Verdict: one sentence that names what bounds a run, and what would lift it by how much."""

from collections.abc import Sequence

from fastdqn.measure.figures import Figure, short

# What a reader calls the owner of each phase of the loop.
_OWNERS = {
    "act": "acting", "learn": "the learner", "sample": "sampling from the replay",
    "store": "storing in the replay", "upload": "the upload", "prioritize": "priorities",
    "env": "the environment", "report": "reporting", "hooks": "the hooks",
}  # fmt: skip
# A gain smaller than this is noise, not advice.
_WORTHWHILE = 1.1


def sentence(
    phases: dict[str, float], steps: int, samples_per_step: float, figures: Sequence[Figure]
) -> str:
    """What bounds the loop whose phases [s] made that many steps, and what would lift it.

    samples_per_step  transitions learned from for each one made: batch_size / train_frequency
    figures  of the learner and the environments alone, measured on the same machine
    """
    total = sum(phases.values())
    bound = max(phases, key=lambda name: phases[name])
    share = round(100 * phases[bound] / total)
    said = f"{_OWNERS.get(bound, bound)} takes {share} %"
    per_step = {name: seconds / steps for name, seconds in phases.items()}
    lift = {"learn": _larger_batch, "env": _other_envs, "act": _more_lanes}.get(bound)
    advice = None if lift is None else lift(per_step, samples_per_step, figures)
    if advice is None:
        advice = "nothing measured here would lift that"
    if not figures:
        advice = "`fastdqn bench all` measures what would lift that"
    envs = [figure for figure in figures if figure.key == "env_steps_per_second"]
    if not envs or bound == "env":
        return f"{said}: {advice}"
    best = max(envs, key=lambda figure: figure.rate.median)
    return f"{said}: {advice}; the environment alone could do {short(best.rate.median)} steps/s"


def _gain(per_step: dict[str, float], name: str, seconds: float) -> float:
    """How much faster the loop would be if this phase took so long a step."""
    total = sum(per_step.values())
    return total / (total - per_step[name] + seconds)


def _larger_batch(per_step, samples_per_step: float, figures) -> str | None:
    # The first is of the run's own batch size.
    rates = [figure for figure in figures if figure.key == "learner_samples_per_second"]
    if not rates:
        return None
    gains = [
        (_gain(per_step, "learn", samples_per_step / figure.rate.median), figure)
        for figure in rates
        if figure.of["batch_size"] > rates[0].of["batch_size"]
    ]
    if not gains or max(gain for gain, _ in gains) < _WORTHWHILE:
        return "a larger batch would not lift that"
    best = max(gain for gain, _ in gains)
    # The smallest batch that comes near the best: a larger one learns less for its samples.
    gain, figure = min(
        (pair for pair in gains if pair[0] >= 0.9 * best), key=lambda pair: pair[1].of["batch_size"]
    )
    return f"batch {figure.of['batch_size']} at the same ratio gives {gain:.1f}x"


def _other_envs(per_step, samples_per_step, figures) -> str | None:
    envs = [figure for figure in figures if figure.key == "env_steps_per_second"]
    if not envs:
        return None
    best = max(envs, key=lambda figure: figure.rate.median)
    gain = _gain(per_step, "env", 1.0 / best.rate.median)
    if gain < _WORTHWHILE:
        return "no other back end or number of environments measured here would lift that"
    return (
        f"{best.of['num_envs']} environments by --vectorization {best.of['vectorization']} give "
        f"{gain:.1f}x"
    )


def _more_lanes(per_step, samples_per_step, figures) -> str | None:
    rates = sorted(
        (figure.of["num_envs"], figure.rate.median)
        for figure in figures
        if figure.key == "act_actions_per_second"
    )
    if not rates:
        return None
    lanes, rate = max(rates, key=lambda pair: pair[1])
    gain = _gain(per_step, "act", 1.0 / rate)
    if gain < _WORTHWHILE:
        return "more environments would not lift that"
    return f"{lanes} environments share one call and give {gain:.1f}x"
