"""Benchmark of XLA programs. Without JAX installed, only its options are tested."""

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """Imports the script, with JAX and optax reported as installed."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    bench = importlib.import_module("bench_xla")
    monkeypatch.setattr(bench, "missing", list)
    monkeypatch.setattr(bench, "use_one_core", lambda: None)
    monkeypatch.setattr(bench.metadata, "version", lambda name: "0")
    return bench


def run(bench, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["bench_xla.py", *words])
    bench.main()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--lines", "hubr"], "unknown line 'hubr': did you mean huber?"),
        (["--check", "--out", "xla.json"], "--check measures nothing: leave out --out"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(bench, monkeypatch, tmp_path, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run(bench, monkeypatch, *words)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_missing_jax_is_an_error_before_the_measurement(bench, monkeypatch, capsys):
    monkeypatch.setattr(bench, "missing", lambda: ["jax", "optax"])
    with pytest.raises(SystemExit) as stopped:
        run(bench, monkeypatch)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: jax and optax not installed: pip install jax optax\n"


def test_results_have_both_sides_and_the_ratio_within_turns(bench, monkeypatch, tmp_path, capsys):
    row = bench.Row("huber", "fused", [100.0, 200.0, 110.0], [150.0, 320.0, 154.0])
    monkeypatch.setattr(bench, "measure", lambda line, effort: row)
    out = tmp_path / "xla.json"
    run(bench, monkeypatch, "--lines", "huber", "--out", str(out))
    record = json.loads(out.read_text())
    assert record["versions"] == {"jax": "0", "jaxlib": "0", "optax": "0"}
    assert record.keys() >= {"machine", "command", "repeats", "seconds"}
    (kept,) = record["rows"]
    assert kept["ratio"] == 1.5
    assert kept["fastdqn_microseconds"]["median"] == 110.0
    assert kept["xla_microseconds"]["max"] == 320.0
    assert "ratio 1.50" in capsys.readouterr().out


@pytest.mark.parametrize("side", ["batch", "weights"])
def test_a_difference_is_detected(bench, monkeypatch, side):
    """Wrong inputs of one side must fail the comparison."""
    pytest.importorskip("jax")
    pytest.importorskip("optax")
    update_class = importlib.import_module("peers.xla_update").XlaUpdate

    def wrong_step(update, state, target, batch, draws):
        if side == "batch":
            batch = batch._replace(reward=batch.reward + 0.01)
        else:
            target = state.params
        return right_step(update, state, target, batch, draws)

    right_step = update_class.step
    monkeypatch.setattr(update_class, "step", wrong_step)
    with pytest.raises(ValueError, match="D3QN differs by"):
        bench.compare("D3QN")


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    ["DQN", "D3QN", "huber", "munchausen", "noisy", "c51", "c51-noisy", "qr-dqn-32", "iqn-8-8-32",
     "iqn-8-8-8", "minatar"],
)  # fmt: skip
def test_both_sides_compute_the_same_update(bench, line):
    pytest.importorskip("jax")
    pytest.importorskip("optax")
    if line == "minatar":
        pytest.importorskip("minatar")
    assert bench.compare(line) < 1e-4
    assert line in bench.LINES
