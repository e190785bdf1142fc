"""HTML report: a single page with results, curves, times, options and commands of runs."""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from fastdqn.config.info_keys import InfoMean, info_metric, info_title
from fastdqn.config.last_weights import COLLAPSED, is_worse
from fastdqn.report import svg_chart
from fastdqn.report.curves import (
    AXES,
    QUANTITIES,
    Center,
    Quantity,
    band,
    line,
    phases,
)
from fastdqn.report.run_data import RunRecord, info_of, number
from fastdqn.report.seed_groups import Group, differences, goal_of, spelled
from fastdqn.report.statistics import (
    improvement_interval,
    iqm,
    probability_of_improvement,
    stratified_bootstrap,
)
from fastdqn.report.svg_chart import Chart, Series, curves_chart, phases_chart, short
from fastdqn.text import drawable

_PREDICTED = Quantity("", "mean_predicted", evaluated=True)
_DISCOUNTED = Quantity("", "mean_discounted", evaluated=True)
# Options that say where a run is and what it prints. With them a command repeats nothing.
_PLACING = ("--run-dir", "--resume", "--quiet")
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
        "compared": _comparison(groups) if len(runs) > 1 else None,
        "each_run": _runs_table(groups) if len(runs) > 1 else None,
        "differ": _differences(groups),
        "curves": [*_curves(groups, ("evaluation", "return", "epsilon")), *_info_curves(groups)],
        "values": [*_curves(groups, ("q",)), *overestimation, *_curves(groups, ("loss",))],
        "overestimation": bool(overestimation),
        "phases": [_phases(each, place, len(groups)) for place, each in enumerate(groups)],
        "times": [(each.label, _times(each.runs)) for each in groups],
        "clocks": [(str(row["clock"]), _shares(row["phase_seconds"])) for row in clocks],
        "goal": goal_of(groups),
        "box": {name.lower(): getattr(svg_chart, name) for name in
                ("WIDTH", "HEIGHT", "LEFT", "RIGHT", "TOP", "BOTTOM")},
    }  # fmt: skip


