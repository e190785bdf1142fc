"""Marks of phases and kernels: in traces of torch, as NVTX ranges, and absent without a tool."""

import contextlib
import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fastdqn
from fastdqn.builders import build
from fastdqn.cli.main import main
from fastdqn.config.presets import PRESETS
from fastdqn.logging.console import Silent
from fastdqn.training import loop
from fastdqn.training.marks import PHASES, PhaseRanges, mark_kernels
from helpers.setups import setup_of

SMALL: dict[str, Any] = {
    "num_envs": 4, "batch_size": 8, "hidden_sizes": (8,), "total_timesteps": 400,
    "learning_starts": 50, "buffer_size": 1_000, "train_frequency": 2, "eval_frequency": 0,
    "target_network_frequency": 40, "log_frequency": 100, "stop_at_return": None,
}  # fmt: skip
# Phases of every run, and of one with prioritized replay.
USUAL = {"act", "env", "sample", "upload", "learn", "store"}


def small(folder, **changes):
    return PRESETS["cartpole"].replace(run_dir=str(folder), **SMALL | changes)


class Marks:
    """Records the ranges that are entered and left, and that each is left in turn."""

    def __init__(self):
        self.open: list[str] = []
        self.seen: list[tuple[str, ...]] = []

    def push(self, name: str) -> int:
        self.open.append(name)
        self.seen.append(tuple(self.open))
        return len(self.open)

    def pop(self) -> int:
        self.open.pop()
        return len(self.open)

    @contextlib.contextmanager
    def __call__(self, name: str):
        self.push(name)
        yield
        assert self.open[-1] == name
        self.pop()


# -- ranges of phases


def test_a_turn_begins_with_its_first_phase_and_contains_the_others():
    marks = Marks()
    ranges = PhaseRanges(marks, lambda number: marks(f"turn {number}"))
    for name in ("store", "act", "env", "report", "act", "env"):
        ranges.enter(name)
    assert marks.open == ["turn 1", "env"]
    ranges.leave()
    assert marks.open == []
    ranges.enter("save")  # after the last turn
    assert marks.seen == [
        ("turn 0",), ("turn 0", "act"), ("turn 0", "env"), ("turn 0", "report"),
        ("turn 1",), ("turn 1", "act"), ("turn 1", "env"),
    ]  # fmt: skip


# -- NVTX


@pytest.fixture
def nvtx(monkeypatch) -> Marks:
    """Replaces the NVTX library that torch binds, which torch for CPUs lacks."""
    marks = Marks()
    library = SimpleNamespace(rangePushA=marks.push, rangePop=marks.pop)
    monkeypatch.setattr(torch.cuda.nvtx, "_nvtx", library)
    return marks


@pytest.mark.parametrize(
    ("changes", "kernels"),
    [
        ({}, {"fused update", "fused policy", "explore", "target copy"}),
        (
            {"learner": "torch", "prioritized": True},
            {"forward", "backward", "optimizer", "greedy actions", "explore", "target copy"},
        ),
    ],
)
def test_a_run_under_a_tool_has_nvtx_ranges_and_learns_the_same(
    changes, kernels, nvtx, tmp_path, monkeypatch
):
    turns = []

    def weights(name):
        turns.clear()
        config = small(tmp_path / name, **changes)
        run = fastdqn.train(config, on_step=lambda progress, step: turns.append(step))
        assert run.summary["updates"] > 100
        return (run.folder / "policy.safetensors").read_bytes()

    plain = weights("plain")
    assert nvtx.seen == []
    monkeypatch.setenv("NVTX_INJECTION64_PATH", "libtool.so")
    assert weights("marked") == plain
    assert nvtx.open == []
    counts = Counter(path[-1] for path in nvtx.seen if path[0] == "turn")
    assert counts["turn"] == counts["act"] == counts["store"] == len(turns) >= 100
    assert {*USUAL, *kernels} <= counts.keys()
    assert ("prioritize" in counts) == bool(changes)
    assert counts["learn"] == counts["update"] == counts["sample"] > 100
    # A copy for 40 steps; updates at the end of the run are outside of turns.
    assert counts["target copy"] == sum(path[-1] == "target copy" for path in nvtx.seen)
    inside = {path[1] for path in nvtx.seen if path[-1] == "target copy"}
    assert inside == {"learn"}


def test_a_run_without_a_tool_is_not_marked(tmp_path, monkeypatch):
    for name in ("NVTX_INJECTION64_PATH", "NSYS_PROFILING_SESSION_ID", "FASTDQN_NVTX"):
        monkeypatch.delenv(name, raising=False)
    session = build.build(setup_of(small(tmp_path / "run")), lambda _: Silent())
    run = session.run
    session.close()
    assert run.laps.ranges is None
    assert "_update" not in vars(run.learner)
    assert "_best" not in vars(run.policy)


