"""GPU benchmarks within a given time. They need no network access.

    python benchmarks/gpu_suite.py --minutes 12 --out FOLDER
    python benchmarks/gpu_suite.py --minutes 3 --part update --out FOLDER
    python benchmarks/gpu_suite.py --minutes 12 --dry-run --out /tmp/gpu     # the CPU, tiny sizes

Each measurement, a cell, is a row of FOLDER/results.jsonl, written at once. The same command
continues after a cut: it skips the cells that have a row. The parts are ordered by value per
minute, and each has a share of the time that earlier ones left:

tests: the tests that need a GPU. resume: a run is killed and resumed. update: updates/s of
networks, batch sizes and captures. kernels: the kernels of a captured update, and the gaps between
them. micro: single operations. atari: training steps/s on Pong. pong: trains Pong.

The parts run in a process of their own. If it crashes or hangs, the cell has a row that says so,
and a new process continues. The parts atari and pong need ale-py.
"""

import argparse
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

from gpu_rows import (
    Bench,
    Cell,
    OutOfTimeError,
    Rows,
    SkippedError,
    last_lines,
    time_limit,
    traceback_of,
)

# Minutes of each part, of 12. Ours, untuned.
SHARES = {
    "tests": 2.0, "resume": 0.75, "update": 3.75, "kernels": 0.75, "micro": 0.75, "atari": 1.5,
    "pong": 2.5,
}  # fmt: skip
# No cell is started with fewer seconds left.
_LEAST_SECONDS = 1.0
# A cell may take half of the seconds that its part has left, or this many.
_SHORT_SECONDS = 20.0
# Seconds after its limit at which a cell that does not react ends with its process.
_GRACE_SECONDS = 10.0
# Exit codes of the process of the parts: wrong use, and a device that fails in every call.
_WRONG_USE, _DEVICE_LOST = 2, 75


def main() -> None:
    args = _parser().parse_args()
    if args.worker:
        _work(args)
    else:
        _supervise(args)


def _parser() -> argparse.ArgumentParser:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--minutes", type=_minutes, default=12.0, help="minutes of all parts")
    asked.add_argument("--part", choices=list(SHARES), help="one part; default: all")
    asked.add_argument("--out", type=Path, required=True, help="folder for the results")
    asked.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU")
    # Of the process of the parts: its folder, and the time of the clock at which it must end.
    asked.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    return asked


def _minutes(text: str) -> float:
    if not text.replace(".", "", 1).isdecimal() or not 0 < float(text) <= 600:
        raise argparse.ArgumentTypeError(f"{text!r}: it must be a number above 0, at most 600")
    return float(text)


def _fail(line: str) -> NoReturn:
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(_WRONG_USE)


def _supervise(args: argparse.Namespace) -> None:
    """Runs the parts in a process, and starts another one if that crashes or hangs."""
    until = time.monotonic() + 60.0 * args.minutes
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        rows = Rows(args.out)
    except OSError as error:
        _fail(f"--out {args.out}: {error.strerror}")
    machines = [row for row in rows.had if row["part"] == "machine"]
    if any(row["dry_run"] != args.dry_run for row in machines):
        of = "the CPU" if args.dry_run else "a GPU"
        _fail(f"--out {args.out} has rows of another device than {of}: give another folder")
    code = 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="gpu-suite-") as temporary:
        while time.monotonic() < until - _LEAST_SECONDS:
            code, errors = _watch(args, temporary, until)
            if code in (0, _WRONG_USE):
                break
            if not _blame(rows, Path(temporary), code, errors):
                break
    if code:
        raise SystemExit(code if code == _WRONG_USE else 1)


