"""Benchmarks that train: one-line errors, curves and samples."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Imports a benchmark by its name."""
    pytest.importorskip("scipy")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--setting", "torch"], "use NAME: OPTIONS"),
        (["--setting", "a: --double", "--setting", "a:"], "have the same name"),
        (["--setting", "a:", "--steps", "5", "--points", "10"], "must be at most --steps 5"),
        (["--setting", "a:", "--out", "/none/curves.json"], "give a file in an existing folder"),
    ],
)
def test_an_invalid_option_is_a_one_line_error(script, monkeypatch, capsys, words, line):
    monkeypatch.setattr(sys, "argv", ["curves.py", "cartpole", *words])
    with pytest.raises(SystemExit) as ended:
        script("curves").main()
    assert ended.value.code == 2
    assert line in capsys.readouterr().err.splitlines()[-1]


def test_a_failed_run_is_reported_by_its_last_line(script, monkeypatch):
    curves = script("curves")
    failed = SimpleNamespace(returncode=2, stderr="greeting\nerror: unknown option --fast\n")
    monkeypatch.setattr(curves.subprocess, "run", lambda *words, **options: failed)
    with pytest.raises(ValueError, match=r"^seed 1, exit code 2: unknown option --fast$"):
        curves._curve("cartpole", 1, [], 10)


@pytest.mark.parametrize("missing", ["VmRSS", None])
def test_a_run_that_ends_between_two_samples_is_not_sampled(script, monkeypatch, tmp_path, missing):
    soak = script("soak")
    texts = {
        "stat": "1 (python) " + " ".join("0" * 20),
        "status": "Threads:\t1\n" + ("" if missing else "VmRSS:\t1024 kB\n"),
        "metrics.jsonl": json.dumps({"step": 5}) + '\n{"st',
    }
    monkeypatch.setattr(soak.Path, "read_text", lambda path: texts[path.name])
    monkeypatch.setattr(soak.os, "listdir", lambda path: ["0"])
    looks = soak.look(1, tmp_path, 1.0)
    assert looks == [] if missing else looks[0]["steps"] == 5


def test_the_curve_of_a_run_is_the_mean_of_episodes_in_each_interval(script, monkeypatch, tmp_path):
    run, out = tmp_path / "run", tmp_path / "curve.json"
    run.mkdir()
    summary = {"total_steps": 250, "wall_seconds": 9.0, "exit_reason": "budget spent"}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "system.json").write_text('{"processor": "a", "cores": 2, "python": "3"}')
    (run / "eval.jsonl").write_text('{"step": 200, "kind": "eval", "mean_return": 5.0}\n')
    (run / "command.txt").write_text("/home/me/fastdqn train x --run-dir /home/me/run --seed 1\n")
    rows = [
        "episode,steps,lane,return,length",
        "1,99,0,1.0,9",
        "2,100,1,2.0,9",
        "3,199,0,4.0,9",
        "4,249,0,9.0,9",
    ]
    (run / "episodes.csv").write_text("\n".join(rows) + "\n")
    words = ["run_curves.py", str(run), "--every", "100", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    script("run_curves").main()
    (found,) = json.loads(out.read_text())
    assert found["command"] == "fastdqn train x --seed 1"
    assert found["machine"] == {"processor": "a", "cores": 2}
    assert found["training"] == [
        {"steps": 100, "episodes": 1, "mean_return": 1.0},
        {"steps": 200, "episodes": 2, "mean_return": 3.0},
    ]
    assert found["evaluations"] == [{"step": 200, "kind": "eval", "mean_return": 5.0}]


def test_a_folder_without_a_run_is_a_one_line_error(script, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["run_curves.py", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        script("run_curves").main()
    assert ended.value.code == 2
    assert f"error: {tmp_path} is not the folder of a finished run" in capsys.readouterr().err
