"""Benchmark of peers, without any of them installed."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """Imports the script, with fastdqn and Stable-Baselines3 reported as installed."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    bench = importlib.import_module("bench_peers")
    installed = {"fastdqn": "0", "stable-baselines3": "2"}
    monkeypatch.setattr(bench.launch, "versions", lambda python, names: installed)
    return bench


@pytest.fixture
def rates(bench, monkeypatch):
    """Fake measurements: steps/s by peer, an error to raise, and the calls in order."""
    rates = {"fastdqn": 90.0, "sb3-1": 30.0, "sb3-8": 45.0, "calls": []}

    def measure(python, peer, workload, *, steps, threads, seed):
        rates["calls"].append((seed, workload, peer))
        if isinstance(rates[peer], BaseException):
            raise rates[peer]
        per = bench.WORKLOADS[workload].steps_per_update
        updates = round(steps / per * rates.get("updates", 1.0))
        return {
            "steps": steps, "updates": updates, "seconds": steps / rates[peer],
            "samples_per_step": updates * bench.WORKLOADS[workload].batch_size / steps,
            "steps_per_second": rates[peer], "cores_used": 1.0, "warmup_seconds": 2.0,
            "import_seconds": 1.0, "build_seconds": 0.5, "phase_seconds": None,
        }  # fmt: skip

    monkeypatch.setattr(bench.launch, "measure", measure)
    return rates


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--peers", "sb3"], "unknown peer 'sb3': did you mean sb3-"),
        (["--workloads", "E"], "unknown workload 'E'"),
        (["--python", "rejx=/bin/true"], "unknown peer 'rejx': did you mean rejax?"),
        (["--python", "rejax"], "--python is 'rejax': it must be PEER=PATH"),
        (["--python", "fastdqn=/none/python"], "/none/python: No such file or directory"),
        (["--python", "fastdqn=/bin/true"], "/bin/true is not a Python interpreter"),
        (["--repeats", "0"], "--repeats is 0: it must be at least 1"),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--fast"], "unexpected argument '--fast'"),
        (["--out", "/none/peers.json"], "--out /none/peers.json: No such file or directory"),
        (["--out", "/"], "--out / is a folder: give a file"),
        (["--peers", "rejax"], "nothing to measure"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(bench, rates, monkeypatch, capsys, words, line):
    if "fastdqn=" in words[-1]:
        monkeypatch.undo()  # looks for the interpreter
    assert bench.main(words) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
    assert rates["calls"] == []


def test_an_out_below_a_file_is_rejected(bench, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert bench.main(["--out", str(tmp_path / "file" / "peers.json")]) == 2
    assert "Not a directory" in capsys.readouterr().err


def test_missing_peers_are_named_and_the_others_take_turns(bench, rates, tmp_path, capsys):
    out = tmp_path / "peers.json"
    words = ["--repeats", "2", "--out", str(out), "--peers", "fastdqn", "sbx-8", "sb3-1", "rejax"]
    assert bench.main(words) == 0
    said = capsys.readouterr().out
    assert "sbx-8: left out, sbx-rl and jax not installed" in said
    assert "rejax: left out, rejax and gymnax and jax not installed" in said
    turn = [(name, peer) for name in "CD" for peer in ("fastdqn", "sb3-1")]
    assert rates["calls"] == [(seed, *key) for seed in (1, 2) for key in turn]
    record = json.loads(out.read_text())
    assert record["skipped"].keys() == {"sbx-8", "rejax"}
    assert record["header"].keys() >= {"machine", "versions", "threads", "command", "commit"}
    row = record["results"]["C"]["sb3-1"]
    assert row["steps_per_second"] == {"median": 30.0, "min": 30.0, "max": 30.0}
    assert row["fastdqn_ratio"] == row["fastdqn_cpu_ratio"] == 3.0
    assert row["samples_per_step"] == pytest.approx(12.8)
    assert record["results"]["D"]["fastdqn"]["samples_per_step"] == pytest.approx(8.0)
    assert "3.00 x" in said


def test_a_peer_without_a_package_needs_a_checkout(bench, rates, monkeypatch, tmp_path, capsys):
    names = (name for peer in bench.PEERS.values() for name in peer.distributions)
    installed = dict.fromkeys(names, "0")
    monkeypatch.setattr(bench.launch, "versions", lambda python, names: installed)
    words = ["--workloads", "C", "--peers", "fastdqn", "purejaxrl", "--repeats", "1"]
    monkeypatch.delenv("PUREJAXRL", raising=False)
    assert bench.main(words) == 0
    assert "purejaxrl: left out, PUREJAXRL names no checkout" in capsys.readouterr().out
    monkeypatch.setenv("PUREJAXRL", str(tmp_path))
    rates["purejaxrl"] = 60.0
    out = tmp_path / "peers.json"
    assert bench.main([*words, "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert record["results"]["C"]["purejaxrl"]["fastdqn_ratio"] == 1.5
    assert record["header"]["checkouts"] == {"purejaxrl": None}


def test_another_number_of_samples_per_step_is_a_problem(bench, rates, capsys):
    rates["updates"] = 0.9
    assert bench.main(["--workloads", "C", "--peers", "sb3-1"]) == 1
    assert "C sb3-1: 11.52 samples per step, not 12.80" in capsys.readouterr().out


def test_a_peer_that_fails_is_named_once_and_the_others_continue(bench, rates, tmp_path, capsys):
    rates["sb3-1"] = bench.launch.LaunchError("ValueError: boom")
    out = tmp_path / "peers.json"
    words = ["--workloads", "C", "--peers", "sb3-1", "fastdqn", "--out", str(out)]
    assert bench.main(words) == 1
    assert capsys.readouterr().out.count("C sb3-1: failed: ValueError: boom") == 1
    record = json.loads(out.read_text())
    assert record["failed"] == {"C sb3-1": "ValueError: boom"}
    assert len(record["results"]["C"]["fastdqn"]["repeats"]) == 3


def test_an_interrupted_run_keeps_the_old_results(bench, rates, tmp_path):
    out = tmp_path / "peers.json"
    out.write_text("old")
    rates["sb3-8"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        bench.main(["--peers", "fastdqn", "sb3-8", "--out", str(out)])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("peers.json", "old")]


def test_a_window_is_a_multiple_of_steps_and_updates_of_every_peer(bench):
    workloads = importlib.import_module("peers.workload")
    for peer in bench.PEERS.values():
        for name, (num_envs, burst) in peer.lanes.items():
            cycle = burst * bench.WORKLOADS[name].steps_per_update
            assert workloads.START_STEPS % cycle == workloads.ALIGNED_STEPS % cycle == 0
            assert workloads.ALIGNED_STEPS % num_envs == 0
            assert peer.module == "run_fastdqn" or cycle % num_envs == 0


def test_a_window_counts_from_its_first_tick_to_its_last(bench):
    now = iter([10.0, 14.0])
    window = importlib.import_module("peers.window").Window(
        100, 50, started=0.0, clock=lambda: next(now), cpu_clock=iter([1.0, 3.0]).__next__
    )
    ended = [window.tick(steps, steps // 10) for steps in range(0, 180, 20)]
    assert ended == [False] * 8 + [True]
    result = window.result()
    assert (result["steps"], result["updates"], result["seconds"]) == (60, 6, 4.0)
    assert (result["steps_per_second"], result["cores_used"]) == (15.0, 0.5)


@pytest.mark.slow
def test_fastdqn_is_measured_in_a_new_process(bench, monkeypatch, tmp_path, capsys):
    monkeypatch.undo()  # the real interpreter and measurement
    out = tmp_path / "peers.json"
    words = ["--workloads", "C", "--peers", "fastdqn", "--repeats", "1", "--steps", "1"]
    assert bench.main([*words, "--out", str(out)]) == 0, capsys.readouterr()
    row = json.loads(out.read_text())["results"]["C"]["fastdqn"]
    (repeat,) = row["repeats"]
    assert 640 <= repeat["steps"] < 640 + 64
    assert row["samples_per_step"] == pytest.approx(12.8, rel=0.15)  # a call's updates at the edge
    assert sum(repeat["phase_seconds"].values()) >= 0.9 * repeat["seconds"]
    assert sum(row["phase_shares"].values()) == pytest.approx(1.0)
    assert row["warmup_seconds"] > row["import_seconds"] > 0
