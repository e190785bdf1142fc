"""HTML report: a single page with results, curves, times, options and commands of runs."""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from fastdqn.report import svg_chart
from fastdqn.report.curves import AXES, QUANTITIES, Quantity, band, interval, line, phases
from fastdqn.report.run_data import RunRecord, number
from fastdqn.report.seed_groups import Group, differences, goal_of, spelled
from fastdqn.report.svg_chart import Chart, Series, curves_chart, phases_chart, short
from fastdqn.text import drawable

_PREDICTED = Quantity("", "mean_predicted", evaluated=True)
_DISCOUNTED = Quantity("", "mean_discounted", evaluated=True)
_LOOKS = 8  # number of colours for settings


class Row(NamedTuple):
    """Row of a table: its head, its cells, and whether it is highlighted."""

    head: str
    cells: list[str]
    marked: bool = False


def render(groups: list[Group], defaults: dict[str, Any], clocks: list[dict]) -> str:
    """Returns the HTML page. Needs jinja2, and scipy if a setting has several runs.

    Args:
        groups: Runs by setting.
        defaults: Default options.
        clocks: Rows of `fastdqn bench train`, with clock, steps and phase_seconds.
    """
    from importlib.resources import files

    template = (files("fastdqn.report") / "page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_writable,
    )  # fmt: skip
    return environment.from_string(template).render(**_content(groups, defaults, clocks))


def _writable(value: Any) -> Any:
    """Removes characters that HTML does not allow: control characters and lone surrogates."""
    if not isinstance(value, str) or value.isprintable():
        return value
    kind = type(value)  # str, or Markup that is already escaped
    return kind(drawable(value, but="\n\t"))


def _content(groups: list[Group], defaults: dict[str, Any], clocks: list[dict]) -> dict[str, Any]:
    runs = [run for each in groups for run in each.runs]
    overestimation = _overestimation(groups)
    return {
        "env_id": runs[0].env_id,
        "runs": [_run(run, defaults) for run in runs],
        "groups": [(f"s{place % _LOOKS}", each.label) for place, each in enumerate(groups)],
        "compared": [_compared(each) for each in groups] if len(runs) > 1 else [],
        "differ": _differences(groups),
        "curves": _curves(groups, ("evaluation", "return", "epsilon")),
        "values": [*_curves(groups, ("q",)), *overestimation, *_curves(groups, ("loss",))],
        "overestimation": bool(overestimation),
        "phases": [_phases(each, place, len(groups)) for place, each in enumerate(groups)],
        "times": [(each.label, _times(each.runs)) for each in groups],
        "clocks": [(str(row["clock"]), _shares(row["phase_seconds"])) for row in clocks],
        "box": {name.lower(): getattr(svg_chart, name) for name in
                ("WIDTH", "HEIGHT", "LEFT", "RIGHT", "TOP", "BOTTOM")},
    }  # fmt: skip