def _watch(args: argparse.Namespace, temporary: str, until: float) -> tuple[int, str]:
    """Starts a process of the parts and waits for it. Returns its exit code and its errors."""
    words = [sys.executable, __file__, "--out", str(args.out), "--minutes", str(args.minutes)]
    words += ["--part", args.part] if args.part else []
    words += ["--dry-run"] if args.dry_run else []
    words += ["--worker", temporary, str(until)]
    root = str(Path(__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with (
        open(Path(temporary, "errors"), "w+") as errors,
        subprocess.Popen(
            words, stderr=errors, stdin=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": paths}
        ) as process,
    ):
        try:
            while process.poll() is None:
                ends = _current(Path(temporary)).get("until", until)
                if time.monotonic() > min(ends, until) + _GRACE_SECONDS:
                    process.kill()
                time.sleep(0.05)
        finally:
            process.kill()
        errors.seek(0)
        text = errors.read()
    print(text, end="", file=sys.stderr)
    return process.returncode, text


def _blame(rows: Rows, temporary: Path, code: int, errors: str) -> bool:
    """Appends a row for the cell in which a process ended. Returns whether there was one."""
    cell = _current(temporary)
    seconds = time.monotonic() - cell.get("began", time.monotonic())
    why = f"the process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
    if not cell and code == _DEVICE_LOST:
        return True  # the cell has a row
    rows.append(
        cell.get("part", "start"), cell.get("cell"), seconds, error=last_lines(f"{errors}\n{why}")
    )
    (temporary / "current.json").unlink(missing_ok=True)
    return bool(cell)


def _current(temporary: Path) -> dict[str, Any]:
    """Returns part, name and time limit of the cell that is running; empty if none is."""
    try:
        return json.loads((temporary / "current.json").read_text())
    except (OSError, ValueError):
        return {}


def _work(args: argparse.Namespace) -> None:
    """Runs the parts in this process."""
    import faulthandler

    from fastdqn.study.run_process import end_with

    end_with(os.getppid())
    faulthandler.enable()
    import torch

    temporary, until = Path(args.worker[0]), float(args.worker[1])
    if not args.dry_run and not torch.cuda.is_available():
        _fail("this machine has no CUDA device: use --dry-run to run every part on the CPU")
    torch.set_num_threads(1)  # as the row of the machine says
    device = "cpu" if args.dry_run else "cuda"
    bench = Bench(device, args.dry_run, Rows(args.out), temporary, args.out)
    run_parts(bench, [args.part] if args.part else list(SHARES), until)


def run_parts(bench: Bench, names: list[str], until: float) -> None:
    """Runs parts until a time of the clock. Each has a share of the time that is left."""
    import gpu_cells
    import gpu_runs

    _describe(bench)
    cells_of = gpu_cells.PARTS | gpu_runs.PARTS
    for i, name in enumerate(names):
        bench.part = name
        share = SHARES[name] / sum(SHARES[each] for each in names[i:])
        try:
            cells = cells_of[name](bench)
        except Exception as error:
            bench.rows.append(name, None, 0.0, error=traceback_of(error))
            continue
        run_part(bench, cells, time.monotonic() + share * (until - time.monotonic()))


def _describe(bench: Bench) -> None:
    """Appends the row of the machine, unless the last one says the same."""
    from gpu_cells import machine_figures

    began = time.monotonic()
    figures = machine_figures(bench.device)
    known = [row["figures"] for row in bench.rows.had if row["part"] == "machine"]
    if not known or known[-1] != json.loads(json.dumps(figures)):
        seconds = time.monotonic() - began
        bench.rows.append("machine", None, seconds, figures=figures, dry_run=bench.dry)


def run_part(bench: Bench, cells: list[Cell], until: float) -> None:
    """Runs the cells that have no row, until a time of the clock."""
    left = [cell for cell in cells if not bench.rows.has(bench.part, cell.name)]
    for i, cell in enumerate(left):
        seconds = until - time.monotonic()
        if seconds < _LEAST_SECONDS:
            names = [each.name for each in left[i:]]
            print(f"{bench.part}: no time for {len(names)} of {len(cells)} cells", flush=True)
            bench.rows.append(bench.part, None, 0.0, no_time_for=names)
            return
        if i < len(left) - 1:  # a cell that hangs leaves time for others
            seconds = max(seconds / 2, min(seconds, _SHORT_SECONDS))
        run_cell(bench, cell, seconds)


def run_cell(bench: Bench, cell: Cell, seconds: float) -> None:
    """Runs a cell and appends its row, whatever happens."""
    began = time.monotonic()
    bench.until = began + seconds
    _set_current(bench, cell.name, began)
    row: dict[str, Any] = {"settings": cell.settings} if cell.settings else {}
    try:
        with time_limit(seconds):
            row["figures"] = cell.run(bench)
    except OutOfTimeError as error:
        row |= {"error": traceback_of(error), "out_of_time": True}
    except SkippedError as error:
        row["skipped"] = str(error)
    except (Exception, SystemExit) as error:
        row["error"] = traceback_of(error)
    took = time.monotonic() - began
    bench.rows.append(bench.part, cell.name, took, **row)
    (bench.temporary / "current.json").unlink(missing_ok=True)
    last = row["error"].splitlines()[-1] if "error" in row else row.get("skipped", "")
    print(f"{bench.part}: {cell.name}: {took:.1f} s {last[:200]}".rstrip(), flush=True)
    _free_memory(bench)


def _set_current(bench: Bench, cell: str, began: float) -> None:
    file = bench.temporary / "current.json"
    entry = {"part": bench.part, "cell": cell, "began": began, "until": bench.until}
    file.with_suffix(".new").write_text(json.dumps(entry))
    file.with_suffix(".new").replace(file)


def _free_memory(bench: Bench) -> None:
    """Frees the memory of a cell. A device that no longer reacts ends the process."""
    gc.collect()
    if bench.on_gpu:
        import torch

        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except Exception as error:  # an illegal access makes every later call fail
            print(traceback_of(error), file=sys.stderr)
            raise SystemExit(_DEVICE_LOST) from None


if __name__ == "__main__":
    main()
