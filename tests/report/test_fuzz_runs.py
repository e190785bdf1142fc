"""Untrusted runs and studies: shown, or rejected with file and field. No code is executed."""

import importlib
import json
import random
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from fastdqn.cli import plot_and_report
from fastdqn.config.schema import Config, ConfigError
from fastdqn.report.curves import AXES, QUANTITIES, line, phases
from fastdqn.report.run_data import read_runs
from fastdqn.report.seed_groups import group
from helpers.fuzz import edited, many_cases, memory_is_bounded, refusal, spoiled
from helpers.report_pages import PHASES, write_run
from helpers.study import BENCHMARKS, result

__all__ = ["memory_is_bounded"]

pytest.importorskip("jinja2")
pytest.importorskip("scipy")

pytestmark = pytest.mark.slow  # fuzz
FILES = ("config.json", "summary.json", "system.json", "metrics.jsonl", "eval.jsonl", "command.txt",
         "bench.jsonl")  # fmt: skip
DEFAULTS = json.loads(Config().to_json())


def fuzzed(text: str, seed: int) -> bytes:
    """Returns a random change of a JSON object, of JSON Lines, or of text."""
    chance = random.Random(seed)
    if seed % 3 == 0 or not text.startswith("{"):
        return edited(text.encode(), chance)
    if text.count("\n{") == 0:
        return spoiled(text, chance)
    lines = text.encode().splitlines()
    at = chance.randrange(len(lines))
    lines[at] = spoiled(lines[at].decode(), chance)
    return b"\n".join(lines) + b"\n"


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    from fastdqn.report import html_page

    folder = write_run(tmp_path_factory.mktemp("stranger") / "run", rows=6)
    clock = {"clock": "plain", "steps": 100, "phase_seconds": PHASES}
    (folder / "bench.jsonl").write_text(json.dumps({"machine": "m"}) + f"\n{json.dumps(clock)}\n")
    html_page.render(
        group(read_runs([str(folder)])), DEFAULTS, []
    )  # imports, before memory is counted
    return folder


@many_cases
def test_runs_are_shown_or_rejected(stranger, seed):
    from fastdqn.report import html_page

    path = stranger / FILES[seed % len(FILES)]
    whole = path.read_text()
    path.write_bytes(fuzzed(whole, seed // len(FILES)))
    read, clocks = [], []

    def read_all():
        read.extend(read_runs([str(stranger)]))
        try:
            clocks.extend(plot_and_report._clocks(stranger / "bench.jsonl"))
        except ValueError as error:
            raise ConfigError([str(error)]) from None

    try:
        said = refusal(read_all)
    finally:
        path.write_text(whole)
    if said is not None:
        ours = (f"{path}", f"bench is '{path}'", f"{stranger} has no metrics")
        assert said.startswith(ours)
        return
    groups = group(read)
    over: Any = list(AXES)[seed % 3]
    for quantity in QUANTITIES.values():
        line(read[0], quantity, over)
    phases(read, over)
    html_page._run(read[0], DEFAULTS)
    for clock in clocks:
        html_page._shares(clock["phase_seconds"])
    if seed % 20 == 0:  # most of it is drawing
        html_page.render(groups, DEFAULTS, clocks)


def test_different_names_in_each_row_take_no_quadratic_memory(stranger):
    rows = "".join(f'{{"step": {i}, "x{i}": 1}}\n' for i in range(20_000))
    whole = (stranger / "metrics.jsonl").read_text()
    (stranger / "metrics.jsonl").write_text(rows)
    try:
        said = refusal(read_runs, [str(stranger)])
    finally:
        (stranger / "metrics.jsonl").write_text(whole)
    assert said is not None
    assert re.search(r"metrics\.jsonl: [\d,]+ names in [\d,]+ rows, but most values are miss", said)


class Failed(Exception):
    """Raised in place of an exit of the study."""


def fail(line: str):
    raise Failed(line)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Returns the folder of an intact study, and the module that reads it."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        module, rows = importlib.import_module("study"), importlib.import_module("study_rows")
    finally:
        sys.path.remove(str(BENCHMARKS))
    folder = tmp_path_factory.mktemp("study")
    jobs = [job for job in rows.jobs(1) if job.row in ("DQN", rows.CLASSIC)]
    for job in jobs:
        (folder / job.file).write_text(json.dumps(result(job)))
    (folder / module.HEADER).write_text(json.dumps(rows.settings(1.0)))
    with mock.patch.object(module, "fail", fail):
        yield folder, module, jobs


@many_cases
def test_a_study_is_counted_or_rejected(study, seed):
    folder, module, jobs = study
    path: Path = folder / [module.HEADER, *(job.file for job in jobs)][seed % (1 + len(jobs))]
    whole = path.read_text()
    path.write_bytes(fuzzed(whole, seed // (1 + len(jobs))))

    def read():
        try:
            if path.name == module.HEADER:
                module.take_folder(folder, 1.0, only_look=True)
            known = module.read(folder, jobs)
            module.plan(jobs, known, 1, 1.0)
            if seed % 5 == 0:  # intervals take their time
                module.table(module.summary(list(known.values())))
        except Failed as error:
            raise ConfigError([str(error)]) from None

    try:
        said = refusal(read)
    finally:
        path.write_text(whole)
    assert said is None or str(path.name) in said or str(folder) in said
