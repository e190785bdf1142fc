"""For tests of resume: comparing two runs, and stopping one."""

import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastdqn import session

TIMED = ("time/", "charts/SPS")


def rows(folder: Path) -> list[dict]:
    """Returns metrics rows without times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if not key.startswith(TIMED)}
        for line in lines
    ]


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("policy.safetensors", "best.safetensors", "episodes.csv", "eval.jsonl"):
        assert (one / name).exists() == (other / name).exists()
        if (one / name).exists():
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert rows(one) == rows(other)
    ours, theirs = (json.loads((each / "summary.json").read_text()) for each in (one, other))
    for key in ("total_steps", "episodes", "updates", "eval", "exit_reason"):
        assert ours[key] == theirs[key], key


ASKED = threading.Event()


@pytest.fixture(autouse=True)
def asked_by_the_test(monkeypatch):
    """ASKED stops a run, in place of a signal, whose time of arrival varies."""

    @contextlib.contextmanager
    def listen():
        ASKED.clear()
        yield SimpleNamespace(stop=ASKED.is_set, checkpoint=lambda: False)

    monkeypatch.setattr(session, "listen", listen)


def stopping_at(steps: int) -> Callable:
    """Returns a callback that stops the run after some steps."""

    def on_step(progress, step):
        if progress.steps >= steps:
            ASKED.set()

    return on_step


@contextlib.contextmanager
def stopping_after(turns: int):
    """Within, a run is stopped after some steps of its environments, as by a signal."""
    left = iter(range(turns))

    @contextlib.contextmanager
    def listen():
        yield SimpleNamespace(stop=lambda: next(left, None) is None, checkpoint=lambda: False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "listen", listen)
        yield


def nothing(progress, step) -> None:
    """Returns a callback without effect, since a callback adds a phase."""


def episodes(folder: Path) -> list[str]:
    return (folder / "episodes.csv").read_text().splitlines()[1:]