def _run(run: RunRecord, defaults: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of the page about one run."""
    folder, packages = shlex.quote(str(run.folder)), run.system.get("packages")
    versions = packages if isinstance(packages, dict) else {}
    return {
        "name": run.folder.name or str(run.folder),
        "folder": folder,
        "title": f"{run.config.get('preset')}, seed {spelled(run.config.get('seed'))}",
        "reason": str(run.summary.get("exit_reason", "not finished")),
        "result": _result(run),
        "facts": _facts(run),
        "options": [
            Row(name, [spelled(value)], name in defaults and value != defaults[name])
            for name, value in run.config.items()
        ],
        "machine": [
            Row(name, [spelled(value)]) for name, value in run.system.items() if name != "packages"
        ] + [Row(str(name), [spelled(value)]) for name, value in versions.items()],
        "warnings": [str(text) for text in _list(run.summary.get("warnings"))],
        "command": _typed(run.command),
        "install": " ".join(
            ["pip install"] + [shlex.quote(f"{n}=={v}") for n, v in versions.items() if v]
        ),
        "again": _again(folder, bool(run.handed_in)),
    }  # fmt: skip


def _again(folder: str, handed_in: bool) -> list[str]:
    """Returns commands to use a run. With environments from Python they need an --env-id."""
    if handed_in:
        return [
            f"fastdqn {word} {folder} --env-id my_package:MyEnv-v0" for word in ("eval", "video")
        ]
    return [f"fastdqn {word} {folder}" for word in ("eval", "video", "resume")]


def _list(value: Any) -> list:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _typed(command: str) -> str:
    """Returns a command with the program name fastdqn instead of its path."""
    program, _, rest = command.partition(" ")
    ours = Path(program).name in ("fastdqn", "__main__.py")
    return f"fastdqn {rest}" if ours else command


def _result(run: RunRecord) -> dict[str, str]:
    """Describes the final evaluation and whether the run was solved."""
    final, solved = _dict(run.summary.get("eval")), _dict(run.summary.get("solved"))
    mean, goal = number(final.get("mean_return")), number(run.config.get("stop_at_return"))
    texts = {"mean": short(mean) if final else "no final evaluation", "spread": "", "goal": ""}
    if final:
        texts["spread"] = (
            f"± {short(number(final.get('std_return')))} over {spelled(final.get('episodes'))} "
            f"greedy episodes, minimum {short(number(final.get('min_return')))}"
        )
    if solved:
        texts["goal"] = (
            "solved: two evaluations on new seeds reached "
            f"{short(number(solved.get('threshold')))}, after {short(number(solved.get('steps')))} "
            f"steps, {short(number(solved.get('seconds')))} s after the process started"
        )
    elif np.isfinite(goal):
        texts["goal"] = f"not solved: the threshold of {short(goal)} was not confirmed"
    return texts


def _facts(run: RunRecord) -> list[tuple[str, str]]:
    summary = run.summary
    last = {name: column[-1] for name, column in run.metrics.items()}
    named = (
        ("steps", summary.get("total_steps", last["step"])),
        ("episodes", summary.get("episodes", last.get("rollout/episodes"))),
        ("updates", summary.get("updates", last.get("train/n_updates"))),
        ("steps per second", summary.get("steps_per_second")),
        ("seconds of the loop", summary.get("wall_seconds", last.get("time/time_elapsed"))),
    )
    known = [(name, number(value)) for name, value in named]
    return [
        (name, f"{value:,.0f}" if value >= 1e3 or value.is_integer() else f"{value:.4g}")
        for name, value in known
        if value >= 0
    ]


def _compared(group: Group) -> Row:
    """Returns the results of a setting: runs, final return, solved, steps and seconds."""
    finals = [number(_dict(r.summary.get("eval")).get("mean_return")) for r in group.runs]
    solved = [_dict(run.summary.get("solved")) for run in group.runs]
    cells = [
        str(len(group.runs)),
        _mean([value for value in finals if np.isfinite(value)]),
        f"{sum(map(bool, solved))} of {len(solved)}",
        _median([number(each.get("steps")) for each in solved]),
        _median([number(each.get("seconds")) for each in solved]),
        _median([number(run.summary.get("steps_per_second")) for run in group.runs]),
    ]
    return Row(group.label, cells)


def _mean(values: list[float]) -> str:
    if not values:
        return "-"
    low, high = interval(np.array(values))
    mean = f"{short(float(np.mean(values)))}"
    return f"{mean} [{short(float(low))}, {short(float(high))}]" if len(values) > 1 else mean


def _median(values: list[float]) -> str:
    kept = [value for value in values if np.isfinite(value)]
    return short(float(np.median(kept))) if kept else "-"


def _differences(groups: list[Group]) -> list[Row]:
    firsts = [group.runs[0] for group in groups]
    return [
        Row(name, [spelled(run.config.get(name)) for run in firsts]) for name in differences(firsts)
    ]


def _curves(groups: list[Group], names: tuple[str, ...]) -> list[Chart]:
    goal, found = goal_of(groups), []
    for name in names:
        series = [_series(group, place, QUANTITIES[name]) for place, group in enumerate(groups)]
        at = goal if name in ("evaluation", "return") else None
        found.append(curves_chart(name, QUANTITIES[name].title, AXES["steps"][0], series, at))
    return [each for each in found if each is not None]


def _series(group: Group, place: int, quantity: Quantity, **how: Any) -> Series:
    lines = [line(run, quantity, "steps") for run in group.runs]
    return Series(
        **{"label": group.label, **how}, look=place % _LOOKS, lines=lines, mean=band(lines)
    )


def _overestimation(groups: list[Group]) -> list[Chart]:
    """Returns the chart of Q-values of first observations and actual discounted returns."""
    pairs = (("predicted", _PREDICTED, False), ("actual", _DISCOUNTED, True))
    series = [
        _series(group, place, quantity, dashed=dashed,
                label=word if len(groups) == 1 else f"{group.label}: {word}")
        for place, group in enumerate(groups)
        for word, quantity, dashed in pairs
    ]  # fmt: skip
    title = "Q-value of first observations, and actual discounted return"
    found = curves_chart("overestimation", title, AXES["steps"][0], series)
    return [] if found is None else [found]


def _phases(group: Group, place: int, count: int) -> Chart | None:
    found = phases(group.runs, "steps")
    title = "share of the time of the loop" + (f": {group.label}" if count > 1 else "")
    return found and phases_chart(f"phases-{place}", title, AXES["steps"][0], found)


def _times(runs: list[RunRecord]) -> dict[str, Any]:
    """Returns seconds of phases and of the start-up, and rates, as means over runs."""
    startup, rates = _means(runs, "startup_seconds"), {}
    for name, key in (
        ("environment alone, steps per second", "time/env_steps_per_second"),
        ("learner alone, updates per second", "time/learner_updates_per_second"),
    ):
        columns = [run.metrics[key] for run in runs if key in run.metrics]
        values = np.concatenate(columns) if columns else np.empty(0)
        values = values[np.isfinite(values)]
        if len(values):
            rates[name] = f"{np.median(values):,.0f}"
    return {
        "phases": _shares(_means(runs, "phase_seconds")),
        "startup": [(name, f"{seconds:.2f}") for name, seconds in startup.items()],
        "rates": list(rates.items()),
        "devices": ", ".join(dict.fromkeys(str(run.system.get("device")) for run in runs)),
    }


def _means(runs: list[RunRecord], key: str) -> dict[str, float]:
    """Returns the mean seconds by name, over the runs that have them."""
    found = [_dict(run.summary.get(key)) for run in runs]
    found = [each for each in found if each]
    names = dict.fromkeys(name for each in found for name in each)
    sums = {name: sum(np.nan_to_num(number(each.get(name))) for each in found) for name in names}
    return {name: float(total) / len(found) for name, total in sums.items()}


def _shares(seconds: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Returns (colour, name, seconds, share) of the phases, longest first."""
    known = {str(name): max(0.0, float(np.nan_to_num(number(s)))) for name, s in seconds.items()}
    total = sum(known.values()) or 1.0
    return [
        (svg_chart.look(name), name, f"{spent:.2f}", f"{spent / total:.1%}")
        for name, spent in sorted(known.items(), key=lambda item: -item[1])
    ]
