"""The GPU suite: rows that survive cuts, time limits, and every part without a GPU."""

import importlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from helpers.simulated_cuda import simulated_cuda

ROOT = Path(__file__).parents[2]
SUITE = ROOT / "benchmarks" / "gpu_suite.py"
# Packages of the machine with a GPU, with those that they need.
INSTALLED = (
    "torch", "torchgen", "functorch", "triton", "sympy", "mpmath", "networkx", "filelock", "fsspec",
    "typing_extensions", "setuptools", "_distutils_hack", "numpy", "numba", "llvmlite", "rich",
    "markdown_it", "mdurl", "pygments", "safetensors", "pytest", "_pytest", "py", "pluggy",
    "iniconfig", "packaging", "ale_py", "gymnasium", "farama_notifications", "tyro", "typeguard",
    "docstring_parser",
)  # fmt: skip
# Makes every other package that is installed here look absent, with its metadata.
HIDE_OTHERS = """
    import sys

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            found = FILES.find_spec(name, path, target)
            top, origin = name.partition(".")[0], str(getattr(found, "origin", ""))
            is_other = "site-packages" in origin and top not in INSTALLED
            return None if is_other else found

        @staticmethod
        def find_distributions(context):
            name = str(context.name).replace("-", "_").lower()
            return FILES.find_distributions(context) if name in INSTALLED else ()

    FILES = next(each for each in sys.meta_path if getattr(each, "__name__", "") == "PathFinder")
    sys.meta_path[sys.meta_path.index(FILES)] = Finder
"""
# Values of options that this version may not know yet.
COMING = ("compile-graph", "device")


@pytest.fixture
def modules(monkeypatch):
    """Imports the modules of the suite."""
    monkeypatch.syspath_prepend(str(SUITE.parent))
    return importlib.import_module


@pytest.fixture
def suite(modules):
    return modules("gpu_suite")


@pytest.fixture
def bench(modules, tmp_path):
    gpu_rows = modules("gpu_rows")
    out = tmp_path / "out"
    out.mkdir()
    rows = gpu_rows.Rows(out)
    yield gpu_rows.Bench("cpu", True, rows, tmp_path, out, "micro")
    rows.close()


def rows_of(folder: Path) -> list[dict]:
    """Returns the rows, all of whose lines must be whole, except for the last one."""
    *lines, _ = (folder / "results.jsonl").read_text().split("\n")
    return [json.loads(line) for line in lines if line]


def cell(modules, name, run=lambda bench: {"us": 1.0}):
    return modules("gpu_rows").Cell(name, run)


def test_a_torn_last_line_costs_only_its_own_row(modules, tmp_path):
    gpu_rows = modules("gpu_rows")
    first = gpu_rows.Rows(tmp_path)
    first.append("micro", "one", 1.0)
    first.close()
    with open(first.path, "a") as file:
        file.write('{"part": "micro", "cell": "tw')
    again = gpu_rows.Rows(tmp_path)
    again.append("micro", "three", 3.0)
    again.close()
    assert [row["cell"] for row in gpu_rows.read_rows(first.path)] == ["one", "three"]


def test_a_cell_that_was_skipped_or_out_of_time_is_repeated(bench):
    bench.rows.append("micro", "failed", 1.0, error="ValueError")
    bench.rows.append("micro", "skipped", 1.0, skipped="no ale_py")
    bench.rows.append("micro", "slow", 1.0, error="too long", out_of_time=True)
    had = [name for name in ("failed", "skipped", "slow") if bench.rows.has("micro", name)]
    assert had == ["failed"]


def test_a_row_is_synchronized_to_the_disk_before_the_next_cell(bench, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(len(rows_of(bench.out))))
    bench.rows.append("micro", "one", 1.0)
    bench.rows.append("micro", "two", 1.0)
    assert synced == [1, 2]


@pytest.mark.parametrize(
    "error", [ValueError("odd"), torch.OutOfMemoryError("odd"), MemoryError("odd"), SystemExit(2)]
)
def test_a_cell_that_fails_leaves_its_traceback_and_the_next_one_runs(modules, suite, bench, error):
    def fail(bench):
        raise error

    cells = [cell(modules, "first", fail), cell(modules, "second")]
    suite.run_part(bench, cells, time.monotonic() + 60)
    failed, fine = rows_of(bench.out)
    assert failed["error"].startswith("Traceback")
    assert type(error).__name__ in failed["error"]
    assert str(ROOT) not in failed["error"]
    assert fine.items() >= {"part": "micro", "cell": "second", "figures": {"us": 1.0}}.items()


