"""The option --seeds of train: trains many seeds and variants, and compares them."""

import contextlib
import shlex
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console

from fastdqn.builders.user_object_checks import located
from fastdqn.cli import plot_and_report
from fastdqn.cli.options import TrainOptions
from fastdqn.cli.ray_options import connected_to
from fastdqn.cli.study_options import StudyPlan, plan_study, run_words
from fastdqn.config.schema import Config, ConfigError
from fastdqn.files.atomic_write import to_json, write_whole
from fastdqn.files.open_folder import Where
from fastdqn.files.run_folder import working_folder
from fastdqn.report.seed_groups import spelled
from fastdqn.study.changed_runs import changed_runs, left_out
from fastdqn.study.inputs import changed_inputs, stamps
from fastdqn.study.live_table import study_display
from fastdqn.study.local_scheduler import LocalScheduler
from fastdqn.study.results import (
    missing_runs,
    remarks,
    results_record,
    results_table,
    study_results,
)
from fastdqn.study.run_progress import RunProgress
from fastdqn.study.run_queue import ATTEMPTS, Entry, RunQueue, State
from fastdqn.study.scheduler import Scheduler
from fastdqn.study.study_folder import (
    FILE,
    held,
    is_study,
    read_study,
    summary_of,
    write_study,
)
from fastdqn.system import standard_streams
from fastdqn.system.signals import listen

_WIDTH = 140  # columns of the table if the output is not a terminal
_INTERRUPTED = 130
# Options in which resolved runs differ without being different variants.
_FREE = ("seed", "run_dir")


def study(name: str, words: Sequence[str], chosen: TrainOptions, lines: Sequence[str]) -> int:
    """Runs `fastdqn train NAME --seeds ...`. Returns the exit code.

    Args:
        name: Preset or environment id.
        words: The arguments after it.
        chosen: The parsed arguments.
        lines: Error messages of the parser.

    Raises:
        ConfigError: All errors in the options, a line each.
        EnvError: The environment cannot be made.
        WriteError: A result cannot be written.
    """
    plan = plan_study(name, words, chosen, lines)
    if chosen.dry_run:
        print(_listed(plan))
        return 0
    with _cluster(chosen), held(plan.folder) as place:
        if (read_study(place) if is_study(plan.folder) else None) != plan.before:
            raise ConfigError([f"another process has just changed {plan.folder / FILE}: try again"])
        write_study(place, plan.study)
        _make_folders(plan)
        configs = [setup.config for setup in plan.setups.values()]
        before = stamps(configs, working_folder())
        with listen() as requests:
            changed = _changed(plan)
            queue = _train(plan, chosen, changed, requests)
            stopped = requests.stop()
        if stopped:
            ended = f"{queue.count(State.FINISHED)} of {len(queue.entries)} runs have finished"
            command = shlex.join(["fastdqn", "train", name, *words])
            print(f"interrupted: {ended}. To continue: {command}", flush=True)
            return _INTERRUPTED
        inputs = changed_inputs(before, stamps(configs, working_folder()))
        return _finish(plan, place, queue, changed, inputs)


def _changed(plan: StudyPlan) -> dict[str, str]:
    """Returns what differs in each run that is not as the study wants it, by its name."""
    base, asked = working_folder(), {}
    for variant, setup in plan.setups.items():
        config = setup.requested
        asked[variant.name] = config.replace(**located(config, {}, base))
    return changed_runs(plan.study.runs(plan.folder), asked)


def _cluster(chosen: TrainOptions) -> AbstractContextManager:
    """Connects to the cluster of --ray, if it is given. Raises ConfigError."""
    return contextlib.nullcontext() if chosen.ray is None else connected_to(chosen.ray)


def _scheduler(plan: StudyPlan, chosen: TrainOptions) -> Scheduler:
    """Returns the scheduler of this machine, or of the cluster. Raises ConfigError."""
    if chosen.ray is None:
        assert plan.jobs is not None
        return LocalScheduler(plan.jobs)
    from fastdqn.cluster.ray_scheduler import RayScheduler
    from fastdqn.cluster.resources import Resources

    return RayScheduler(plan.folder, Resources(chosen.ray_cpus, chosen.ray_gpus), plan.jobs)


