"""Pytest plugin of the GPU suite: appends a row for each test, and skips those that have one.

GPU_SUITE_OUT=FOLDER GPU_SUITE_SECONDS=60 python -m pytest -p gpu_tests ...
"""

import os
from pathlib import Path
from typing import Any

import pytest

from fastdqn.study.run_process import end_with
from gpu_rows import Rows, last_lines, time_limit

PART = "tests"


def pytest_configure(config: pytest.Config) -> None:
    end_with(os.getppid())
    rows = Rows(Path(os.environ["GPU_SUITE_OUT"]))
    config.pluginmanager.register(Recorder(rows, float(os.environ["GPU_SUITE_SECONDS"])))


class Recorder:
    """Limits each test to some seconds, and appends its row."""

    def __init__(self, rows: Rows, seconds: float):
        self._rows, self._seconds = rows, seconds

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if not self._rows.has(PART, item.name)]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        with time_limit(self._seconds):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Any:
        report = yield
        # A test that passes its setup has the row of its call, and one more if its end fails.
        if report.when == "call" or not report.passed:
            error = {"error": last_lines(report.longreprtext)} if report.failed else {}
            figures = {"outcome": report.outcome, "when": report.when}
            self._rows.append(PART, item.name, report.duration, figures=figures, **error)
        return report