def test_a_cell_that_hangs_ends_at_its_limit_even_if_it_catches_exceptions(modules, suite, bench):
    def hang(bench):
        try:
            time.sleep(60)
        except Exception:
            time.sleep(60)

    suite.run_cell(bench, cell(modules, "hangs", hang), 0.05)
    (row,) = rows_of(bench.out)
    assert row["out_of_time"]
    assert "it took longer than 0.1 s" in row["error"]
    assert row["seconds"] < 5


def test_a_part_without_time_names_the_cells_that_are_left(modules, suite, bench):
    suite.run_part(bench, [cell(modules, "one"), cell(modules, "two")], time.monotonic())
    (row,) = rows_of(bench.out)
    assert (row["cell"], row["no_time_for"]) == (None, ["one", "two"])


def test_a_later_part_has_the_time_that_earlier_ones_left(modules, suite, bench, monkeypatch):
    limits = {}
    monkeypatch.setattr(
        suite, "run_part", lambda bench, cells, until: limits.update({bench.part: until})
    )
    for name in ("gpu_cells", "gpu_runs"):
        parts = modules(name).PARTS
        monkeypatch.setattr(modules(name), "PARTS", dict.fromkeys(parts, lambda bench: []))
    began = time.monotonic()
    suite.run_parts(bench, list(suite.SHARES), began + 720)
    seconds = {name: until - began for name, until in limits.items()}
    assert seconds["tests"] == pytest.approx(120, abs=5)
    assert seconds["resume"] == pytest.approx(45 * 720 / 600, abs=5)  # nothing was spent
    assert seconds["pong"] == pytest.approx(720, abs=5)
    assert list(limits) == list(suite.SHARES)


def test_a_part_that_cannot_be_listed_leaves_a_row(modules, suite, bench, monkeypatch):
    def fail(bench):
        raise ValueError("no list")

    monkeypatch.setitem(modules("gpu_cells").PARTS, "micro", fail)
    suite.run_parts(bench, ["micro"], time.monotonic() + 60)
    machine, row = rows_of(bench.out)
    assert machine["part"] == "machine"
    assert machine["figures"].keys() >= {"processor", "cores", "packages", "device"}
    assert str(ROOT) not in json.dumps(machine)
    assert row["error"].endswith("ValueError: no list")


def test_a_cell_with_a_row_is_not_run_again(modules, suite, bench):
    ran = []
    cells = [cell(modules, name, lambda bench: ran.append(1) or {}) for name in ("one", "two")]
    bench.rows.append("micro", "one", 1.0, figures={})
    suite.run_part(bench, cells, time.monotonic() + 60)
    assert len(ran) == 1


def test_an_option_that_this_version_does_not_know_is_an_error_of_its_cell(
    modules, suite, bench, monkeypatch
):
    gpu_cells = modules("gpu_cells")
    monkeypatch.setitem(gpu_cells.WAYS, "eager", {"capture": "later"})
    (own,) = [
        each for each in gpu_cells.update_cells(bench) if each.name == "rainbow, batch 32, eager"
    ]
    suite.run_cell(bench, own, 60)
    (row,) = rows_of(bench.out)
    assert "capture is 'later': it must be one of" in row["error"]
    assert row["settings"]["capture"] == "later"


def test_every_way_and_network_has_its_cells_and_no_name_is_used_twice(modules, bench):
    gpu_cells = modules("gpu_cells")
    names = [each.name for each in gpu_cells.update_cells(bench)]
    assert len(set(names)) == len(names)
    expected = {f"nature, batch {size}, {way}" for size in (32, 256, 512) for way in gpu_cells.WAYS}
    expected |= {f"nature, batch {size}, graph, sampled from device" for size in (32, 256, 512)}
    assert expected < set(names)
    for part in ("kernels", "micro"):
        own = [each.name for each in gpu_cells.PARTS[part](bench)]
        assert len(set(own)) == len(own)


