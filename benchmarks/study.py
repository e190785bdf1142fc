"""Study from Q-tables to Rainbow: techniques on two tasks, with many seeds and intervals.

    python benchmarks/study.py study --jobs 2          # all runs, then the figures
    python benchmarks/study.py study --dry-run         # existing and missing runs, duration
    python benchmarks/plot.py                          # plots of the results

Each run is a new process that writes one line of JSON to the folder. An interrupted study continues
with the missing runs. The results are written to --out, which is replaced. CartPole-v1 has ten
seeds of each row, and Acrobot-v1 five. See study_rows.py for the settings. Needs scipy (dev extra).
"""

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastdqn.bench.machine_info import describe_machine
from fastdqn.files.atomic_write import WriteError, read_text, write_whole
from harness import count, fail
from study_figures import summary, table
from study_files import read_result
from study_rows import CLASSIC, TASKS, VERSION, Job, jobs, settings

HEADER = "study.json"
_INTERRUPTED = 130
WORKER = Path(__file__).parent / "study_run.py"
# Estimated CPU seconds of the loop of a run, used until the folder has measured ones. Scaled from
# 6,000 (CartPole-v1), 3,000 (Acrobot-v1) and 2,000 (classic, of 60,000) steps on a busy AMD EPYC
# (Zen 4). Rows that are not listed take about as long as DQN.
SECONDS = {
    "CartPole-v1": {"DQN": 2.0, "+ C51, noise: Rainbow": 42.0, CLASSIC: 31.0},
    "Acrobot-v1": {"DQN": 28.0, "+ C51, noise: Rainbow": 276.0},
}
# CPU seconds of start-up and evaluations. Those of Acrobot are long while it fails.
_AROUND = {"CartPole-v1": 11.0, "Acrobot-v1": 25.0}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder for the results of runs")
    parser.add_argument("--jobs", type=count, default=1, help="parallel runs")
    parser.add_argument("--seeds", type=count, help="maximum seeds of each row")
    parser.add_argument(
        "--tasks", nargs="*", choices=TASKS, default=list(TASKS), help="default: all"
    )
    parser.add_argument(
        "--share", type=_share, default=1.0, help="fraction of the steps, for a trial"
    )
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--dry-run", action="store_true", help="list the missing runs, and exit")
    args = parser.parse_args()
    asked = [job for job in jobs(args.seeds) if job.task in args.tasks]
    take_folder(args.folder, args.share, args.dry_run)
    known = read(args.folder, asked)
    missing = [job for job in asked if job not in known]
    print(plan(asked, known, args.jobs, args.share))
    if args.dry_run:
        return
    failed = run_all(missing, args)
    known = read(args.folder, asked)
    figures = summary(list(known.values()))
    print(table(figures))
    if args.out:
        command = " ".join(["python benchmarks/study.py", *sys.argv[1:]])
        machine = describe_machine("cpu", 1)
        record = {"command": command, "machine": machine, **settings(args.share), **figures}
        write_whole(args.out, json.dumps(record, indent=1) + "\n")
    if failed:
        fail(f"{len(failed)} runs failed, of {', '.join(sorted({job.row for job in failed}))}")


def take_folder(folder: Path, share: float, only_look: bool) -> None:
    """Creates the folder of a study, or checks that it belongs to this study."""
    header, ours = folder / HEADER, json.loads(json.dumps(settings(share)))
    if not header.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            fail(f"{folder} is not the folder of a study: give a new or empty folder")
        if not only_look:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write_whole(header, json.dumps(ours) + "\n")
            except (OSError, WriteError) as error:
                fail(f"{folder}: {error}")
        return
    theirs, version = {}, None
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        theirs = json.loads(read_text(header))
        version = theirs["version"]
    if version is None:
        fail(f"{header} is not the header of a study: give another folder")
    if version != VERSION:
        fail(
            f"{folder} is a study of version {str(version)[:20]!r}, and this is {VERSION}: give "
            "another folder, or continue with the version that created it"
        )
    if theirs != ours:
        differs = [name for name in ours if theirs.get(name) != ours[name]]
        fail(f"{folder} is a study with other {' and '.join(differs)}: give another folder")


def read(folder: Path, asked: Iterable[Job]) -> dict[Job, dict[str, Any]]:
    """Returns the existing results. An invalid file counts as missing, and is replaced."""
    found = {}
    for job in asked:
        try:
            result = read_result(folder / job.file, job)
        except ValueError as error:
            fail(str(error))
        if result is not None:
            found[job] = result
    return found


def plan(asked: list[Job], known: dict[Job, dict], at_a_time: int, share: float) -> str:
    """Returns a line for each row of each task, and the estimated duration."""
    lines, total = [f"{'task':12}  {'row':24}  runs  done  CPU seconds per run"], 0.0
    for task, row in dict.fromkeys((job.task, job.row) for job in asked):
        of_row = [job for job in asked if (job.task, job.row) == (task, row)]
        there = [known[job]["cpu_seconds"] for job in of_row if job in known]
        guess = _AROUND[task] + share * SECONDS[task].get(row, SECONDS[task]["DQN"])
        each = sum(there) / len(there) if there else guess
        total += each * (len(of_row) - len(there))
        lines.append(f"{task:12}  {row:24}  {len(of_row):4}  {len(there):4}  {each:19.1f}")
    minutes = total / 60 / at_a_time
    return "\n".join(
        [*lines, f"missing: about {minutes:.0f} minutes with {at_a_time} parallel runs"]
    )


def run_all(missing: list[Job], args: argparse.Namespace) -> list[Job]:
    """Makes the missing runs, args.jobs in parallel. Returns those that failed."""
    with ThreadPoolExecutor(args.jobs) as pool:
        codes = [_INTERRUPTED]
        try:
            codes = list(pool.map(lambda job: _run(job, args), missing))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
    if _INTERRUPTED in codes:
        fail("interrupted: results are kept, and the same command continues")
    return [job for job, code in zip(missing, codes, strict=True) if code]


def _run(job: Job, args: argparse.Namespace) -> int:
    words = [str(args.folder), job.task, job.row, str(job.seed), "--share", str(args.share)]
    code = subprocess.run([sys.executable, str(WORKER), *words]).returncode
    ending = f": failed, {code}" if code else ""
    print(f"{job.task}  {job.row}  seed {job.seed}{ending}", flush=True)
    return code


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: it must be a number above 0, at most 1")
    return share


if __name__ == "__main__":
    main()
