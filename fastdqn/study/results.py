"""Results of a study: returns of its runs, and statistics of each variant over the seeds."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from fastdqn.config.info_keys import InfoMean, info_title
from fastdqn.config.schema import ConfigError
from fastdqn.files.run_folder import read_config
from fastdqn.report import statistics
from fastdqn.report.run_data import info_of, number
from fastdqn.report.statistics import Interval
from fastdqn.study.run_progress import newest_row
from fastdqn.study.study_folder import Run, Study, Variant, summary_of
from fastdqn.text import printable, rounded
from fastdqn.training.progress import SOLVED

# Seeds below which an interval is called a rough guess. Ours, untuned.
_FEW = 5
# What the numbers of results.json are.
METHOD = (
    "Mean return of greedy episodes per run: 'last' of the last weights, without a selection; "
    "'best' of the weights that were best in an evaluation. iqm: mean without the lowest and the "
    "highest quarter of the runs. Intervals: percentiles 2.5 and 97.5 of "
    f"{statistics.RESAMPLES} bootstrap samples of the runs. probability_of_improvement: share of "
    "pairs in which a run of the variant is above a run of the first variant, ties one half "
    "(Agarwal et al. 2021, arXiv 2108.13264)."
)


class SolvedAt(NamedTuple):
    """Environment steps and episodes after which a run reached --stop-at-return.

    episodes is None if the run was continued after that.
    """

    steps: int
    episodes: int | None


class RunResult(NamedTuple):
    """Returns of a finished run. None: it was not evaluated.

    info: mean of each key of --info-keys in the evaluation of the last weights, if it is known.
    solved: None if the run has no --stop-at-return, or did not reach it.
    """

    seed: int
    last: float | None
    best: float | None
    info: Mapping[str, InfoMean] = MappingProxyType({})
    solved: SolvedAt | None = None


class VariantResult(NamedTuple):
    """Statistics of a variant over its finished runs. None: not defined for so few runs.

    Attributes:
        runs: The finished runs.
        mean, iqm, interval: Of the returns of the last weights; the interval is of the IQM.
        improvement, improvement_interval: Probability that a run is above one of the first variant.
            None for the first itself.
        best_mean: Mean of the returns of the best weights.
    """

    variant: Variant
    runs: list[RunResult]
    mean: float | None
    iqm: float | None
    interval: Interval | None
    improvement: float | None
    improvement_interval: Interval | None
    best_mean: float | None

    def info_mean(self, key: str) -> InfoMean | None:
        """Returns the mean of a key of info over the runs that have it, or None without any."""
        found = [run.info[key] for run in self.runs if key in run.info]
        if not found:
            return None
        mean = sum(each.mean for each in found) / len(found)
        return InfoMean(mean, sum(e.num_values for e in found), sum(e.episodes for e in found))


def study_results(study: Study, folder: Path, changed: Collection[str] = ()) -> list[VariantResult]:
    """Returns the results of the finished runs, by variant, without those of changed runs."""
    runs = [run for run in study.runs(folder) if run.name not in changed]
    found = [(variant, _finished(variant, runs)) for variant in study.variants]
    base = _column([run.last for run in found[0][1]])
    return [_variant(variant, own, base if i else None) for i, (variant, own) in enumerate(found)]


def run_result(run: Run) -> RunResult | None:
    """Returns the returns of a run, or None if it has not finished."""
    summary = summary_of(run.folder)
    if summary is None:
        return None
    best, last = summary.get("eval"), summary.get("eval_last")
    if not isinstance(last, dict):  # the best weights are the last, or it was not recorded
        is_last = isinstance(best, dict) and best.get("steps_at_eval") == summary.get("total_steps")
        last = (
            best if is_last else newest_row(run.folder / "eval.jsonl", "mean_return", kind="eval")
        )
    info = _info(run.folder, last)
    return RunResult(run.seed, _mean_return(last), _mean_return(best), info, _solved(summary))


def info_keys(results: list[VariantResult]) -> list[str]:
    """Returns the keys of info that a run has."""
    return list(dict.fromkeys(key for each in results for run in each.runs for key in run.info))


def results_record(
    study: Study, results: list[VariantResult], changed: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the content of results.json. changed: what differs in runs that are left out."""
    keys = info_keys(results)
    return {
        "subject": study.subject,
        "options": study.options,
        "method": METHOD,
        "left_out": dict(changed),
        "variants": [
            {
                "name": each.variant.name, "options": each.variant.options,
                "seeds": [run.seed for run in each.runs],
                "last": [run.last for run in each.runs], "best": [run.best for run in each.runs],
                "mean": each.mean, "iqm": each.iqm, "iqm_interval": each.interval,
                "probability_of_improvement": each.improvement,
                "probability_of_improvement_interval": each.improvement_interval,
                "mean_best": each.best_mean,
                "solved": [run.solved and run.solved._asdict() for run in each.runs],
                "info": {key: _info_record(each, key) for key in keys},
            }
            for each in results
        ],
    }  # fmt: skip


