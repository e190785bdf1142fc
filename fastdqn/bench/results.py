"""Figure: a measured rate, as a JSON row and in a table."""

from collections.abc import Container, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from fastdqn.bench.repeats import Rate


class Figure(NamedTuple):
    """One measured rate.

    Attributes:
        part: Component: env, act, replay, learner, upload or train.
        key: Name with unit, such as env_steps_per_second.
        rate: Rate per second.
        of: Settings of the measurement, such as num_envs and batch_size.
    """

    part: str
    key: str
    rate: Rate
    of: dict[str, Any]

    def row(self) -> dict[str, Any]:
        """Returns a flat dict, for one line of JSON."""
        return {
            "part": self.part,
            self.key: self.rate.median,
            f"{self.key}_min": self.rate.least,
            f"{self.key}_max": self.rate.most,
            "spread": self.rate.spread,
            "calls": self.rate.calls,
            **self.of,
        }


# Spread between repeats from which a warning is given.
_WIDE = 0.25


def spread_warning(figures: Sequence[Figure]) -> str | None:
    """Returns a warning on figures whose repeats differ by more than a quarter of the median."""
    wide = [figure for figure in figures if figure.rate.spread > _WIDE]
    if not wide:
        return None
    worst = max(wide, key=lambda figure: figure.rate.spread)
    of = ", ".join(f"{name} {value}" for name, value in worst.of.items())
    return (
        f"warning: repeats of {len(wide)} of {len(figures)} results differ by more than "
        f"{100 * _WIDE:.0f} % of the median; {worst.key} ({of}) by {100 * worst.rate.spread:.0f} "
        "%. Other programs may use the machine: repeat it, or increase --seconds and --repeats"
    )


def table(title: str, figures: Sequence[Figure]) -> Table:
    """Returns a table of median, minimum and maximum rates, and microseconds per item."""
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False)
    names = list(dict.fromkeys(name for figure in figures for name in figure.of))
    for heading in ("what", *names, "per second", "min", "max", "us each"):
        left = heading == "what" or heading in names
        drawn.add_column(heading.replace("_", " "), justify="left" if left else "right")
    for figure in figures:
        what = figure.key.removesuffix("_per_second").replace("_", " ")
        of = (str(figure.of.get(name, "")) for name in names)
        median, least, most, _ = figure.rate
        each = f"{1e6 / median:,.2f}" if 0 < median < 1e8 else ""
        drawn.add_row(what, *of, short(median), short(least), short(most), each)
    return drawn


def phase_table(
    title: str, phases: dict[str, float], steps: int, residual: Container[str] = ()
) -> Table:
    """Returns a table of the phases of a loop, with shares that sum to 100 %.

    Args:
        title: Title of the table.
        phases: Seconds of each phase.
        steps: Steps made in them.
        residual: Phases that only include the remaining wait. They are labelled.
    """
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("phase", "share", "us per step"):
        drawn.add_column(heading, justify="left" if heading == "phase" else "right")
    total = sum(phases.values())
    for name, seconds in sorted(phases.items(), key=lambda item: -item[1]):
        label = f"{name} (residual)" if name in residual else name
        drawn.add_row(label, f"{100 * seconds / total:.1f} %", f"{1e6 * seconds / steps:.2f}")
    drawn.add_row("all", "100.0 %", f"{1e6 * total / steps:.2f}")
    return drawn


def short(number: float) -> str:
    """Formats a number with three digits and a prefix, such as 2.15 M."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {letter}"
    return f"{number:.3g}"