def test_without_ale_py_the_row_says_why(modules, suite, bench, monkeypatch):
    gpu_runs = modules("gpu_runs")
    monkeypatch.setattr(gpu_runs.importlib.util, "find_spec", lambda name: None)
    bench.part = "pong"
    suite.run_part(bench, gpu_runs.pong_cells(bench), time.monotonic() + 60)
    (row,) = rows_of(bench.out)
    assert row["skipped"] == "ale_py is not installed: pip install ale-py"


def test_kernels_are_listed_with_the_gaps_within_a_launch(modules):
    def event(name, start, took, launch, cat="kernel"):
        return {
            "ph": "X", "cat": cat, "name": name, "ts": start, "dur": took,
            "args": {"correlation": launch},
        }  # fmt: skip

    events = [
        event("copy", 0, 4, 1, "gpu_memcpy"), event("matmul", 6, 10, 1), event("matmul", 15, 5, 1),
        event("copy", 50, 4, 2, "gpu_memcpy"), event("matmul", 57, 13, 2),
        event("cudaGraphLaunch", 0, 90, 1, "cuda_runtime"),
    ]  # fmt: skip
    listed = modules("gpu_cells").kernel_list(events, 2, ("kernel", "gpu_memcpy"))
    matmul, copy = listed.pop("kernels")
    assert listed == {
        "updates": 2, "kernels_per_update": 2.5, "busy_us": 17.5, "gap_us": 2.5,
        "between_launches_us": 15.0,
    }  # fmt: skip
    assert matmul == {
        "name": "matmul",
        "count": 1.5,
        "us": 14.0,
        "share": 28 / 36,
        "gap_before_us": 2.5,
    }
    assert (copy["us"], copy["gap_before_us"]) == (4.0, 0.0)


def test_a_trace_without_kernels_is_an_error(modules):
    with pytest.raises(ValueError, match="no events of the kinds kernel"):
        modules("gpu_cells").kernel_list([{"cat": "cpu_op", "ph": "X"}], 1, ("kernel",))


def test_a_test_has_a_row_with_its_outcome_and_is_not_repeated(modules, tmp_path, bench):
    gpu_tests = modules("gpu_tests")
    file = tmp_path / "test_them.py"
    file.write_text(
        textwrap.dedent("""
        import time, pytest
        def test_known(): pass
        def test_fine(): pass
        def test_odd(): assert 1 == 2
        def test_hangs(): time.sleep(60)
        @pytest.mark.skip
        def test_skipped(): pass
        """)
    )
    words = ["-q", "-c", os.devnull, "--noconftest", "-p", "no:cacheprovider", "-p", "no:xdist"]
    bench.rows.append("tests", "test_known", 1.0)
    pytest.main([*words, str(file)], plugins=[gpu_tests.Recorder(bench.rows, 0.05)])
    rows = {row["cell"]: row for row in rows_of(bench.out)}
    assert [row["cell"] for row in rows_of(bench.out)] == [
        "test_known", "test_fine", "test_odd", "test_hangs", "test_skipped"
    ]  # fmt: skip
    assert rows["test_fine"]["figures"] == {"outcome": "passed", "when": "call"}
    assert "assert 1 == 2" in rows["test_odd"]["error"]
    assert "OutOfTimeError" in rows["test_hangs"]["error"]
    assert rows["test_skipped"]["figures"]["outcome"] == "skipped"


def test_a_pytest_that_runs_no_test_is_an_error(modules, suite, bench, monkeypatch, tmp_path):
    gpu_runs, bench.part = modules("gpu_runs"), "tests"
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho No module named pytest >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(gpu_runs.sys, "executable", str(program))
    suite.run_part(bench, gpu_runs.test_cells(bench), time.monotonic() + 60)
    (row,) = rows_of(bench.out)
    assert row["error"].endswith("pytest ended with exit code 1: No module named pytest")


