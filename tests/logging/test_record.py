"""RunRecorder, atomic writes and the run folder: the files of a run."""

import csv
import importlib.util
import json
import os
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fastdqn.config.schema import Config, ConfigError
from fastdqn.files.atomic_write import to_json, write_whole
from fastdqn.files.run_folder import create_folder, default_run_dir
from fastdqn.learning.learner import Report
from fastdqn.logging.console import Silent
from fastdqn.logging.metric_rows import steps_per_second
from fastdqn.logging.metric_sinks import MetricsSink, TensorBoardEvents
from fastdqn.logging.recorder import RunRecorder, _return
from fastdqn.training.evaluation import Evaluation
from fastdqn.training.loop import Progress
from helpers.sources import PACKAGE


def refuse(*args, **kwargs):
    raise OSError(28, "No space left on device")


def test_a_file_is_replaced_atomically(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, "old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_only(tmp_path, monkeypatch, step):
    path = tmp_path / "a.json"
    write_whole(path, "old")
    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new, and longer than the old one")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_the_content_is_synced_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace

    def note_fsync(fd):
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
        fsync(fd)

    def note_replace(source, target, **folders):
        calls.append("rename")
        replace(source, target, **folders)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_whole(tmp_path / "a.json", "new")
    assert calls == ["file", "rename", "folder"]


def test_json_has_null_for_a_number_that_is_not_finite():
    value = {"a": [1.0, float("nan")], "b": {"c": float("inf")}, "d": (-float("inf"), None)}
    assert json.loads(to_json(value)) == {"a": [1.0, None], "b": {"c": None}, "d": [None, None]}


class Shown(Silent):
    """Display that stores every status."""

    def __init__(self):
        self.statuses = []

    def show(self, status, final=False):
        self.statuses.append(status)


class Sink(MetricsSink):
    name = "sink"

    def __init__(self):
        self.rows, self.closed = [], False

    def write(self, step, row):
        self.rows.append((step, row))

    def go_back(self, step):
        self.rows = [row for row in self.rows if row[0] <= step]

    def close(self):
        self.closed = True


@pytest.fixture
def run(tmp_path):
    """A recorder after a simulated loop of 400 steps, 3 episodes and 100 updates in 8 s."""
    display, sink = Shown(), Sink()
    recorder = RunRecorder(
        tmp_path, display, [sink], lambda path: write_whole(path, "weights"), lambda s, e: s / 1000
    )
    report = recorder.report
    report(Progress(0, 0, 0), 1.0, Report(0.0, 0.0, 0), {})
    recorder.episodes(Progress(100, 1, 0), _ended([3], [10.0], [10]))
    report(Progress(100, 1, 0), 0.9, Report(0.0, 0.0, 0), {"act": 1.0, "env": 1.0})
    recorder.episodes(Progress(300, 3, 60), _ended([0, 2], [20.0, 60.0], [20, 60]))
    totals = {"act": 2.0, "env": 2.0, "learn": 4.0}
    report(Progress(400, 3, 100), 0.5, Report(0.25, 7.5, 100), totals)
    for kind, mean in (("eval", 50.0), ("confirm", 40.0), ("final", 30.0)):
        recorder.evaluation(400, kind, Evaluation(np.full(2, mean), np.array([5, 7]), 1))
    recorder.close()
    recorder.close()  # twice is harmless
    return SimpleNamespace(folder=tmp_path, recorder=recorder, display=display, sink=sink)


def _ended(lanes, returns, lengths):
    return SimpleNamespace(
        ended_lanes=np.array(lanes), returns=np.array(returns), lengths=np.array(lengths)
    )


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


SHARES = {"time/share/act", "time/share/env", "time/share/learn"}


def test_a_row_of_metrics_has_the_keys_of_common_dashboards(run):
    row = rows(run.folder / "metrics.jsonl")[2]
    assert row.keys() >= SHARES | {
        "rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/exploration_rate", "time/fps",
        "time/total_timesteps", "train/loss", "train/n_updates", "charts/episodic_return",
        "charts/SPS", "losses/td_loss", "losses/q_values", "time/env_steps_per_second",
        "time/learner_updates_per_second",
    }  # fmt: skip


def test_rates_and_shares_cover_the_time_since_the_last_row(run):
    row = rows(run.folder / "metrics.jsonl")[2]
    assert row["time/fps"] == 300 / 6
    assert row["time/env_steps_per_second"] == 300 / 1
    assert row["time/learner_updates_per_second"] == 100 / 4
    assert row["charts/SPS"] == 400 / 8
    assert [row[f"time/share/{name}"] for name in ("act", "env", "learn")] == [1 / 6, 1 / 6, 4 / 6]


def test_means_are_over_recent_episodes_and_the_loss_is_that_of_the_report(run):
    first, _, last = rows(run.folder / "metrics.jsonl")[:3]
    assert last["step"] == last["time/total_timesteps"] == 400
    assert last["rollout/ep_rew_mean"] == last["charts/episodic_return"] == 30.0
    assert last["rollout/ep_len_mean"] == 30.0
    assert last["train/loss"] == last["losses/td_loss"] == 0.25
    assert (last["losses/q_values"], last["train/n_updates"]) == (7.5, 100)
    assert not {"train/loss", "losses/q_values", "rollout/ep_rew_mean"} & first.keys()


def test_every_sink_gets_the_same_rows_and_is_closed(run):
    written = [{"step": step, **row} for step, row in run.sink.rows]
    assert written == rows(run.folder / "metrics.jsonl")
    assert run.sink.closed


def test_episodes_csv_has_a_line_for_each_episode(run):
    with open(run.folder / "episodes.csv") as file:
        assert list(csv.reader(file)) == [
            ["episode", "steps", "lane", "return", "length"],
            ["1", "100", "3", "10", "10"],
            ["2", "300", "0", "20", "20"],
            ["3", "300", "2", "60", "60"],
        ]


def test_every_evaluation_is_in_eval_jsonl_and_only_regular_ones_are_metrics(run):
    evaluations = rows(run.folder / "eval.jsonl")
    assert [row["kind"] for row in evaluations] == ["eval", "confirm", "final"]
    assert evaluations[1] == {
        "step": 400, "kind": "confirm", "episodes": 2, "mean_return": 40.0, "std_return": 0.0,
        "min_return": 40.0, "max_return": 40.0, "mean_length": 6.0, "cut_episodes": 1,
    }  # fmt: skip
    metrics = rows(run.folder / "metrics.jsonl")
    assert [r["eval/mean_reward"] for r in metrics if "eval/mean_reward" in r] == [50.0]


def test_the_display_is_shown_the_time_left_and_the_shares(run):
    nothing_yet, _, status, last = run.display.statuses
    assert (last["eval_return"], last["seconds_left"]) == (run.recorder._eval_return, 0.0)
    assert nothing_yet["seconds_left"] is None
    assert status["fraction"] == 0.4
    assert status["seconds_left"] is None  # the row has random steps, too
    assert status["shares"] == {"act": 1 / 6, "env": 1 / 6, "learn": 4 / 6}


def test_the_time_left_counts_evaluations_by_their_mean_over_the_run(tmp_path):
    display = Shown()
    recorder = RunRecorder(tmp_path, display, [], lambda path: None, lambda s, e: s / 1000)
    for steps, learn, evaluate in ((100, 1.0, 0.0), (200, 3.0, 4.0)):
        totals = {"learn": learn, "evaluate": evaluate}
        recorder.report(Progress(steps, 1, steps), 0.5, Report(0.25, 7.5, 100), totals)
    recorder.close()
    assert display.statuses[0]["seconds_left"] is None
    # 2 s for a tenth of the budget, and 4 s of evaluations in the first two tenths.
    assert display.statuses[1]["seconds_left"] == pytest.approx(0.8 * (2 / 0.1 + 4 / 0.2))


def test_weights_and_summary_have_their_names(run):
    run.recorder.save_best()
    run.recorder.save_last()
    run.recorder.summary({"total_steps": 400, "mean": float("nan")})
    assert (run.folder / "best.safetensors").read_text() == "weights"
    assert (run.folder / "policy.safetensors").read_text() == "weights"
    assert json.loads((run.folder / "summary.json").read_text()) == {
        "total_steps": 400, "mean": None,
    }  # fmt: skip


def test_steps_per_second_leaves_out_evaluation_and_saving():
    phases = {"env": 1.0, "learn": 2.5, "report": 0.5, "evaluate": 90.0, "save": 9.0}
    assert steps_per_second(400, phases) == 100.0
    assert steps_per_second(0, {}) == 0.0


def test_a_row_is_written_before_the_run_ends(tmp_path):
    recorder = RunRecorder(tmp_path, Silent(), [], lambda path: None, lambda s, e: 0.0)
    recorder.episodes(Progress(9, 1, 0), _ended([0], [1.0], [9]))
    recorder.report(Progress(9, 1, 0), 1.0, Report(0.0, 0.0, 0), {"env": 1.0})
    assert len(rows(tmp_path / "metrics.jsonl")) == 1
    assert len((tmp_path / "episodes.csv").read_text().splitlines()) == 2
    recorder.close()


@pytest.mark.skipif(not importlib.util.find_spec("tensorboard"), reason="an extra")
def test_tensorboard_reads_the_events(tmp_path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    sink = TensorBoardEvents(tmp_path)
    sink.write(7, {"rollout/ep_rew_mean": 2.5, "time/fps": float("nan")})
    sink.close()
    (path,) = tmp_path.glob("events.out.tfevents.*")
    values = {
        value.tag: (event.step, value.tensor.float_val[0])
        for event in loader.EventFileLoader(str(path)).Load()
        for value in event.summary.value
    }
    assert values["rollout/ep_rew_mean"] == (7, 2.5)
    assert values.keys() == {"rollout/ep_rew_mean", "time/fps"}


def test_a_run_folder_starts_with_config_command_and_system(tmp_path):
    config = Config(run_dir=str(tmp_path / "new/run"), seed=7)
    folder = create_folder(config, "cpu", ExitStack())
    assert Config.from_json((folder / "config.json").read_text()) == config
    assert (folder / "command.txt").read_text().endswith("\n")
    system = json.loads((folder / "system.json").read_text())
    assert system["device"] == "cpu"
    assert system["packages"]["torch"] == metadata.version("torch")
    with pytest.raises(ConfigError, match="not empty"):
        create_folder(config, "cpu", ExitStack())


@pytest.mark.parametrize(
    ("folder", "direct", "source"),
    [
        (None, None, None),  # of a package index
        (None, '{"url": "file:///src", "dir_info": {}}', "file:///src"),
        ("site-packages/fastdqn", None, str(PACKAGE.parent)),  # the module path comes first
    ],
)
def test_system_json_has_the_source_unless_it_is_a_package_index(
    tmp_path, monkeypatch, folder, direct, source
):
    found = SimpleNamespace(
        version="0.1.0", read_text=lambda name: direct, locate_file=lambda name: folder or PACKAGE
    )
    monkeypatch.setattr(metadata, "distribution", lambda name: found)
    run = create_folder(Config(run_dir=str(tmp_path / "run")), "cpu", ExitStack())
    assert json.loads((run / "system.json").read_text())["fastdqn_source"] == source


def test_a_run_folder_that_cannot_be_created_is_a_config_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigError, match=r"run_dir .*run: No space left on device"):
        create_folder(Config(run_dir=str(tmp_path / "run")), "cpu", ExitStack())
    with pytest.raises(ConfigError, match="null byte"):
        create_folder(Config(run_dir="a\0b"), "cpu", ExitStack())


def test_the_default_folder_name_describes_the_run():
    config = Config(env_id="my_module:ALE/Pong-v5", preset="a/../b", seed=3)
    runs, name = Path(default_run_dir(config)).parts
    assert runs == "runs"
    assert name.startswith("my_module-ALE-Pong-v5__a-..-b__3__2")


@pytest.mark.parametrize(
    ("total", "text"),
    [
        (0.30000001192092896, "0.3"), (100.00000149011612, "100"), (-1.5, "-1.5"),
        (12345.678, "12345.678"), (1234567.5, "1234567.5"), (500.0, "500"),
        (123456789.0, "123456789"),
    ],
)  # fmt: skip
def test_returns_have_the_digits_of_float32(total, text):
    assert _return(total) == text