def results_table(results: list[VariantResult]) -> Table:
    """Returns the table that a study ends with."""
    several, keys = len(results) > 1, info_keys(results)
    table = Table(title="returns of the last weights", title_justify="left")
    table.add_column("variant", overflow="fold")
    for name in ("seeds", "mean", "IQM", "95 % interval"):
        table.add_column(name, justify="right")
    if several:
        table.add_column(f"P(better than {results[0].variant.label})", justify="right")
        table.add_column("95 % interval", justify="right")
    for key in keys:
        table.add_column(Text(printable(f"{info_title(key)}, mean")), justify="right")
    table.add_column("best weights, mean", justify="right")
    solves = any(run.solved for each in results for run in each.runs)
    for name in ("solved", "steps, median", "episodes, median") if solves else ():
        table.add_column(name, justify="right")
    for i, each in enumerate(results):
        row = [str(len(each.runs)), _text(each.mean), _text(each.iqm), _ends(each.interval)]
        if several:
            compared = [_share(each.improvement), _shares(each.improvement_interval)]
            row += compared if i else ["", ""]
        row += [_info_text(each.info_mean(key)) for key in keys]
        row += [_text(each.best_mean), *(_solved_texts(each.runs) if solves else [])]
        table.add_row(Text(printable(each.variant.label)), *row)
    return table


def remarks(results: list[VariantResult]) -> list[str]:
    """Returns lines about numbers that the table does not have."""
    lines = []
    few = [each.variant.label for each in results if len(each.runs) == 1]
    if few:
        lines.append(
            f"no interval for {', '.join(few)}: one finished run does not show the spread over "
            "seeds. Add seeds"
        )
    without = [each.variant.label for each in results if each.runs and each.mean is None]
    if without:
        lines.append(
            f"no returns for {', '.join(without)}: a run was not evaluated. Set --eval-frequency"
        )
    partly = [each for each in results if 0 < sum(map(_is_solved, each.runs)) < len(each.runs)]
    if partly:
        names = ", ".join(each.variant.label for each in partly)
        lines.append(f"medians of {names} are those of the solved runs alone")
    return lines + _caution(results)


def _is_solved(run: RunResult) -> bool:
    return run.solved is not None


def missing_runs(study: Study, results: list[VariantResult], changed: Collection[str]) -> list[str]:
    """Returns a line for each variant of which some runs, but not all, are missing as failed."""
    wanted = {
        variant.name: sum(f"{variant.name}/seed-{seed}" not in changed for seed in study.seeds)
        for variant in study.variants
    }
    return [
        f"{each.variant.label}: {missing} of {wanted[each.variant.name]} runs failed, and its "
        "numbers do not include them. The others may be the better ones"
        for each in results
        if each.runs and (missing := wanted[each.variant.name] - len(each.runs)) > 0
    ]