def _run(run: RunRecord, defaults: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of the page about one run."""
    folder, packages = shlex.quote(str(run.folder)), run.system.get("packages")
    versions = packages if isinstance(packages, dict) else {}
    # No index has the version of a checkout.
    ours = {"fastdqn"} if run.system.get("fastdqn_source") is not None else set()
    pinned = {name: version for name, version in versions.items() if name not in ours}
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
        "warnings": _warnings(run),
        "command": _repeated(run.command),
        "install": " ".join(
            ["pip install"] + [shlex.quote(f"{n}=={v}") for n, v in pinned.items() if v]
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


def _repeated(command: str) -> str:
    """Returns the command that trains the run again, in a new folder and with its progress shown.

    It has the program name fastdqn instead of its path. Other programs are left as they are.
    """
    program, _, rest = command.partition(" ")
    if Path(program).name not in ("fastdqn", "__main__.py"):
        return command
    try:
        words = shlex.split(rest)
    except ValueError:  # not a command line
        return f"fastdqn {rest}"
    kept, skips = list[str](), False
    for word in words:
        if word.startswith("--"):
            skips = word.partition("=")[0].replace("_", "-") in _PLACING
        if not skips:  # and no value of such an option
            kept.append(word)
    return shlex.join(["fastdqn", *kept])


def _result(run: RunRecord) -> dict[str, str]:
    """Describes the final evaluations and whether the run was solved."""
    best, last = (_dict(run.summary.get(name)) for name in ("eval", "eval_last"))
    solved, shown = _dict(run.summary.get("solved")), last or best
    mean, goal = number(shown.get("mean_return")), number(run.config.get("stop_at_return"))
    texts = {"mean": short(mean) if shown else "no final evaluation", "spread": "", "goal": ""}
    if shown:
        std, least = (short(number(shown.get(name))) for name in ("std_return", "min_return"))
        texts["spread"] = (
            f"mean return of {spelled(shown.get('episodes'))} greedy episodes, standard deviation "
            f"{std}, minimum {least}, with the {'last' if last else 'best'} weights"
        )
    if last and last.get("steps_at_eval") != best.get("steps_at_eval"):
        texts["spread"] += (
            f". The best weights, selected among all evaluations: "
            f"{short(number(best.get('mean_return')))}, of step "
            f"{short(number(best.get('steps_at_eval')))}"
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


def _warnings(run: RunRecord) -> list[str]:
    """Returns the warnings of a run. The one of worse last weights states the returns."""
    stored = [str(line) for line in _list(run.summary.get("warnings"))]
    return [*_collapsed(run), *(line for line in stored if line != COLLAPSED)]


def _collapsed(run: RunRecord) -> list[str]:
    """Returns a warning if the last weights are worse than the best, beyond chance."""
    best, last = (
        {
            name: number(_dict(run.summary.get(key)).get(name))
            for name in ("mean_return", "std_return", "episodes")
        }
        for key in ("eval", "eval_last")
    )
    values = [*best.values(), *last.values()]
    if not np.isfinite(values).all() or min(best["episodes"], last["episodes"]) < 1:
        return []
    if not is_worse(last, best):
        return []
    return [
        f"the mean return is {short(last['mean_return'])} with the last weights, and "
        f"{short(best['mean_return'])} with the best: returns fell after the best evaluation"
    ]


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


def _comparison(groups: list[Group]) -> dict[str, Any]:
    """Returns heads and rows of the comparison of settings, and whether there are several."""
    has_goal = any(_has_goal(run) for group in groups for run in group.runs)
    heads = ["setting", "runs", "last weights, mean", "last weights, IQM", "best weights, mean"]
    heads += ["solved", "steps until solved", "seconds until solved"] if has_goal else []
    keys, first, several = _info_keys(groups), groups[0], len(groups) > 1
    heads += ["P(better than the first)"] if several else []
    heads += [*map(info_title, keys), "steps per second"]
    rows = []
    for group in groups:
        better = ["-" if group is first else _better(group, first)] if several else []
        rows.append(_compared(group, has_goal, [*better, *(_info(group, key) for key in keys)]))
    return {"heads": heads, "rows": rows, "several": several}


def _better(group: Group, first: Group) -> str:
    """Formats the probability that a run scores above one of the first setting, by last weights."""
    ours, theirs = (np.array(_finals(each, "eval_last"))[:, None] for each in (group, first))
    if not len(ours) or not len(theirs):
        return "-"
    middle = f"{probability_of_improvement(ours, theirs):.2f}"
    ends = improvement_interval(ours, theirs)  # as the table of a study
    return middle if ends is None else f"{middle} [{ends.low:.2f}, {ends.high:.2f}]"


def _info(group: Group, key: str) -> str:
    """Formats the mean of a key of info over the runs that have it."""
    found = [_info_of(run, key) for run in group.runs]
    return _mean([each.mean for each in found if each is not None])


def _has_goal(run: RunRecord) -> bool:
    return bool(np.isfinite(number(run.config.get("stop_at_return"))))


def _compared(group: Group, has_goal: bool, more: list[str]) -> Row:
    """Returns the results of a setting: runs, final returns, solved, steps, seconds, and more."""
    best, last = (_finals(group, name) for name in ("eval", "eval_last"))
    cells = [str(len(group.runs)), _mean(last), _mean(last, "iqm"), _mean(best)]
    if has_goal:
        solved = [_dict(run.summary.get("solved")) for run in group.runs]
        asked = sum(map(_has_goal, group.runs))
        cells += [
            f"{sum(map(bool, solved))} of {asked}" if asked else "-",
            _median([number(each.get("steps")) for each in solved]),
            _median([number(each.get("seconds")) for each in solved]),
        ]
    speeds = [number(run.summary.get("steps_per_second")) for run in group.runs]
    return Row(group.label, [*cells, *more, _median(speeds)])


def _finals(group: Group, name: str) -> list[float]:
    values = [number(_dict(r.summary.get(name)).get("mean_return")) for r in group.runs]
    return [value for value in values if np.isfinite(value)]


def _runs_table(groups: list[Group]) -> dict[str, Any]:
    """Returns heads, and a row for each run: setting, returns, info, how it ended, warnings."""
    keys, rows = _info_keys(groups), []
    heads = ["run", "setting", "seed", "last weights", "best weights", *map(info_title, keys)]
    heads += ["steps", "seconds", "end", "warnings"]
    for group in groups:
        for run in group.runs:
            best, last = (
                number(_dict(run.summary.get(name)).get("mean_return"))
                for name in ("eval", "eval_last")
            )
            facts, lines = dict(_facts(run)), "; ".join(_warnings(run))
            cells = [
                group.label, spelled(run.config.get("seed")), short(last), short(best),
                *(_info_mean(run, key) for key in keys),
                facts.get("steps", "-"), facts.get("seconds of the loop", "-"),
                str(run.summary.get("exit_reason", "not finished")), lines or "-",
            ]  # fmt: skip
            rows.append(Row(run.folder.name or str(run.folder), cells, bool(_collapsed(run))))
    return {"heads": heads, "rows": rows}


def _info_keys(groups: list[Group]) -> list[str]:
    runs = [run for group in groups for run in group.runs]
    return list(dict.fromkeys(str(k) for run in runs for k in _list(run.config.get("info_keys"))))


def _info_of(run: RunRecord, key: str) -> InfoMean | None:
    """Returns the mean of a key of info in the evaluation of the last weights, else of the best."""
    return info_of(key, _dict(run.summary.get("eval_last")) or _dict(run.summary.get("eval")))


def _info_mean(run: RunRecord, key: str) -> str:
    found = _info_of(run, key)
    return "-" if found is None else f"{short(found.mean)}{found.over}"


def _mean(values: list[float], center: Center = "mean") -> str:
    """Formats a mean, or an interquartile mean, with its 95 % bootstrap interval."""
    if not values:
        return "-"
    statistic = _mean_of_runs if center == "mean" else iqm
    scores = np.array(values)[:, None]  # [R, 1]
    middle = short(float(statistic(scores)))
    found = stratified_bootstrap(scores, statistic)  # as the table of a study
    return middle if found is None else f"{middle} [{short(found.low)}, {short(found.high)}]"


def _mean_of_runs(scores: np.ndarray) -> np.ndarray:
    return scores.mean(axis=(-2, -1))


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
        quantity = QUANTITIES[name]
        at = goal if quantity.unit == "return" else None
        over = AXES["steps"][0]
        found.append(curves_chart(name, quantity.title, over, series, at, quantity.unit))
    return [each for each in found if each is not None]


def _info_curves(groups: list[Group]) -> list[Chart]:
    """Returns a chart of each key of --info-keys, the mean of recent training episodes."""
    found = []
    for count, key in enumerate(_info_keys(groups)):
        title, unit = f"{info_title(key)}, mean of the last 100 training episodes", info_title(key)
        quantity = Quantity(title, info_metric(key), unit=unit)
        series = [_series(group, place, quantity) for place, group in enumerate(groups)]
        over = AXES["steps"][0]
        found.append(curves_chart(f"info-{count}", title, over, series, None, unit))
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