def supervise(suite, monkeypatch, tmp_path, worker: str, *words: str) -> Path:
    """Runs the supervisor with a script in place of the process of the parts."""
    script, out = tmp_path / "worker.py", tmp_path / "out"
    script.write_text(textwrap.dedent(worker))
    monkeypatch.setattr(suite, "__file__", str(script))
    monkeypatch.setattr(suite, "_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(sys, "argv", ["gpu_suite.py", "--out", str(out), *words])
    before = signal.getsignal(signal.SIGTERM)
    try:
        suite.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    return out


START = """
    import json, os, signal, sys, time
    folder, until = sys.argv[-2:]
    out = sys.argv[sys.argv.index("--out") + 1]
    def begin(cell, seconds):
        entry = {"part": "micro", "cell": cell, "began": time.monotonic(),
                 "until": time.monotonic() + seconds}
        with open(folder + "/current.json", "w") as file:
            file.write(json.dumps(entry))
    done = open(out + "/results.jsonl").read()
"""


def test_a_cell_that_ends_the_process_has_a_row_and_the_suite_goes_on(suite, monkeypatch, tmp_path):
    worker = START + """
    if "crash" not in done:
        begin("crash", 60)
        print("Fatal Python error", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hang" not in done:
        begin("hang", 0.0)
        time.sleep(60)
    """  # fmt: skip
    crash, hang = rows_of(supervise(suite, monkeypatch, tmp_path, worker))
    assert crash["error"] == "Fatal Python error\n\nthe process ended with signal 11"
    assert (hang["cell"], hang["error"]) == ("hang", "the process ended with signal 9")


def test_sigterm_ends_the_process_of_the_parts_and_removes_its_folder(tmp_path):
    worker, out = tmp_path / "worker.py", tmp_path / "out"
    worker.write_text("import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    program = f"""
        import sys
        sys.path.insert(0, {str(SUITE.parent)!r})
        import gpu_suite
        gpu_suite.__file__ = {str(worker)!r}
        gpu_suite.main()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), "--out", str(out)],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.terminate()
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert not Path(f"/proc/{pid}").exists()
    assert list(tmp_path.glob("gpu-suite-*")) == []


def test_a_process_that_fails_before_its_first_cell_ends_the_suite(
    suite, monkeypatch, tmp_path, capfd
):
    with pytest.raises(SystemExit) as stopped:
        supervise(suite, monkeypatch, tmp_path, "raise ImportError('no torch')")
    assert stopped.value.code == 1
    (row,) = rows_of(tmp_path / "out")
    assert row["part"] == "start"
    assert "ImportError: no torch" in row["error"]
    assert "ImportError: no torch" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--minutes", "0"], "argument --minutes: '0': it must be a number above 0, at most 600"),
        (["--minutes", "x"], "argument --minutes: 'x': it must be a number above 0, at most 600"),
        (["--dry-run"], "has rows of another device than the CPU: give another folder"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    suite, monkeypatch, tmp_path, bench, capsys, words, line
):
    bench.rows.append("machine", None, 0.0, dry_run=False)
    with pytest.raises(SystemExit) as stopped:
        supervise(suite, monkeypatch, tmp_path, "", *words)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.strip().endswith(line)


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_every_finished_row(modules, tmp_path):
    gpu_rows = modules("gpu_rows")
    program = f"""
        import sys
        sys.path.insert(0, {str(SUITE.parent)!r})
        import pathlib, gpu_rows
        rows = gpu_rows.Rows(pathlib.Path({str(tmp_path)!r}))
        number = len(rows.had)
        while True:
            rows.append("micro", str(number), 1.0, figures={{"text": "x" * 5000}})
            print(number, flush=True)
            number += 1
    """
    times, count = random.Random(0), 0
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.1 * times.random())
        process.kill()
        told = process.communicate()[0].split()
        count = int(told[-1]) + 1 if told else count + 1
        kept = gpu_rows.read_rows(tmp_path / "results.jsonl")
        assert [row["cell"] for row in kept][:count] == list(map(str, range(count)))


@pytest.mark.slow
def test_a_function_that_was_not_compiled_is_an_error(modules):
    really_compiled = modules("gpu_cells").really_compiled

    def compiled():
        return torch.compile(lambda x: (x + 1).sum(), dynamic=False, backend="aot_eager")

    figures = {}
    with really_compiled(figures):
        compiled()(torch.ones(3))
    assert figures == {"graphs": 1, "graph_breaks": 0}
    function = compiled()
    with pytest.raises(RuntimeError, match="fell back to eager: 8 of 9"), really_compiled({}):
        [function(torch.ones(size)) for size in range(1, 12)]
    with pytest.raises(RuntimeError, match="0 graphs"), really_compiled({}):
        torch.ones(3).sum()