def _caution(results: list[VariantResult]) -> list[str]:
    """Returns a line if intervals are rough, or do not decide between variants."""
    first = results[0].variant.label
    open_to = [
        each.variant.label
        for each in results
        if (ends := each.improvement_interval) is not None and ends.low <= 0.5 <= ends.high
    ]
    said = []
    if any(each.interval is not None and len(each.runs) < _FEW for each in results):
        said.append(f"intervals of fewer than {_FEW} seeds are rough guesses")
    if open_to:
        said.append(
            f"these seeds do not decide whether {' or '.join(open_to)} is better than {first}"
        )
    return [": ".join(said)] if said else []


def _finished(variant: Variant, runs: Sequence[Run]) -> list[RunResult]:
    own = sorted((run for run in runs if run.variant == variant), key=lambda run: run.seed)
    return [result for run in own if (result := run_result(run)) is not None]


def _variant(variant: Variant, runs: list[RunResult], base: np.ndarray | None) -> VariantResult:
    last, best = _column([run.last for run in runs]), _column([run.best for run in runs])
    mean_best = None if best is None else float(best.mean())
    if last is None:
        return VariantResult(variant, runs, None, None, None, None, None, mean_best)
    mean, iqm = float(last.mean()), float(statistics.iqm(last))
    interval = statistics.stratified_bootstrap(last)
    improvement = improvement_interval = None
    if base is not None:
        improvement = statistics.probability_of_improvement(last, base)
        improvement_interval = statistics.improvement_interval(last, base)
    return VariantResult(
        variant, runs, mean, iqm, interval, improvement, improvement_interval, mean_best
    )


def _info(folder: Path, evaluation: Any) -> dict[str, InfoMean]:
    """Returns the means of the keys of --info-keys in an evaluation."""
    try:
        keys = read_config(folder).info_keys
    except ConfigError:  # of another version
        return {}
    found = evaluation if isinstance(evaluation, dict) else {}
    means = {key: info_of(key, found) for key in keys}
    return {key: mean for key, mean in means.items() if mean is not None}


def _solved(summary: Mapping[str, Any]) -> SolvedAt | None:
    found = summary.get("solved")
    steps = found.get("steps") if isinstance(found, dict) else None
    if type(steps) is not int:
        return None
    episodes = summary.get("episodes") if summary.get("exit_reason") == SOLVED else None
    return SolvedAt(steps, episodes if type(episodes) is int else None)


def _solved_texts(runs: Sequence[RunResult]) -> list[str]:
    """Returns how many runs were solved, and the medians of their steps and episodes."""
    solved = [run.solved for run in runs if run.solved is not None]
    columns = [[each.steps for each in solved], [each.episodes for each in solved]]
    known = [[count for count in column if count is not None] for column in columns]
    medians = [
        f"{np.median(counts):,.1f}".removesuffix(".0") if counts else "-" for counts in known
    ]
    return [f"{len(solved)} of {len(runs)}", *medians]


def _info_record(result: VariantResult, key: str) -> dict[str, Any]:
    runs = [run.info.get(key) for run in result.runs]
    mean = result.info_mean(key)
    return {
        "mean": mean and mean.mean,
        "last": [each and each.mean for each in runs],
        "episodes_with_it": [0 if each is None else each.num_values for each in runs],
    }


def _info_text(mean: InfoMean | None) -> str:
    return "-" if mean is None else f"{rounded(mean.mean)}{mean.over}"


def _column(values: Sequence[float | None]) -> np.ndarray | None:
    """Returns float64[R, 1], or None if there is no value or one is missing."""
    if not values or any(value is None for value in values):
        return None
    return np.array(values, np.float64)[:, None]


def _mean_return(evaluation: Any) -> float | None:
    value = number(evaluation.get("mean_return")) if isinstance(evaluation, dict) else float("nan")
    return value if np.isfinite(value) else None


def _text(value: float | None) -> str:
    return "-" if value is None else rounded(value)


def _ends(interval: Interval | None) -> str:
    return "-" if interval is None else f"{rounded(interval.low)} to {rounded(interval.high)}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _shares(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.low:.2f} to {interval.high:.2f}"
