"""Profiles: timelines of a GPU without one, output files, and messages of torch."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._C._autograd import DeviceType

from fastdqn.bench import profile_calls, torch_profiler
from fastdqn.bench.repeats import Effort, Rate
from fastdqn.bench.roofline import Ceilings, Work
from fastdqn.bench.trace_reader import Timeline, read_timeline
from fastdqn.builders import devices
from fastdqn.cli.main import main
from fastdqn.config.schema import Config
from fastdqn.files.atomic_write import WriteError
from fastdqn.files.output_files import new_folder, write_together
from helpers.capture import FACTS, config_of
from helpers.compiler import needs_a_compiler, traced
from helpers.graphs import TracedRecorder


def event(name, start=0.0, end=0.0, gpu=False, parent=None, annotation=False):
    made = SimpleNamespace(
        name=name, time_range=SimpleNamespace(start=start, end=end), cpu_parent=parent,
        device_type=DeviceType.CUDA if gpu else DeviceType.CPU, cpu_children=[],
        is_user_annotation=annotation,
    )  # fmt: skip
    if parent is not None:
        parent.cpu_children.append(made)
    return made


def row(key, count, gpu=False, annotation=False, **times):
    zero = dict.fromkeys(
        ("self_device_time_total", "self_cpu_time_total", "device_time_total", "cpu_time_total",
         "self_cpu_memory_usage", "self_device_memory_usage"), 0,
    )  # fmt: skip
    kind = DeviceType.CUDA if gpu else DeviceType.CPU
    return SimpleNamespace(
        key=key, count=count, device_type=kind, is_user_annotation=annotation, **zero | times
    )


def recorded(events, rows):
    return SimpleNamespace(events=lambda: events, key_averages=lambda: rows)


# -- timeline


@pytest.fixture
def on_gpu() -> Timeline:
    """Two updates in 100 us, each with a product of 10 us and 64 bytes of GPU memory."""
    learn = event("learn", 0, 100)
    events = [learn, event("learn", 20, 90, gpu=True, annotation=True)]
    for start in (20, 80):
        event("aten::mm", start - 10, start, parent=learn)
        events += [*learn.cpu_children[-1:], event("gemm", start, start + 10, gpu=True)]
    rows = [
        row("aten::mm", 2, self_device_time_total=20, self_cpu_memory_usage=7,
            self_device_memory_usage=128),
        row("gemm", 2, gpu=True, self_device_time_total=20, device_time_total=20),
        row("learn", 1, gpu=True, annotation=True, self_device_time_total=70),
        row("learn", 1, self_cpu_time_total=80),
    ]  # fmt: skip
    return read_timeline(recorded(events, rows), "learn", 2, is_gpu=True)  # pyright: ignore[reportArgumentType]


def test_a_kernel_on_a_gpu_is_listed_once(on_gpu):
    (gemm,) = on_gpu.operators
    assert gemm == {
        "name": "gemm", "calls_per_call": 1.0, "self_microseconds_per_call": 10.0,
        "total_microseconds_per_call": 10.0, "share": 1.0,
    }  # fmt: skip
    assert on_gpu.launches == 1.0
    assert on_gpu.busy_seconds == pytest.approx(10e-6)


def test_allocations_of_a_gpu_are_those_of_its_memory(on_gpu):
    assert on_gpu.allocated == 64


def test_a_gpu_is_busy_by_the_time_of_a_call_without_a_profiler(on_gpu):
    # Recorded, a call took 50 us; without a profiler 12.5.
    share, gap = profile_calls.busy_share(on_gpu, 12.5e-6, is_gpu=True)
    assert (share, gap) == (pytest.approx(0.8), pytest.approx(2.5e-6))
    share, gap = profile_calls.busy_share(on_gpu, 12.5e-6, is_gpu=False)
    assert (share, gap) == (pytest.approx(0.2), pytest.approx(40e-6))


def test_launches_on_a_cpu_are_operators_that_compute():
    learn = event("learn", 0, 100)
    linear = event("aten::linear", parent=learn)
    view = event("aten::as_strided", parent=event("aten::t", parent=linear))
    product = event("aten::mm", parent=linear)
    conj = event("aten::resolve_conj", parent=product)
    empty = event("aten::empty", parent=learn)
    graph = event("## Call CompiledFxGraph f6i ##", parent=learn)
    kernel = event("graph_0_cpp_fused_add_mul_0", parent=graph)
    events = [learn, linear, view, product, conj, empty, graph, kernel, view.cpu_parent]
    timeline = read_timeline(recorded(events, []), "learn", 1, is_gpu=False)  # pyright: ignore[reportArgumentType]
    assert timeline.launches == 2  # the product, the compiled kernel


def loop_of_two_turns(mark_seconds=0.0) -> Timeline:
    """Two turns of 10 us each, with 2 us between them: 4 us of act, 5 us of learn with a kernel."""
    train = event("train", 0, 40)
    events = [train]
    for number, start in enumerate((5, 17)):
        turn = event(f"ProfilerStep#{number}", start, start + 10, parent=train)
        act = event("act", start, start + 4, parent=turn)
        learn = event("learn", start + 4, start + 9, parent=turn)
        kernel = event("fused update", start + 4, start + 8, parent=learn)
        events += [turn, act, learn, kernel, event("aten::abs", start, start + 1, parent=act)]
    rows = [
        row("ProfilerStep*", 2, self_cpu_time_total=2), row("act", 2, self_cpu_time_total=6),
        row("learn", 2, self_cpu_time_total=2), row("train", 1, self_cpu_time_total=9),
        row("fused update", 2, self_cpu_time_total=8, cpu_time_total=8),
    ]  # fmt: skip
    return read_timeline(recorded(events, rows), "train", 2, False, mark_seconds=mark_seconds)  # pyright: ignore[reportArgumentType]


def test_the_time_of_ranges_is_not_left_out_of_calls_that_are_as_short():
    timeline = loop_of_two_turns(mark_seconds=3e-6)  # 3 us around each of 2 steps and 4 phases
    assert timeline.attributed == pytest.approx(18 / 22)
    assert {row["name"]: row["share"] for row in timeline.phases}["learn"] == pytest.approx(10 / 22)


def test_no_share_exceeds_the_whole_time():
    for tenths in range(40):
        timeline = loop_of_two_turns(mark_seconds=tenths * 1e-7)
        assert timeline.attributed <= 1.0
        assert all(row["share"] <= 1.0 for row in timeline.phases)
        assert timeline.busy_seconds <= timeline.seconds


def test_time_in_no_phase_is_not_attributed():
    timeline = loop_of_two_turns()
    assert timeline.seconds == pytest.approx(11e-6)  # 22 us from the first turn to the last's end
    assert timeline.attributed == pytest.approx(18 / 22)
    assert loop_of_two_turns(0.5e-6).attributed == pytest.approx(18 / 19)  # 6 ranges, not nested
    shares = {row["name"]: (row["kind"], row["share"]) for row in timeline.phases}
    assert shares == {
        "learn": ("phase", pytest.approx(10 / 22)),
        "act": ("phase", pytest.approx(8 / 22)),
        "fused update": ("kernel", pytest.approx(8 / 22)),
    }


def test_phases_are_not_operators_and_kernels_are():
    timeline = loop_of_two_turns()
    assert [row["name"] for row in timeline.operators] == ["fused update"]
    assert timeline.busy_seconds == pytest.approx(5e-6)  # the kernel, and the operator in act
    assert timeline.launches == 2


# -- recording


class FakeProfile:
    def __init__(self, **_):
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")


@pytest.fixture
def fake_gpu(monkeypatch):
    """Fake GPU with 100 allocated bytes."""
    gpu = SimpleNamespace(peak=500, held=100)
    monkeypatch.setattr(torch_profiler, "profile", FakeProfile)
    monkeypatch.setattr(torch_profiler, "_mark_seconds", lambda device: 0.0)
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "reset_peak_memory_stats", lambda _: vars(gpu).update(peak=gpu.held))
    monkeypatch.setattr(cuda, "max_memory_allocated", lambda _: gpu.peak)
    monkeypatch.setattr(cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(cuda.nvtx, "range_push", lambda _: None)
    monkeypatch.setattr(cuda.nvtx, "range_pop", lambda: None)
    return gpu


def test_the_peak_of_memory_is_that_of_the_calls(fake_gpu):
    def run(begin, end) -> None:
        begin()
        fake_gpu.peak = 140
        end()

    recording = torch_profiler.record("learn", torch.device("cuda"), run)
    fake_gpu.peak = 1 << 40  # the ceilings, measured next
    assert recording.peak_bytes == 140


def test_a_profile_of_a_gpu_measures_the_ceilings_last(fake_gpu, monkeypatch, tmp_path):
    def ceilings(device, effort):
        fake_gpu.peak = 1 << 40
        return Ceilings(1e12, 1e12)

    def run(calls, begin, end) -> int:
        begin()
        fake_gpu.peak = 140
        end()
        return calls + 1  # as many as are launched at once

    timelines = [Timeline(10, launches, 9e-4, 2e-3, 64, []) for launches in (12, 0.25)]
    copies = [
        {"cat": "gpu_memcpy", "name": f"Memcpy {way} (Pinned -> Device)", "args": {"bytes": size}}
        for way, size in (("HtoD", 30), ("HtoD", 10), ("DtoH", 8), ("DtoD", 99))
    ]
    trace = json.dumps({"traceEvents": [*copies, {"cat": "kernel", "name": "HtoD"}]})
    monkeypatch.setattr(profile_calls, "measure_ceilings", ceilings)
    monkeypatch.setattr(profile_calls, "read_timeline", lambda *_: timelines.pop())
    monkeypatch.setattr(profile_calls, "describe_machine", lambda *_: {"device": "H100"})
    monkeypatch.setattr(profile_calls, "write_trace", lambda _, path: path.write_text(trace))
    rate = Rate(1e3, 1e3, 1e3, 1)
    subject = profile_calls.Subject(lambda _: rate, run, torch.device("cuda"), Work(1, 1), run)
    config = Config(threads=1)
    result = profile_calls._profile("learn", config, subject, 1, tmp_path, Effort())
    assert result["peak_bytes"] == 140
    assert result["busy_share"] == pytest.approx(0.9)
    assert result["verdict"] == "latency-bound"
    written = json.loads((tmp_path / "profile.json").read_text())
    assert (written["calls"], result["flops_per_second"]) == (2, pytest.approx(1e3))
    assert (written["bytes_to_device_per_call"], written["bytes_to_host_per_call"]) == (20, 4)
    said = list(map(str, profile_calls.profile_tables(result)))
    assert "busy 90 %, gaps 100.0 us, 64B allocated" in said[1]
    assert "arithmetic intensity 1 FLOP/B; ridge point 1 FLOP/B" in said
    launches = "0.25 launches by the host, 12 without capture; 20B to the device, 4B to the host"
    assert said[2] == launches


@pytest.mark.parametrize(
    ("attributed", "phases", "verdict"),
    [
        (0.89, {}, None),
        (0.9, {}, "overhead-bound"),
        (
            0.9,
            {"learn": 0.6, "env": 0.3, "act": 0.08},
            "the largest phases are learn 60 %, env 30 %",
        ),
        (0.99, {"learn": 0.5, "env": 0.3}, None),  # the plain clock did not see a fifth
        (0.89, {"learn": 0.6, "env": 0.4}, None),
    ],
)
def test_there_is_no_verdict_on_time_that_was_not_attributed(
    attributed, phases, verdict, tmp_path, monkeypatch
):
    recording = torch_profiler.Recorded(FakeProfile(), None)  # pyright: ignore[reportArgumentType]
    timeline = Timeline(1, 1, 1e-5, 1e-3, 0, [], (), attributed)
    monkeypatch.setattr(profile_calls, "_recorded", lambda *_: (recording, 1, timeline))
    monkeypatch.setattr(profile_calls, "measure_ceilings", lambda *_: Ceilings(1e12, 1e12))
    monkeypatch.setattr(profile_calls, "write_trace", lambda _, path: path.write_text("{}"))
    rate, device = Rate(1e3, 1e3, 1e3, 1), torch.device("cpu")
    subject = profile_calls.Subject(lambda _: rate, lambda *_: 1, device, None, phases=phases)
    result = profile_calls._profile("x", Config(threads=1), subject, 1, tmp_path, Effort())
    assert result["verdict"] == verdict
    lines = list(map(str, profile_calls.profile_tables({**result, "what": "train"})))
    (said,) = [line for line in lines if line.startswith("verdict: ")]
    assert (
        said == f"verdict: {verdict}" if verdict else said.startswith("verdict: none, since only")
    )
    following = "next: fastdqn profile --what learn with the same options"
    assert (lines[-1] == following) == (verdict is not None and "learn" in phases)


def test_a_graph_is_one_launch_by_the_host(on_gpu):
    assert on_gpu.host_launches == 0
    learn = event("learn", 0, 100)
    events = [learn, event("cudaGraphLaunch", parent=learn), event("cudaMemcpyAsync", parent=learn)]
    events += [event("cudaEventRecord", parent=learn), event("cudaStreamWaitEvent", parent=learn)]
    events += [event("gemm", start, start + 1, gpu=True) for start in range(20)]
    timeline = read_timeline(recorded(events, []), "learn", 1, is_gpu=True)  # pyright: ignore[reportArgumentType]
    assert (timeline.launches, timeline.host_launches) == (20, 2)


@pytest.mark.slow
def test_only_lines_of_the_profiler_are_suppressed(capfd):
    def run(begin, end) -> None:
        begin()
        torch.ones(8).sum()
        os.write(2, b"somebody else\n")
        end()

    torch_profiler.record("learn", torch.device("cpu"), run)
    assert capfd.readouterr().err == "somebody else\n"


def test_an_incomplete_trace_is_an_error(tmp_path):
    path = tmp_path / "trace.json"
    for export in (lambda path: None, lambda path: Path(path).write_text('{"traceEvents": [')):
        with pytest.raises(OSError, match="incomplete trace"):
            torch_profiler.write_trace(SimpleNamespace(export_chrome_trace=export), path)  # pyright: ignore[reportArgumentType]


# -- files


def full(path: Path) -> None:
    path.write_text("half")
    path.with_name("beside").touch()
    raise OSError(28, "No space left on device")


def test_files_are_written_together_or_the_old_ones_stay(tmp_path):
    (tmp_path / "a").write_text("old")
    writers = {"a": lambda path: path.write_text("new"), "b": full}
    with pytest.raises(WriteError, match=r"cannot write .*b: No space left on device; [\d,]+ byte"):
        write_together(tmp_path, writers)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]
    write_together(tmp_path, {**writers, "b": lambda path: path.write_text("too")})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "b": "too"}


def test_new_folders_are_removed_after_a_failure(tmp_path):
    with pytest.raises(KeyError), new_folder(tmp_path / "x" / "y" / "z"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "x" / "y"):
        pass
    assert (tmp_path / "x" / "y").is_dir()
    (tmp_path / "file").touch()
    with (
        pytest.raises(WriteError, match="cannot create the folder"),
        new_folder(tmp_path / "file/x"),
    ):
        pass


@pytest.mark.slow
@pytest.mark.usefixtures("short_profiles")
@pytest.mark.parametrize(
    ("place", "code"), [("link", 2), ("in/link", 2), ("full/new", 1), ("x" * 300, 2)]
)
def test_a_profile_that_cannot_be_written_is_a_one_line_error(
    place, code, tmp_path, monkeypatch, capsys
):
    (tmp_path / "in" / "link").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in" / "link" / "profile.json").symlink_to(tmp_path / "nowhere")

    def cut(recorded, path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(profile_calls, "write_trace", cut)
    words = ["profile", "cartpole", "--updates", "1", "--out", str(tmp_path / place)]
    assert main(words) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "link"]
    assert [path.name for path in (tmp_path / "in" / "link").iterdir()] == ["profile.json"]


def test_rows_that_cannot_be_written_are_a_one_line_error(tmp_path, monkeypatch, capsys):
    def cut(fd, data) -> int:
        raise OSError(28, "No space left on device")

    (tmp_path / "old").write_text('{"a": 1}\n')
    words = "bench act cartpole --num-envs 4 --seconds 0.001 --repeats 1 --format csv --out"
    for name in ("new", "old"):
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", cut)
            assert main([*words.split(), str(tmp_path / name)]) == 1
        said = capsys.readouterr()
        (line,) = [line for line in said.err.splitlines() if "No space left" in line]
        assert line.startswith(f"error: cannot write {tmp_path / name}: ")
        assert "act_actions" in said.out  # the results are not lost
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == '{"a": 1}\n'


@pytest.mark.slow
@needs_a_compiler
def test_a_profile_of_compiled_code_counts_its_kernels():
    x = torch.ones(8, 8)
    call = torch.compile(lambda x: (x @ x + 1.0).relu().sum(), dynamic=False)

    def run(begin, end) -> None:
        begin()
        call(x)
        end()

    with profile_calls._visible_kernels("compile"):
        call(x)
        recorded = torch_profiler.record("learn", torch.device("cpu"), run)
    timeline = read_timeline(recorded.profile, "learn", 1, is_gpu=False)
    names = [row["name"] for row in timeline.operators]
    assert any("cpp_fused" in name for name in names)
    counted = [
        row["calls_per_call"]
        for row in timeline.operators
        if "cpp_fused" in row["name"] or row["name"] in ("aten::mm", "aten::addmm")
    ]
    assert timeline.launches >= sum(counted) >= 2


@pytest.mark.slow
@pytest.mark.usefixtures("short_profiles")
def test_compiled_updates_are_profiled(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "compiled", traced)
    words = f"profile cartpole --capture compile --updates 2 --hidden-sizes 8 --out {tmp_path}"
    assert main(words.split()) == 0
    result = json.loads((tmp_path / "profile.json").read_text())
    assert (result["capture"], result["learner"]) == ("compile", "torch")
    assert result["launches_per_call"] > 20


@pytest.mark.slow
def test_the_flops_of_captured_acting_are_those_of_one_call(monkeypatch):
    monkeypatch.setattr(devices, "CudaRecorder", lambda device: TracedRecorder())
    counted = []
    for capture in ("eager", "graph"):
        with profile_calls._act(config_of(capture=capture, num_envs=4), FACTS) as subject:
            assert subject.work is not None
            counted.append(subject.work.flops)
    assert counted[0] == counted[1] > 0