def test_torch_without_nvtx_is_a_note(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTDQN_NVTX", "1")
    monkeypatch.setattr(torch.cuda.nvtx, "_nvtx", SimpleNamespace(rangePushA=no_nvtx))
    session = build.build(setup_of(small(tmp_path / "run")), lambda _: Silent())
    session.close()
    assert "there are no NVTX ranges: they need a CUDA build of torch" in session.notes
    assert session.run.laps.ranges is None


def no_nvtx(name: str):
    raise RuntimeError("NVTX functions not installed. Are you sure you have a CUDA build?")


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_target_copies_are_marked_only_if_due(tau, tmp_path):
    config = small(tmp_path / "run", tau=tau, target_network_frequency=20, learner="torch")
    session = build.build(setup_of(config), lambda _: Silent())
    marks = Marks()
    mark_kernels(session.run, marks)
    loop.train(session.run)
    session.close()
    copies = sum(path[-1] == "target copy" for path in marks.seen)
    assert copies == session.run.learner.updates // 10


# -- traces of torch


def ranges_of(trace: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns complete events by their start, after checks of the Chrome trace event format."""
    complete = []
    for event in trace["traceEvents"]:
        assert isinstance(event["ph"], str)
        assert len(event["ph"]) == 1
        if event["ph"] == "X":
            assert isinstance(event["name"], str)
            assert event["dur"] >= 0
            assert isinstance(event["ts"], int | float)
            assert {"pid", "tid"} <= event.keys()
            complete.append(event)
    return sorted(complete, key=lambda event: (event["ts"], -event["dur"]))


def assert_nested(events: list[dict[str, Any]]) -> None:
    """Ranges of a thread must nest, or Perfetto drops them. Times are rounded to nanoseconds."""
    open_until: dict[Any, list[float]] = {}
    for event in events:
        ends = open_until.setdefault((event["pid"], event["tid"]), [])
        while ends and ends[-1] <= event["ts"] + 0.002:
            ends.pop()
        end = event["ts"] + event["dur"]
        assert not ends or end <= ends[-1] + 0.002, event["name"]
        ends.append(end)


PROFILES = [
    ("train", "cartpole", ["fused update", "fused policy"]),
    ("train", "cartpole --learner torch", ["forward", "backward", "optimizer"]),
    ("train", "minatar-breakout --buffer-size 5000", ["fused update"]),
    ("act", "cartpole", ["fused policy", "explore"]),
    ("act", "cartpole --learner torch", ["greedy actions", "explore"]),
    ("learn", "cartpole", ["update", "fused update"]),
    ("learn", "cartpole --learner torch", ["forward", "backward", "optimizer"]),
]


@pytest.mark.slow
@pytest.mark.usefixtures("short_profiles")
@pytest.mark.parametrize(("what", "words", "names"), PROFILES)
def test_a_profile_attributes_its_time_or_gives_no_verdict(what, words, names, tmp_path):
    if "minatar" in words:
        pytest.importorskip("minatar")
    options = f"--what {what} --updates 8 --learning-starts 100 --out {tmp_path}"
    assert main(["profile", *words.split(), *options.split()]) == 0
    result = json.loads((tmp_path / "profile.json").read_text())
    assert result["seconds_per_call"] > 0
    assert (result["flops_per_call"] is None) == (what == "train")
    events = ranges_of(json.loads((tmp_path / "trace.json").read_text()))
    host = [event for event in events if event["cat"] in ("cpu_op", "user_annotation")]
    assert_nested(host)
    steps = [event for event in host if event["name"].startswith("ProfilerStep#")]
    assert [event["name"] for event in steps] == [f"ProfilerStep#{i}" for i in range(8)]
    in_steps = Counter(
        event["name"]
        for event in host
        if any(step["ts"] <= event["ts"] < step["ts"] + step["dur"] for step in steps)
    )
    assert set(names) <= in_steps.keys()
    if what == "train":
        assert in_steps["act"] == in_steps["store"] == 8
        assert USUAL - {"upload"} <= in_steps.keys()
        assert result["phase_shares"].keys() <= set(PHASES)
        largest = max(result["phase_shares"], key=result["phase_shares"].get)
        assert result["verdict"] is None or largest in result["verdict"]
    assert (result["verdict"] is not None) == (result["attributed_share"] >= 0.9)
    assert result["attributed_share"] > 0.5


@pytest.mark.slow
@pytest.mark.usefixtures("short_profiles")
def test_shapes_of_operators_are_optional(tmp_path):
    words = f"profile cartpole --learner torch --updates 2 --batch-size 7 --out {tmp_path}"
    for flags, expected in ([], False), (["--shapes"], True):
        assert main([*words.split(), *flags]) == 0
        rows = json.loads((tmp_path / "profile.json").read_text())["operators"]
        shapes = [shape for row in rows for shape in row.get("shapes", [])]
        assert ([7, 4] in shapes) == expected
        assert all(
            row["self_microseconds_per_call"] <= row["total_microseconds_per_call"] for row in rows
        )