def _train(plan: StudyPlan, chosen: TrainOptions, changed: Collection[str], requests) -> RunQueue:
    """Trains the runs that are not finished, without those that were changed."""
    entries, scheduler = _entries(plan), _scheduler(plan, chosen)
    count = _counted(len(entries), "run")
    entries = [entry for entry in entries if entry.run.name not in changed]
    before = sum(summary_of(entry.run.folder) is not None for entry in entries)
    if before and not chosen.quiet:
        print(f"{before} of {count} have finished before", flush=True)
    try:
        with study_display(plan.folder, chosen.quiet) as display:
            queue = RunQueue(entries, scheduler, display)
            queue.train(requests.stop, requests.checkpoint)
    finally:
        scheduler.close()
    return queue


def _entries(plan: StudyPlan) -> list[Entry]:
    entries = []
    for run in plan.study.runs(plan.folder):
        config = plan.setups[run.variant].config
        words = (
            "train", plan.study.subject, *run_words(plan.study, run.variant),
            "--seed", str(run.seed), "--run-dir", str(run.folder), "--resume", "auto", "--quiet",
        )  # fmt: skip
        progress = RunProgress(run.folder, config.total_timesteps, config.total_episodes)
        entries.append(Entry(run, words, progress))
    return entries


def _make_folders(plan: StudyPlan) -> None:
    """Creates the folder of each variant, for the logs. Raises ConfigError."""
    for variant in plan.study.variants:
        path = plan.folder / variant.name
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError([f"run_dir {path}: {error.strerror}"]) from None


def _listed(plan: StudyPlan) -> str:
    """Returns what a dry run prints: every run, and how its resolved options differ."""
    study, runs = plan.study, plan.study.runs(plan.folder)
    resolved = {each: setup.config for each, setup in plan.setups.items()}
    first = resolved[study.variants[0]]
    texts = {each: _differences(first, config) for each, config in resolved.items()}
    counts = f"{_counted(len(study.variants), 'variant')}, {_counted(len(study.seeds), 'seed')}"
    jobs = "as many as the cluster holds" if plan.jobs is None else plan.jobs
    lines = [f"{plan.folder}: {counts}, {_counted(len(runs), 'run')}, {jobs} at a time"]
    width = max(len(run.name) for run in runs)
    changed = _changed(plan)
    for run in runs:
        finished = summary_of(run.folder) is not None
        state = "finished" if finished else "started" if run.folder.exists() else "new"
        state = "left out" if run.name in changed else state
        lines.append(f"{run.name:{width}}  {state:8}  {texts[run.variant]}".rstrip())
    return "\n".join([*lines, *left_out(changed)])


def _differences(first: Config, config: Config) -> str:
    return ", ".join(
        f"{name} {spelled(value)}"
        for name, value in vars(config).items()
        if name not in _FREE and value != getattr(first, name)
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _finish(
    plan: StudyPlan, place: Where, queue: RunQueue, changed: Mapping[str, str], inputs: list[str]
) -> int:
    """Writes and prints the results. Returns the exit code, 1 if a run has failed.

    inputs: lines about data that changed.
    """
    study, folder = plan.study, plan.folder
    results = study_results(study, folder, changed)
    record = results_record(study, results, changed)
    write_whole(place / "results.json", to_json(record, indent=2) + "\n")
    lines = [*left_out(changed), *inputs, *remarks(results), *missing_runs(study, results, changed)]
    lines.append(f"written: {folder / 'results.json'}")
    if queue.count(State.FINISHED):
        lines += _figures(folder, changed)
    standard_streams.restore()
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(results_table(results))
    console.print("\n".join(lines), markup=False)
    for entry in queue.failed():
        standard_streams.print_error(
            f"error: {entry.run.name} failed in {ATTEMPTS} attempts: {entry.error} "
            f"(log: {entry.run.log})"
        )
    return 1 if queue.failed() else 0


def _figures(folder: Path, changed: Collection[str]) -> list[str]:
    """Draws curves and report of the runs that were not changed. Returns lines to print."""
    lines = []
    for name, draw in (
        ("curves.png", plot_and_report.plot_runs),
        ("report.html", plot_and_report.report_runs),
    ):
        try:
            lines.append(draw([str(folder), "--out", str(folder / name)], changed))
        except ConfigError as error:
            lines.append(f"no {name}: {error.lines[0]}")
    return lines
