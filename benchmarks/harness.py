"""Shared by the benchmarks: command line options, result files and errors."""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from fastdqn.bench.machine_info import describe_machine
from fastdqn.bench.repeats import Effort
from fastdqn.bench.results import Figure, table
from fastdqn.files.atomic_write import WriteError, write_whole

console = Console(highlight=False, soft_wrap=True, width=140)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Returns a parser with --out, --seconds and --repeats, and doc as its help."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=writable, help="JSON file for the results")
    made.add_argument("--seconds", type=_seconds, default=0.5, help="seconds of a repeat")
    made.add_argument("--repeats", type=count, default=5, help="repeats of a measurement")
    return made


def effort_of(args: argparse.Namespace) -> Effort:
    return Effort(args.seconds, args.repeats, burn_in=args.seconds)


def show(title: str, figures: list[Figure]) -> list[dict[str, Any]]:
    """Prints a table, and returns the rows for the file."""
    console.print(table(title, figures))
    console.print()
    return [figure.row() for figure in figures]


def save(
    args: argparse.Namespace, rows: list[dict[str, Any]], threads: int | None, **more: Any
) -> None:
    """Writes rows to --out, with a header that describes command and machine.

    Args:
        args: Parsed options.
        rows: Measurements.
        threads: Threads of torch during the measurement, or None.
        more: Further entries of the file.
    """
    if args.out is None:
        return
    command = " ".join(["python", str(Path("benchmarks", Path(sys.argv[0]).name)), *sys.argv[1:]])
    how = {"command": command, "seconds": args.seconds, "repeats": args.repeats}
    record = {**how, "machine": describe_machine("cpu", threads), **more, "rows": rows}
    try:
        write_whole(args.out, json.dumps(record, indent=1) + "\n")
    except WriteError as error:
        fail(str(error))


def fail(line: str) -> NoReturn:
    """Prints a one-line error and exits with code 2."""
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(2)


def count(text: str) -> int:
    """Option type: a whole number, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: it must be a whole number, at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: it must be a number above 0, at most 3600")
    return seconds


def writable(text: str) -> Path:
    """Option type: a file that can be written, checked before the measurement."""
    path = Path(text)
    usual = path.is_file() and not path.is_symlink()  # a rename must not replace a device
    if not usual and (path.exists() or path.is_symlink() or not path.absolute().parent.is_dir()):
        raise argparse.ArgumentTypeError(f"{text!r}: give a file in an existing folder")
    return path


def main_of(run: Callable[[], None]) -> None:
    """Calls run(), and reports a ValueError as a one-line error."""
    try:
        run()
    except ValueError as error:
        fail(" ".join(str(error).split()))