@pytest.mark.slow
def test_every_part_runs_on_a_simulated_device(modules, suite, bench, monkeypatch):
    from fastdqn.bench import learner_speed, torch_profiler

    profile = torch_profiler.profile
    monkeypatch.setattr(
        torch_profiler,
        "profile",
        lambda activities, **more: profile(activities=activities[:1], **more),
    )
    monkeypatch.setattr(learner_speed, "_BETWEEN_EVENTS", 2)
    gpu_cells = modules("gpu_cells")
    monkeypatch.setattr(gpu_cells, "BATCH_SIZES", (32,))
    monkeypatch.setitem(gpu_cells.PARTS, "update", uncompiled)
    monkeypatch.setattr(modules("gpu_runs"), "kill_run", stopped_run)
    monkeypatch.setattr(suite.gc, "collect", lambda: 0)  # 0.2 s per cell here
    threads = torch.get_num_threads()
    with simulated_cuda() as machine:
        bench.device = "cuda"
        suite.run_parts(
            bench, ["resume", "update", "kernels", "micro", "atari"], time.monotonic() + 600
        )
    torch.set_num_threads(threads)
    assert machine.problems == []
    assert machine.counts["captures"] > 20
    failed = [row for row in unexpected(rows_of(bench.out)) if row["part"] != "kernels"]
    assert failed == []
    by_cell = {row["cell"]: row for row in rows_of(bench.out)}
    assert by_cell["nature, batch 32, graph"]["error"].endswith("kernel, gpu_memcpy, gpu_memset")
    assert by_cell["Adam, graph"]["figures"]["device_us"] > 0


def uncompiled(bench) -> list:
    """Returns the cells of updates without those that compile, which a simulated device cannot."""
    import gpu_cells  # pyright: ignore[reportMissingImports]

    return [each for each in gpu_cells.update_cells(bench) if "compile" not in each.name]


def stopped_run(bench, folder) -> int:
    """In place of a run that is killed: processes have no simulated device."""
    import fastdqn

    run = fastdqn.train(
        "cartpole", total_timesteps=2_000, device=bench.device, learner="torch", threads=1,
        stop_at_return=None, eval_frequency=0, final_evaluation=False, run_dir=str(folder),
        on_step=lambda progress, step: progress.steps < 1_200,
    )  # fmt: skip
    return run.summary["total_steps"]


def unexpected(rows: list[dict]) -> list[dict]:
    """Returns the rows with an error, without those of options that are coming."""
    return [
        row for row in rows
        if "error" in row and not any(f"is '{each}': it must be" in row["error"] for each in COMING)
    ]  # fmt: skip


@pytest.mark.slow
def test_a_dry_run_with_few_packages_is_killed_and_continues(tmp_path):
    hidden, out = tmp_path / "hidden", tmp_path / "out"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        f"INSTALLED = {INSTALLED}\n{textwrap.dedent(HIDE_OTHERS)}"
    )
    words = [sys.executable, str(SUITE), "--minutes", "12", "--dry-run", "--out", str(out)]
    env = os.environ | {"PYTHONPATH": str(hidden), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL)
    while not any(row["part"] == "update" for row in rows_of_file(out)):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    time.sleep(0.1)
    earlier = rows_of(out)
    time.sleep(0.5)
    assert rows_of(out) == earlier  # its process of the parts has ended, too
    again = subprocess.run(words, env=env, stdout=subprocess.PIPE, text=True)
    assert again.returncode == 0
    rows = rows_of(out)
    assert rows[: len(earlier)] == earlier
    assert unexpected(rows) == []
    timed = [row for row in rows if not str(row["cell"]).startswith("after")]
    finished = [(row["part"], row["cell"]) for row in timed]
    assert len(set(finished)) == len(finished)
    assert list(dict.fromkeys(row["part"] for row in rows)) == [
        "machine", "tests", "resume", "update", "kernels", "micro", "atari", "pong"
    ]  # fmt: skip
    (tests,) = (row["figures"] for row in rows if row["cell"] == "pytest")
    assert tests["skipped"] > 40  # without a device
    assert len(list(out.iterdir())) <= 6


def rows_of_file(folder: Path) -> list[dict]:
    return rows_of(folder) if (folder / "results.jsonl").exists() else []
